// What the model says of a node, made into its actions and their prior.
#include <algorithm>
#include <cmath>

#include "mcts_lanes.h"
#include "mcts_noise.h"
#include "native/mcts.h"

namespace native {
// Stores the model's evaluation of a node and counts it as a visit.
void Mcts::evaluate(Node node, const Evaluation& found, std::uint64_t seed, int index) const {
    node.header.value = node.header.raw_value = found.value;
    if (node.header.visits++ == 0) {
        std::fill_n(node.q, lanes_, 0.0f);
        std::fill_n(node.visits, lanes_, 0.0f);
        std::fill_n(node.child, lanes_, -1);
    }
    std::fill_n(node.prior, lanes_, -kInfinity);
    if (node.ids)
        sample(node, found, seed, index);
    else
        take_all(node, found);
    if (config_.selection == Selection::kGumbel) std::copy_n(node.prior, lanes_, node.logits);
    if (node.header.num_valid > 0) softmax(node.prior, lanes_, -kInfinity);
}

// Every valid action with its logit.
void Mcts::take_all(Node node, const Evaluation& found) const {
    const int A = config_.num_actions;
    node.header.num_valid = A;
    std::copy_n(found.logits, A, node.prior);
    if (!found.invalid) return;
    for (int a = 0; a < A; ++a) {
        if (!found.invalid[a]) continue;
        node.prior[a] = -kInfinity;
        --node.header.num_valid;
    }
}

// Draws K actions with replacement from beta ~ pi^(1 / tau) and keeps each one found once, in order. One that
// was drawn n times has the prior (beta^ / beta) pi, where beta^ = n / K (Hubert et al. 2021, section 5.1):
// log n + (1 - 1 / tau) logit, and a constant that goes when the prior of the node is made to add up to 1.
void Mcts::sample(Node node, const Evaluation& found, std::uint64_t seed, int index) const {
    thread_local std::vector<double> sums;
    thread_local std::vector<std::int32_t> drawn;
    const int A = config_.num_actions, K = config_.sampled_actions;
    const double sharpness = 1.0 / config_.proposal_temperature;
    sums.resize(A);
    drawn.resize(K);
    float shift = -kInfinity;
    for (int a = 0; a < A; ++a)
        if (!found.invalid || !found.invalid[a]) shift = std::max(shift, found.logits[a]);
    double total = 0.0;
    for (int a = 0; a < A; ++a) {
        if (!found.invalid || !found.invalid[a])
            total += std::exp((static_cast<double>(found.logits[a]) - shift) * sharpness);
        sums[a] = total;
    }
    std::fill_n(node.ids, lanes_, -1);
    node.header.num_valid = 0;
    if (shift == -kInfinity) return;
    Uniforms uniforms(seed, Purpose::kActions, index);
    for (int& action : drawn)
        action = static_cast<int>(std::upper_bound(sums.begin(), sums.end(), uniforms.next() * total) -
                                  sums.begin());
    std::sort(drawn.begin(), drawn.end());
    for (int first = 0, next; first < K; first = next) {
        const int action = drawn[first];
        for (next = first + 1; next < K && drawn[next] == action;) ++next;
        const int lane = node.header.num_valid++;
        node.ids[lane] = action;
        node.prior[lane] = static_cast<float>(std::log(static_cast<double>(next - first)) +
                                              (1.0 - sharpness) * found.logits[action]);
    }
}

// Makes the largest of the root's valid logits 0, so that they compare with the score of what is considered.
void Mcts::shift_logits(Node root) const {
    const float shift = *std::max_element(root.logits, root.logits + lanes_);
    for (int i = 0; i < lanes_; ++i) root.logits[i] -= shift;
}

// Mixes noise over the valid actions into the root's prior.
void Mcts::add_dirichlet(Node root, std::uint64_t seed) const {
    std::vector<double> noise(lanes_, 0.0);
    double total = 0.0;
    for (int i = 0; i < lanes_; ++i) {
        if (root.prior[i] == -kInfinity) continue;
        noise[i] = Uniforms(seed, Purpose::kDirichlet, i).gamma(config_.dirichlet_alpha);
        total += noise[i];
    }
    if (!(total > 0.0)) return;  // every variable underflowed
    const double share = config_.dirichlet_fraction;
    for (int i = 0; i < lanes_; ++i)
        root.prior[i] = static_cast<float>((1.0 - share) * root.prior[i] + share * noise[i] / total);
}

void Mcts::draw_gumbel(std::int64_t root, std::uint64_t seed) {
    for (int i = 0; i < config_.width(); ++i)
        gumbel_[root * lanes_ + i] =
            static_cast<float>(config_.gumbel_scale * Uniforms(seed, Purpose::kGumbel, i).gumbel());
}

}  // namespace native
