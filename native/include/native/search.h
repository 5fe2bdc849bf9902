// Sampling-based trajectory optimisation by ask and tell: CEM, iCEM, MPPI and random shooting are
// configurations of one search.
//
//   de Boer et al. 2005 (CEM); Chua et al. 2018, arXiv:1805.12114 (truncated CEM with momentum);
//   Pinneri et al. 2020, arXiv:2008.06389 (iCEM: coloured noise, elite reuse, population decay);
//   Williams et al. 2017, arXiv:1707.02342 (MPPI).
//
// Letters: B problems, N candidates of an iteration, H horizon, A action size, E reused elites.
// All arrays are row-major. A problem's result depends on its own carry and scores alone, never on the
// batch it is in: every random number is a function of (seed, step, iteration, candidate, element).
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "native/rng.h"

namespace native {

enum class Sampling {
    kGaussian,   // Gaussian noise, coloured by noise_beta, clipped to the box
    kTruncated,  // white noise cut at two standard deviations, which are held inside the box
    kUniform,    // uniform in the box; the distribution is ignored
};

enum class Weighting {
    kUniform,  // every elite counts the same (CEM)
    kSoftmax,  // weight exp(score / temperature) (MPPI)
};

struct SearchConfig {
    int horizon = 12;
    int population = 128;           // candidates of the first iteration
    int elites = 16;                // best candidates that refit the distribution
    int iterations = 4;             // pairs of ask and tell
    double momentum = 0.1;          // share of the old mean and standard deviation kept by a refit
    double noise_beta = 0.0;        // power spectrum of the noise ~ frequency^-beta
    double population_decay = 1.0;  // iteration i has population * decay^-i candidates, at least 2 * elites
    double keep_fraction = 0.0;     // share of the elites that joins the next iteration and the next plan
    double init_std = 0.5;          // standard deviation of iteration 0, in half-widths of the box
    double min_std = 0.0;           // smallest standard deviation, in half-widths of the box
    double temperature = 1.0;       // of the softmax, in units of the score
    Sampling sampling = Sampling::kGaussian;
    Weighting weighting = Weighting::kUniform;
    bool update_std = true;     // false keeps the initial standard deviation (MPPI)
    bool include_mean = false;  // the last candidate of the last iteration is the mean itself
    bool execute_best = false;  // the plan is the best candidate of the last iteration, else the mean
    bool warm_start = true;     // start from the carry's mean, else from the middle of the box
};

// What is remembered between the plans of B problems; mean and elites are already shifted by one step.
struct SearchCarry {
    std::vector<float> mean;          // [B, H, A]
    std::vector<float> elites;        // [B, E, H, A]
    std::vector<uint8_t> has_elites;  // [B]
    std::vector<uint64_t> seed;       // [B]
    std::vector<int64_t> step;        // [B]
};

// The random numbers of one candidate: four words for each group of elements.
struct RandomStream {
    uint64_t seed;
    uint32_t candidate, iteration, step;
    Philox4x32 operator()(uint32_t group) const {
        return philox4x32({group, candidate, iteration, step}, seed);
    }
};

// The immutable part: configuration, box and noise shaping. Safe to share between threads.
class Search {
  public:
    // Throws std::invalid_argument naming the offending value. low and high have A finite entries.
    Search(const SearchConfig& config, std::vector<float> low, std::vector<float> high);

    const SearchConfig& config() const { return config_; }
    int action_size() const { return static_cast<int>(low_.size()); }
    int sequence_size() const { return config_.horizon * action_size(); }
    int num_kept() const { return num_kept_; }  // E
    int num_candidates(int iteration) const;    // N of an iteration
    float low(int a) const { return low_[a]; }
    float high(int a) const { return high_[a]; }
    float half_width(int a) const { return 0.5f * (high_[a] - low_[a]); }
    float middle(int a) const { return 0.5f * (high_[a] + low_[a]); }

    // One candidate [H, A] around mean and std [H, A], from the random numbers of `random`.
    void sample(const RandomStream& random, const float* mean, const float* std, float* actions) const;

  private:
    void sample_gaussian(const RandomStream& random, const float* mean, const float* std,
                         float* actions) const;
    void colour(const float* white, std::vector<float>& noise) const;  // [H, A] -> [A, H]
    void sample_truncated(const RandomStream& random, const float* mean, const float* std,
                          float* actions) const;
    void sample_uniform(const RandomStream& random, float* actions) const;

    SearchConfig config_;
    std::vector<float> low_, high_;
    std::vector<float>
        colour_;  // [H, H], weights of white numbers (rows) in coloured ones; empty if beta is 0
    int num_kept_;
};

// One plan of B problems in progress: `iterations` pairs of ask and tell, then plan and carry.
// Not thread-safe; separate states are independent.
class SearchState {
  public:
    // Throws std::invalid_argument if a shape does not fit. Rows with is_first forget mean and elites.
    SearchState(std::shared_ptr<const Search> search, SearchCarry carry,
                const std::vector<uint8_t>& is_first);

    int64_t num_problems() const { return static_cast<int64_t>(carry_.seed.size()); }
    int num_candidates() const { return num_candidates_; }  // N of the last ask
    int iteration() const { return iteration_; }            // tells so far
    const Search& search() const { return *search_; }

    // Seeds [B] for the model's noise in this iteration (after the last tell: for scoring the plan).
    std::vector<uint64_t> noise_seeds() const;

    // Candidates [B, N, H, A] of the next iteration, inside the box. Throws std::invalid_argument out of
    // turn.
    const std::vector<float>& ask();

    // Scores [B, N], higher is better. A score that is not finite ranks last and never becomes an elite;
    // a problem without any finite score keeps its distribution. With violations [B, N] of constraints, 0
    // where there is none, feasible candidates rank first, by score, then the others by violation; a softmax
    // weighs only those of the least violation. Throws std::invalid_argument out of turn.
    void tell(const float* scores, const float* violations = nullptr);

    std::vector<float> plan() const;                          // [B, H, A], inside the box
    const std::vector<float>& best() const { return best_; }  // [B, H, A] of the last iteration
    SearchCarry carry() const;  // for the next plan: shifted by one step, the last action repeated

  private:
    RandomStream stream(int64_t problem, uint32_t candidate) const;
    void refit(int64_t problem, const float* scores, const float* violations);
    const float* candidate(int64_t problem, int index) const;

    std::shared_ptr<const Search> search_;
    SearchCarry carry_;              // mean and elites of the current iteration, not yet shifted
    std::vector<float> std_;         // [B, H, A]
    std::vector<float> candidates_;  // [B, N, H, A]
    std::vector<float> best_;        // [B, H, A] best candidate of the last iteration, the mean if all failed
    std::vector<int> order_;         // scratch of refit
    std::vector<double> weight_;     // scratch of refit
    int num_candidates_ = 0;
    int iteration_ = 0;
    bool asked_ = false;
};

}  // namespace native
