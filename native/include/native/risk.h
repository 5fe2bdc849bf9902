// Risk measures of particle returns: one score per candidate, higher is better.
//
//   Markowitz 1952 (mean - lambda std); Rockafellar and Uryasev 2002 (VaR and CVaR of discrete
//   distributions); Howard and Matheson 1972 (entropic).
//
// Letters: R candidates, P particles, K members of an ensemble, of which particle p follows p % K.
#pragma once

#include <cstdint>

namespace native {

enum class RiskMeasure {
    kMean,
    kMeanStd,   // mean - parameter * standard deviation (of the population)
    kVar,       // parameter-quantile: the least return that a share of at least `parameter` does not exceed
    kCvar,      // mean of the worst share `parameter`, the particle at its edge counted in part
    kWorst,     // minimum
    kEntropic,  // -log(mean(exp(-parameter * return))) / parameter
};

enum class RiskPart {
    kBoth,       // over all P particles
    kEpistemic,  // over the K members, each represented by the mean of its particles
    kAleatoric,  // over the P / K particles of each member, then the mean over members
};

struct RiskConfig {
    RiskMeasure measure = RiskMeasure::kMean;
    RiskPart part = RiskPart::kBoth;
    double parameter = 0.0;
    int members = 1;  // K
};

// Throws std::invalid_argument, naming the value, for a parameter out of range or particles that are no
// multiple of the members.
void check(const RiskConfig& config, int particles);

// Scores [R] of returns [R, P]; a NaN among a candidate's returns gives NaN. Sums are float64 and in the
// order of the particles, so a score depends on its own returns alone. The request must pass check().
void risk_scores(const RiskConfig& config, const float* returns, std::int64_t rows, int particles,
                 float* scores);

}  // namespace native
