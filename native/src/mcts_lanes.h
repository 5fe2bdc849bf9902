// Four floats, lane by lane: what every x86-64 and arm64 processor has.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>

namespace native {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr int kLanes = 4;
typedef float Floats __attribute__((vector_size(kLanes * sizeof(float))));
typedef std::int32_t Ints __attribute__((vector_size(kLanes * sizeof(float))));

inline Floats load(const float* from) {
    Floats values;
    std::memcpy(&values, from, sizeof values);
    return values;
}
inline void store(float* to, Floats values) { std::memcpy(to, &values, sizeof values); }

inline Floats all(float value) { return Floats{value, value, value, value}; }
inline Floats least(Floats a, Floats b) { return a < b ? a : b; }
inline Floats most(Floats a, Floats b) { return a > b ? a : b; }
// The lanes taken together, in every lane.
inline Floats swap_pairs(Floats v) { return __builtin_shuffle(v, Ints{2, 3, 0, 1}); }
inline Floats swap_lanes(Floats v) { return __builtin_shuffle(v, Ints{1, 0, 3, 2}); }
inline Floats least(Floats v) {
    v = least(v, swap_pairs(v));
    return least(v, swap_lanes(v));
}
inline Floats most(Floats v) {
    v = most(v, swap_pairs(v));
    return most(v, swap_lanes(v));
}
inline Floats sum(Floats v) {
    v = v + swap_pairs(v);
    return v + swap_lanes(v);
}

// e^x for x <= 0 within two units in the last place, 0 below -87 (Cephes' expf: a polynomial of degree 7
// around multiples of ln 2).
inline Floats exponential(Floats x) {
    const Floats inside = most(x, all(-87.0f));
    const Floats turns = (inside * 1.44269504f + 12582912.0f) - 12582912.0f;  // rounded to an integer
    const Floats r = (inside - turns * 0.693359375f) - turns * -2.12194440e-4f;
    Floats y = all(1.9875691500e-4f);
    for (const float c :
         {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
        y = y * r + c;
    y = y * r * r + r + 1.0f;
    const Ints power = (__builtin_convertvector(turns, Ints) + 127) << 23;
    Floats scale;
    std::memcpy(&scale, &power, sizeof scale);
    return x < -87.0f ? all(0.0f) : y * scale;
}

// Probabilities of logits, in place; those that are -inf become `none`. One at least is finite.
inline void softmax(float* logits, int lanes, float none) {
    Floats high = all(-kInfinity), total = all(0.0f);
    for (int i = 0; i < lanes; i += kLanes) high = most(high, load(logits + i));
    const Floats shift = most(high);
    for (int i = 0; i < lanes; i += kLanes) {
        const Floats x = load(logits + i), y = exponential(x - shift);
        total += y;
        store(logits + i, x > -kInfinity ? y : all(none));
    }
    const Floats share = 1.0f / sum(total);
    for (int i = 0; i < lanes; i += kLanes) store(logits + i, load(logits + i) * share);
}

// The index of the largest score, the first of equals.
class ArgMax {
  public:
    void add(int first, Floats scores) {
        const Ints index = Ints{0, 1, 2, 3} + first;
        const auto better = scores > score_;
        score_ = better ? scores : score_;
        index_ = better ? index : index_;
    }
    int index() const {
        Ints found = score_ == most(score_) ? index_ : Ints{kNone, kNone, kNone, kNone};
        const auto smaller = [](Ints a, Ints b) { return a < b ? a : b; };
        found = smaller(found, __builtin_shuffle(found, Ints{2, 3, 0, 1}));
        return smaller(found, __builtin_shuffle(found, Ints{1, 0, 3, 2}))[0];
    }

  private:
    static constexpr std::int32_t kNone = std::numeric_limits<std::int32_t>::max();
    Floats score_ = all(-kInfinity);
    Ints index_ = {0, 0, 0, 0};
};

}  // namespace native
