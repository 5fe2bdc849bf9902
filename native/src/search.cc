#include "native/search.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>
#include <utility>

#include "require.h"

namespace native {
namespace {

constexpr uint32_t kNoiseCandidate = 0xFFFFFFFF;  // candidate index of the model's noise
constexpr double kTwoPi = 6.283185307179586476925;

// Two independent standard normal numbers from two random words (Box and Muller 1958).
void normal_pair(uint32_t radius_word, uint32_t angle_word, float* out) {
    const float u = static_cast<float>((radius_word >> 8) + 1) * 0x1p-24f;  // (0, 1]
    const float angle = static_cast<float>(angle_word >> 8) * static_cast<float>(kTwoPi * 0x1p-24);
    const float radius = std::sqrt(-2.0f * std::log(u));
    out[0] = radius * std::cos(angle);
    out[1] = radius * std::sin(angle);
}

// Entry [j, t] is the weight of white number j in coloured number t: the real Fourier basis with amplitudes
// frequency^(-beta/2), frequency 0 taken as 1/H (Timmer and Koenig 1995). Each column has norm 1.
std::vector<float> colour_matrix(int horizon, double beta) {
    std::vector<double> amplitude(horizon);
    double power = 0.0;
    for (int j = 0; j < horizon; ++j) {
        const double frequency = std::max(1, (j + 1) / 2) / static_cast<double>(horizon);
        amplitude[j] = std::pow(frequency, -0.5 * beta);
        power += amplitude[j] * amplitude[j];
    }
    std::vector<float> matrix(static_cast<size_t>(horizon) * horizon);
    for (int t = 0; t < horizon; ++t) {
        for (int j = 0; j < horizon; ++j) {
            const double phase = kTwoPi * ((j + 1) / 2) * t / horizon;
            const bool paired = j > 0 && (horizon % 2 == 1 || j < horizon - 1);  // not the mean, not Nyquist
            const double basis =
                paired ? std::sqrt(2.0) * (j % 2 ? std::cos(phase) : std::sin(phase)) : std::cos(phase);
            matrix[static_cast<size_t>(j) * horizon + t] =
                static_cast<float>(basis * amplitude[j] / std::sqrt(power));
        }
    }
    return matrix;
}

void require_size(const char* name, size_t actual, size_t expected) {
    if (actual != expected) {
        throw std::invalid_argument(std::string(name) + " has " + std::to_string(actual) +
                                    " entries, expected " + std::to_string(expected));
    }
}

void check(const SearchConfig& c) {
    require(c.horizon >= 1, "horizon must be at least 1", c.horizon);
    require(c.population >= 1, "population must be at least 1", c.population);
    require(c.elites >= 1 && c.elites <= c.population, "elites must be in [1, population]", c.elites);
    require(c.iterations >= 1, "iterations must be at least 1", c.iterations);
    require(c.momentum >= 0.0 && c.momentum < 1.0, "momentum must be in [0, 1)", c.momentum);
    require(c.noise_beta >= 0.0 && c.noise_beta <= 16.0, "noise_beta must be in [0, 16]", c.noise_beta);
    require(c.population_decay >= 1.0 && std::isfinite(c.population_decay),
            "population_decay must be at least 1", c.population_decay);
    require(c.keep_fraction >= 0.0 && c.keep_fraction <= 1.0, "keep_fraction must be in [0, 1]",
            c.keep_fraction);
    require(c.init_std >= 0.0 && std::isfinite(c.init_std), "init_std must be finite and not negative",
            c.init_std);
    require(c.min_std >= 0.0 && std::isfinite(c.min_std), "min_std must be finite and not negative",
            c.min_std);
    require(c.temperature > 0.0 && std::isfinite(c.temperature), "temperature must be positive",
            c.temperature);
    require(c.sampling != Sampling::kTruncated || c.noise_beta == 0.0,
            "truncated noise is white: noise_beta must be 0", c.noise_beta);
}

}  // namespace

Search::Search(const SearchConfig& config, std::vector<float> low, std::vector<float> high)
    : config_(config), low_(std::move(low)), high_(std::move(high)) {
    check(config_);
    require(!low_.empty(), "the action size must be at least 1", 0);
    require_size("high", high_.size(), low_.size());
    for (size_t a = 0; a < low_.size(); ++a) {
        require(std::isfinite(low_[a]), "low must be finite", low_[a]);
        require(std::isfinite(high_[a]) && high_[a] >= low_[a], "high must be finite and not below low",
                high_[a]);
        require(std::isfinite(high_[a] - low_[a]) && std::isfinite(high_[a] + low_[a]),
                "the range of the box must be finite in float32, it overflows at high", high_[a]);
    }
    num_kept_ = static_cast<int>(std::floor(config_.keep_fraction * config_.elites + 0.5));
    const int smallest = num_candidates(config_.iterations - 1);
    require(num_kept_ < smallest || num_kept_ == 0, "reused elites must be fewer than the candidates",
            num_kept_);
    if (config_.noise_beta > 0.0) colour_ = colour_matrix(config_.horizon, config_.noise_beta);
}

int Search::num_candidates(int iteration) const {
    const int decayed =
        static_cast<int>(std::floor(config_.population * std::pow(config_.population_decay, -iteration)));
    return std::min(config_.population, std::max(decayed, 2 * config_.elites));
}

void Search::sample(const RandomStream& random, const float* mean, const float* std, float* actions) const {
    switch (config_.sampling) {
        case Sampling::kGaussian:
            return sample_gaussian(random, mean, std, actions);
        case Sampling::kTruncated:
            return sample_truncated(random, mean, std, actions);
        case Sampling::kUniform:
            return sample_uniform(random, actions);
    }
}

void Search::sample_gaussian(const RandomStream& random, const float* mean, const float* std,
                             float* actions) const {
    const int H = config_.horizon, A = action_size(), size = sequence_size();
    thread_local std::vector<float> white, noise;
    white.resize(size + 3);
    for (int i = 0; i < size; i += 4) {
        const Philox4x32 words = random(i / 4);
        normal_pair(words[0], words[1], &white[i]);
        normal_pair(words[2], words[3], &white[i + 2]);
    }
    const bool coloured = !colour_.empty();
    if (coloured) colour(white.data(), noise);
    for (int t = 0, i = 0; t < H; ++t) {
        for (int a = 0; a < A; ++a, ++i) {
            const float z = coloured ? noise[a * H + t] : white[i];
            actions[i] = std::clamp(mean[i] + std[i] * z, low_[a], high_[a]);
        }
    }
}

void Search::colour(const float* white, std::vector<float>& noise) const {
    const int H = config_.horizon, A = action_size();
    noise.assign(sequence_size(), 0.0f);
    for (int a = 0; a < A; ++a) {
        float* out = &noise[a * H];
        for (int j = 0; j < H; ++j) {
            const float z = white[j * A + a];
            const float* weights = &colour_[static_cast<size_t>(j) * H];
            for (int t = 0; t < H; ++t) out[t] += z * weights[t];
        }
    }
}

void Search::sample_truncated(const RandomStream& random, const float* mean, const float* std,
                              float* actions) const {
    constexpr int kAttempts = 16;  // each succeeds with probability 0.954
    const int A = action_size(), size = sequence_size();
    for (int i = 0; i < size; ++i) {
        const int a = i % A;
        float pair[2] = {3.0f, 0.0f};
        for (int attempt = 0; attempt < kAttempts && std::abs(pair[0]) > 2.0f; ++attempt) {
            const Philox4x32 words = random(attempt * size + i);
            normal_pair(words[0], words[1], pair);
        }
        const float room = 0.5f * std::min(mean[i] - low_[a], high_[a] - mean[i]);
        const float x = mean[i] + std::min(std[i], room) * std::clamp(pair[0], -2.0f, 2.0f);
        actions[i] = std::clamp(x, low_[a], high_[a]);
    }
}

void Search::sample_uniform(const RandomStream& random, float* actions) const {
    const int A = action_size(), size = sequence_size();
    for (int i = 0; i < size; ++i) {
        const int a = i % A;
        const float u = static_cast<float>(random(i)[0] >> 8) * 0x1p-24f;
        actions[i] = std::clamp(low_[a] + u * (high_[a] - low_[a]), low_[a], high_[a]);
    }
}

SearchState::SearchState(std::shared_ptr<const Search> search, SearchCarry carry,
                         const std::vector<uint8_t>& is_first)
    : search_(std::move(search)), carry_(std::move(carry)) {
    const size_t B = carry_.seed.size(), size = search_->sequence_size();
    require_size("mean", carry_.mean.size(), B * size);
    require_size("elites", carry_.elites.size(), B * search_->num_kept() * size);
    require_size("has_elites", carry_.has_elites.size(), B);
    require_size("step", carry_.step.size(), B);
    require_size("is_first", is_first.size(), B);
    const SearchConfig& config = search_->config();
    std_.resize(B * size);
    for (size_t i = 0; i < B * size; ++i) {
        const int a = static_cast<int>(i % search_->action_size());
        const bool fresh = is_first[i / size] || !config.warm_start || !std::isfinite(carry_.mean[i]);
        const float start = fresh ? search_->middle(a) : carry_.mean[i];
        carry_.mean[i] = std::clamp(start, search_->low(a), search_->high(a));
        std_[i] = static_cast<float>(std::max(config.init_std, config.min_std)) * search_->half_width(a);
    }
    for (size_t b = 0; b < B; ++b) {
        carry_.has_elites[b] =
            carry_.has_elites[b] && !is_first[b] && config.warm_start && search_->num_kept() > 0;
    }
    best_ = carry_.mean;
}

RandomStream SearchState::stream(int64_t problem, uint32_t candidate) const {
    return {carry_.seed[problem], candidate, static_cast<uint32_t>(iteration_),
            static_cast<uint32_t>(carry_.step[problem])};
}

std::vector<uint64_t> SearchState::noise_seeds() const {
    std::vector<uint64_t> seeds(carry_.seed.size());
    for (size_t b = 0; b < seeds.size(); ++b) {
        const Philox4x32 words = stream(b, kNoiseCandidate)(0);
        seeds[b] = (static_cast<uint64_t>(words[0]) << 32) | words[1];
    }
    return seeds;
}

const std::vector<float>& SearchState::ask() {
    const SearchConfig& config = search_->config();
    if (asked_ || iteration_ >= config.iterations) throw std::invalid_argument("ask out of turn");
    const int64_t B = num_problems();
    const int size = search_->sequence_size(), A = search_->action_size(), kept = search_->num_kept();
    num_candidates_ = search_->num_candidates(iteration_);
    candidates_.resize(static_cast<size_t>(B) * num_candidates_ * size);
    const bool with_mean = config.include_mean && iteration_ == config.iterations - 1;
    for (int64_t b = 0; b < B; ++b) {
        const float* mean = &carry_.mean[b * size];
        for (int n = 0; n < num_candidates_; ++n) {
            float* out = &candidates_[(b * num_candidates_ + n) * size];
            if (with_mean && n == num_candidates_ - 1) {
                std::copy_n(mean, size, out);
            } else if (carry_.has_elites[b] && n < kept) {
                const float* elite = &carry_.elites[(b * kept + n) * size];
                for (int i = 0; i < size; ++i) {
                    out[i] = std::clamp(elite[i], search_->low(i % A), search_->high(i % A));
                }
            } else {
                search_->sample(stream(b, n), mean, &std_[b * size], out);
            }
        }
    }
    asked_ = true;
    return candidates_;
}

void SearchState::tell(const float* scores, const float* violations) {
    if (!asked_) throw std::invalid_argument("tell without ask");
    for (int64_t b = 0; b < num_problems(); ++b) {
        const int64_t first = b * num_candidates_;
        refit(b, scores + first, violations != nullptr ? violations + first : nullptr);
    }
    asked_ = false;
    ++iteration_;
}

const float* SearchState::candidate(int64_t problem, int index) const {
    return &candidates_[(problem * num_candidates_ + index) * search_->sequence_size()];
}

void SearchState::refit(int64_t problem, const float* scores, const float* violations) {
    const SearchConfig& config = search_->config();
    const int size = search_->sequence_size(), A = search_->action_size(), kept = search_->num_kept();
    order_.clear();
    for (int n = 0; n < num_candidates_; ++n) {
        if (std::isfinite(scores[n]) && (violations == nullptr || std::isfinite(violations[n])))
            order_.push_back(n);
    }
    float* mean = &carry_.mean[problem * size];
    float* std = &std_[problem * size];
    carry_.has_elites[problem] = kept > 0 && !order_.empty();
    if (order_.empty()) {
        std::copy_n(mean, size, &best_[problem * size]);
        return;
    }
    const int count = std::min<int>(config.elites, static_cast<int>(order_.size()));
    std::partial_sort(order_.begin(), order_.begin() + count, order_.end(), [&](int x, int y) {
        if (violations != nullptr && violations[x] != violations[y]) return violations[x] < violations[y];
        return scores[x] != scores[y] ? scores[x] > scores[y] : x < y;
    });
    std::copy_n(candidate(problem, order_[0]), size, &best_[problem * size]);
    for (int e = 0; e < kept; ++e) {
        std::copy_n(candidate(problem, order_[e % count]), size, &carry_.elites[(problem * kept + e) * size]);
    }

    weight_.assign(count, 1.0);
    if (config.weighting == Weighting::kSoftmax) {
        const double best = scores[order_[0]];
        for (int e = 0; e < count; ++e) {
            const bool least = violations == nullptr || violations[order_[e]] == violations[order_[0]];
            weight_[e] = least ? std::exp((scores[order_[e]] - best) / config.temperature) : 0.0;
        }
    }
    double total = 0.0;
    for (double weight : weight_) total += weight;
    const double old_share = config.momentum, new_share = 1.0 - config.momentum;
    for (int i = 0; i < size; ++i) {
        double first = 0.0, second = 0.0;
        for (int e = 0; e < count; ++e) first += weight_[e] * candidate(problem, order_[e])[i];
        first /= total;
        for (int e = 0; e < count; ++e) {
            const double deviation = candidate(problem, order_[e])[i] - first;
            second += weight_[e] * deviation * deviation;
        }
        const int a = i % A;
        const float updated = static_cast<float>(old_share * mean[i] + new_share * first);
        mean[i] = std::clamp(updated, search_->low(a), search_->high(a));
        if (config.update_std) {
            const float smallest = static_cast<float>(config.min_std) * search_->half_width(a);
            std[i] = std::max(static_cast<float>(old_share * std[i] + new_share * std::sqrt(second / total)),
                              smallest);
        }
    }
}

std::vector<float> SearchState::plan() const { return search_->config().execute_best ? best_ : carry_.mean; }

SearchCarry SearchState::carry() const {
    SearchCarry next = carry_;
    const int A = search_->action_size(), size = search_->sequence_size();
    for (std::vector<float>* sequences : {&next.mean, &next.elites}) {
        for (size_t start = 0; start < sequences->size(); start += size) {
            float* sequence = sequences->data() + start;
            std::copy(sequence + A, sequence + size, sequence);  // the last action stays and so is repeated
        }
    }
    for (int64_t& step : next.step) ++step;
    return next;
}

}  // namespace native
