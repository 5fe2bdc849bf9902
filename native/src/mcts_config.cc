#include <algorithm>
#include <cmath>

#include "native/mcts.h"
#include "require.h"

namespace native {

void MctsConfig::check() const {
    require(num_actions >= 1, "num_actions must be at least 1", num_actions);
    require(simulations >= 1, "simulations must be at least 1", simulations);
    require(sampled_actions >= 0, "sampled_actions must not be negative", sampled_actions);
    require(sampled_actions <= num_actions,
            ("sampled_actions must be at most num_actions " + std::to_string(num_actions)).c_str(),
            sampled_actions);
    require(proposal_temperature > 0.0 && std::isfinite(proposal_temperature),
            "proposal_temperature must be positive", proposal_temperature);
    require(max_depth >= 0, "max_depth must not be negative", max_depth);
    require(std::isfinite(min_value), "min_value must be finite", min_value);
    require(std::isfinite(max_value) && max_value > min_value,
            ("max_value must be more than min_value " + std::to_string(min_value)).c_str(), max_value);
    require(min_range > 0.0 && std::isfinite(min_range), "min_range must be positive", min_range);
    require(c1 >= 0.0 && std::isfinite(c1), "c1 must be finite and not negative", c1);
    require(c2 > 0.0 && std::isfinite(c2), "c2 must be positive", c2);
    require(dirichlet_alpha > 0.0 && std::isfinite(dirichlet_alpha), "dirichlet_alpha must be positive",
            dirichlet_alpha);
    require(dirichlet_fraction >= 0.0 && dirichlet_fraction <= 1.0, "dirichlet_fraction must be in [0, 1]",
            dirichlet_fraction);
    require(gumbel_scale >= 0.0 && std::isfinite(gumbel_scale),
            "gumbel_scale must be finite and not negative", gumbel_scale);
    require(max_considered >= 1, "max_considered must be at least 1", max_considered);
    require(value_scale >= 0.0 && std::isfinite(value_scale), "value_scale must be finite and not negative",
            value_scale);
    require(maxvisit_init >= 0.0 && std::isfinite(maxvisit_init),
            "maxvisit_init must be finite and not negative", maxvisit_init);
}

std::vector<int> halving_sequence(int considered, int simulations) {
    require(considered >= 1, "considered must be at least 1", considered);
    require(simulations >= 0, "simulations must not be negative", simulations);
    std::vector<int> sequence, visits(considered, 0);
    sequence.reserve(simulations);
    const int rounds = static_cast<int>(std::ceil(std::log2(std::max(considered, 2))));
    const int fewest = std::min(considered, 2);
    while (static_cast<int>(sequence.size()) < simulations) {
        const int repeats = std::max(1, simulations / (rounds * considered));
        for (int repeat = 0; repeat < repeats; ++repeat)
            for (int i = 0; i < considered; ++i) sequence.push_back(visits[i]++);
        considered = std::max(fewest, considered / 2);
    }
    sequence.resize(simulations);
    return sequence;
}

}  // namespace native
