// The random numbers of a tree search: a function of the root's seed, their purpose and their place.
#pragma once

#include <cmath>
#include <cstdint>

#include "native/rng.h"

namespace native {

enum class Purpose : std::uint32_t { kDirichlet = 0, kGumbel = 1, kActions = 2 };

// Numbers in (0, 1) for one root, purpose and place: an action of the root, or a node.
class Uniforms {
  public:
    Uniforms(std::uint64_t seed, Purpose purpose, int place)
        : seed_(seed),
          purpose_(static_cast<std::uint32_t>(purpose)),
          place_(static_cast<std::uint32_t>(place)) {}
    double next() {
        const Philox4x32 words = philox4x32({draw_++, place_, purpose_, 0}, seed_);
        return (static_cast<double>(words[0]) + 0.5) * 0x1p-32;
    }
    double normal() {  // Box and Muller 1958
        const double radius = std::sqrt(-2.0 * std::log(next()));
        return radius * std::cos(6.283185307179586476925 * next());
    }
    // Gamma(alpha, 1) of Marsaglia and Tsang 2000, "A simple method for generating gamma variables".
    double gamma(double alpha) {
        if (alpha < 1.0) {
            const double boost = std::pow(next(), 1.0 / alpha);
            return gamma(alpha + 1.0) * boost;
        }
        const double d = alpha - 1.0 / 3.0, c = 1.0 / std::sqrt(9.0 * d);
        while (true) {
            const double x = normal();
            const double v = std::pow(1.0 + c * x, 3.0);
            if (v > 0.0 && std::log(next()) < 0.5 * x * x + d - d * v + d * std::log(v)) return d * v;
        }
    }
    double gumbel() { return -std::log(-std::log(next())); }

  private:
    std::uint64_t seed_;
    std::uint32_t purpose_, place_, draw_ = 0;
};

}  // namespace native
