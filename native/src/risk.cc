#include "native/risk.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "require.h"

namespace native {
namespace {

constexpr double kSlack = 1e-9;  // of alpha * P, which is a whole number but for rounding

double mean_of(const std::vector<double>& values) {
    double sum = 0.0;
    for (const double value : values) sum += value;
    return sum / static_cast<double>(values.size());
}

double std_of(const std::vector<double>& values, double mean) {
    double sum = 0.0;
    for (const double value : values) sum += (value - mean) * (value - mean);
    return std::sqrt(sum / static_cast<double>(values.size()));
}

double quantile(std::vector<double>& values, double alpha) {
    const auto rank =
        static_cast<std::ptrdiff_t>(std::ceil(alpha * static_cast<double>(values.size()) - kSlack));
    const auto place = values.begin() + std::max<std::ptrdiff_t>(rank, 1) - 1;
    std::nth_element(values.begin(), place, values.end());
    return *place;
}

double tail_mean(std::vector<double>& values, double alpha) {
    std::sort(values.begin(), values.end());
    const double tail = alpha * static_cast<double>(values.size());
    double sum = 0.0, left = tail;
    for (const double value : values) {
        const double share = std::min(1.0, left);
        if (share <= kSlack) break;
        sum += share * value;
        left -= share;
    }
    return sum / tail;
}

double entropic(const std::vector<double>& values, double theta) {
    const double worst = *std::min_element(values.begin(), values.end());
    double sum = 0.0;
    for (const double value : values) sum += std::exp(-theta * (value - worst));
    return worst - std::log(sum / static_cast<double>(values.size())) / theta;
}

// May reorder the values.
double measure(const RiskConfig& config, std::vector<double>& values) {
    switch (config.measure) {
        case RiskMeasure::kMean:
            return mean_of(values);
        case RiskMeasure::kMeanStd: {
            const double mean = mean_of(values);
            return mean - config.parameter * std_of(values, mean);
        }
        case RiskMeasure::kVar:
            return quantile(values, config.parameter);
        case RiskMeasure::kCvar:
            return tail_mean(values, config.parameter);
        case RiskMeasure::kWorst:
            return *std::min_element(values.begin(), values.end());
        case RiskMeasure::kEntropic:
            return entropic(values, config.parameter);
    }
    return std::numeric_limits<double>::quiet_NaN();
}

double score(const RiskConfig& config, const float* returns, int particles, std::vector<double>& values) {
    const int members = config.members, own = particles / members;
    if (config.part == RiskPart::kBoth) {
        values.assign(returns, returns + particles);
        return measure(config, values);
    }
    if (config.part == RiskPart::kEpistemic) {
        values.assign(members, 0.0);
        for (int p = 0; p < particles; ++p) values[p % members] += returns[p];
        for (double& value : values) value /= own;
        return measure(config, values);
    }
    double sum = 0.0;
    for (int k = 0; k < members; ++k) {
        values.clear();
        for (int p = k; p < particles; p += members) values.push_back(returns[p]);
        sum += measure(config, values);
    }
    return sum / members;
}

}  // namespace

void check(const RiskConfig& config, int particles) {
    require(config.members >= 1, "members must be at least 1", config.members);
    require(particles >= 1 && particles % config.members == 0, "particles must be a multiple of the members",
            particles);
    const double value = config.parameter;
    switch (config.measure) {
        case RiskMeasure::kMean:
        case RiskMeasure::kWorst:
            return;
        case RiskMeasure::kMeanStd:
            return require(value >= 0.0 && std::isfinite(value), "lambda must be finite and not negative",
                           value);
        case RiskMeasure::kVar:
        case RiskMeasure::kCvar:
            return require(value > 0.0 && value <= 1.0, "alpha must be in (0, 1]", value);
        case RiskMeasure::kEntropic:
            return require(value > 0.0 && std::isfinite(value), "theta must be finite and positive", value);
    }
}

void risk_scores(const RiskConfig& config, const float* returns, std::int64_t rows, int particles,
                 float* scores) {
    std::vector<double> values;
    for (std::int64_t row = 0; row < rows; ++row) {
        const float* own = returns + row * particles;
        const bool known = std::none_of(own, own + particles, [](float value) { return std::isnan(value); });
        scores[row] = known ? static_cast<float>(score(config, own, particles, values))
                            : std::numeric_limits<float>::quiet_NaN();
    }
}

}  // namespace native
