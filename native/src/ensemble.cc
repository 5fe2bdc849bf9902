#include "native/ensemble.h"

#include <xmmintrin.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <stdexcept>

#include "ensemble_dispatch.h"
#include "ensemble_pack.h"
#include "native/rng.h"
#include "native/threads.h"

namespace native {
namespace {

constexpr int kMostRows = 64;
constexpr std::uint32_t kPermutationDomain = 0xFFFFFFFFU;  // no noise counter has this dimension

// Products with denormals take a hundred cycles on some processors and change no result that matters. The
// flags are the thread's, so they are put back.
class FlushDenormals {
  public:
    FlushDenormals() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ | 0x8040U); }
    ~FlushDenormals() { _mm_setcsr(saved_); }
    FlushDenormals(const FlushDenormals&) = delete;
    FlushDenormals& operator=(const FlushDenormals&) = delete;

  private:
    unsigned saved_;
};

// A set of rows that share their member in every step, cut into panels.
struct Grouping {
    std::int64_t groups;
    std::int64_t rows;  // of a group
    std::int64_t panels_per_group;
};

struct Row {
    std::int64_t problem;
    std::int64_t candidate;
    std::int64_t particle;
};

// ts_inf: group k holds every particle of member k, of all problems, so that small populations still fill
// panels. ts1: group (b, p) holds the candidates of one particle, since the permutation is the problem's.
Grouping grouping_of(const RolloutRequest& r, int num_members, int panel_rows) {
    Grouping g{};
    if (r.propagation == Propagation::ts_inf) {
        g.groups = num_members;
        g.rows = std::int64_t{r.problems} * r.candidates * (r.particles / num_members);
    } else {
        g.groups = std::int64_t{r.problems} * r.particles;
        g.rows = r.candidates;
    }
    g.panels_per_group = (g.rows + panel_rows - 1) / panel_rows;
    return g;
}

Row row_of(const RolloutRequest& r, int num_members, std::int64_t group, std::int64_t index) {
    if (r.propagation == Propagation::ts1) return {group / r.particles, index, group % r.particles};
    const std::int64_t per_member = r.particles / num_members;
    const std::int64_t candidate = index / per_member;
    return {candidate / r.candidates, candidate % r.candidates, group + index % per_member * num_members};
}

template <class T>
using PerRow = std::array<T, kMostRows>;

}  // namespace

struct Ensemble::Destination {
    float* returns = nullptr;     // [B, N, P]
    float* trajectory = nullptr;  // [B, N, P, H+1, S]
    float* rewards = nullptr;     // [B, N, P, H]
};

std::vector<std::int32_t> particle_members(std::uint64_t seed, int horizon, int particles, int num_members,
                                           Propagation propagation) {
    const auto width = static_cast<std::size_t>(particles);
    std::vector<std::int32_t> members(static_cast<std::size_t>(horizon) * width);
    for (int step = 0; step < horizon; ++step) {
        std::int32_t* row = members.data() + static_cast<std::size_t>(step) * width;
        std::iota(row, row + particles, 0);
        if (propagation == Propagation::ts1) {  // Fisher-Yates
            for (int i = particles - 1; i > 0; --i) {
                const auto counter = Philox4x32{static_cast<std::uint32_t>(i), 0,
                                                static_cast<std::uint32_t>(step), kPermutationDomain};
                const std::uint64_t word = philox4x32(counter, seed)[0];
                std::swap(row[i], row[word * (static_cast<std::uint64_t>(i) + 1) >> 32]);
            }
        }
        for (int p = 0; p < particles; ++p) row[p] %= num_members;
    }
    return members;
}

Ensemble::Ensemble(const EnsembleWeights& weights, Precision precision, const std::optional<std::string>& isa,
                   int threads)
    : Ensemble(weights, choose_variant(precision, isa, cpu_features()), threads) {}

Ensemble::Ensemble(const EnsembleWeights& weights, const Variant& variant, int threads)
    : variant_(variant),
      model_(std::make_unique<PackedModel>(weights, variant)),
      pool_(std::make_unique<ThreadPool>(threads)),
      scratch_(make_aligned_floats(scratch_floats(model_->view(), variant.rows) *
                                   static_cast<std::size_t>(threads))) {}

Ensemble::~Ensemble() = default;

int Ensemble::num_members() const { return model_->view().num_members; }
int Ensemble::state_size() const { return model_->view().state_size; }
int Ensemble::action_size() const { return model_->view().action_size; }
bool Ensemble::is_gaussian() const { return model_->view().gaussian; }
std::string_view Ensemble::isa() const { return variant_.name; }
Precision Ensemble::precision() const { return variant_.precision; }
int Ensemble::threads() const { return pool_->size(); }

float* Ensemble::scratch(int thread) const {
    return scratch_.get() + scratch_floats(model_->view(), variant_.rows) * static_cast<std::size_t>(thread);
}

void Ensemble::check(const RolloutRequest& r) const {
    const auto at_least_one = [](const char* name, int value) {
        if (value < 1)
            throw std::invalid_argument(std::string(name) + " must be at least 1, not " +
                                        std::to_string(value));
    };
    at_least_one("the number of problems", r.problems);
    at_least_one("the number of candidates", r.candidates);
    at_least_one("the horizon", r.horizon);
    at_least_one("particles", r.particles);
    if (r.particles % num_members() != 0) {
        throw std::invalid_argument("particles must be a multiple of the " + std::to_string(num_members()) +
                                    " members, not " + std::to_string(r.particles));
    }
    if (!(r.gamma >= 0.0F && r.gamma <= 1.0F))
        throw std::invalid_argument("gamma must be in [0, 1], not " + std::to_string(r.gamma));
}

void Ensemble::rollout(const RolloutRequest& request, float* returns, float* states) {
    Destination destination;
    destination.returns = returns;
    destination.trajectory = states;
    run(request, destination);
}

void Ensemble::trajectories(const RolloutRequest& request, float* states, float* rewards) {
    Destination destination;
    destination.trajectory = states;
    destination.rewards = rewards;
    run(request, destination);
}

// The arrays behind one RolloutPanel.
struct Ensemble::PanelRows {
    PerRow<const float*> states, actions;
    alignas(64) PerRow<std::uint32_t> seed_low, seed_high, candidate, particle;
    PerRow<float*> returns, trajectory, rewards;

    void set(std::size_t i, const RolloutRequest& r, const ModelView& model, const Destination& to,
             const Row& row) {
        const std::int64_t sequence = row.problem * r.candidates + row.candidate;
        const std::int64_t cell = sequence * r.particles + row.particle;
        states[i] = r.observation + row.problem * model.state_size;
        actions[i] = r.actions + sequence * r.horizon * model.action_size;
        seed_low[i] = static_cast<std::uint32_t>(r.seeds[row.problem]);
        seed_high[i] = static_cast<std::uint32_t>(r.seeds[row.problem] >> 32);
        candidate[i] = static_cast<std::uint32_t>(row.candidate);
        particle[i] = static_cast<std::uint32_t>(row.particle);
        if (to.returns != nullptr) returns[i] = to.returns + cell;
        if (to.rewards != nullptr) rewards[i] = to.rewards + cell * r.horizon;
        if (to.trajectory != nullptr)
            trajectory[i] = to.trajectory + cell * (r.horizon + 1) * model.state_size;
    }

    RolloutPanel panel(const RolloutRequest& r, const Destination& to, std::int64_t count) const {
        RolloutPanel panel{};
        panel.rows = static_cast<int>(count);
        panel.horizon = r.horizon;
        panel.gamma = r.gamma;
        panel.sample = r.sample;
        panel.states = states.data();
        panel.actions = actions.data();
        panel.seed_low = seed_low.data();
        panel.seed_high = seed_high.data();
        panel.candidate = candidate.data();
        panel.particle = particle.data();
        panel.returns = to.returns != nullptr ? returns.data() : nullptr;
        panel.trajectory = to.trajectory != nullptr ? trajectory.data() : nullptr;
        panel.rewards = to.rewards != nullptr ? rewards.data() : nullptr;
        return panel;
    }
};

void Ensemble::run(const RolloutRequest& r, const Destination& to) {
    const ModelView& model = model_->view();
    const int members = model.num_members;
    const Grouping grouping = grouping_of(r, members, variant_.rows);
    // [table][H, P]; ts_inf has the same rows for all problems.
    const bool per_problem = r.propagation == Propagation::ts1;
    const std::int64_t table_size = std::int64_t{r.horizon} * r.particles;
    std::vector<std::int32_t> tables;
    for (int b = 0; b < (per_problem ? r.problems : 1); ++b) {
        const auto table = particle_members(r.seeds[b], r.horizon, r.particles, members, r.propagation);
        tables.insert(tables.end(), table.begin(), table.end());
    }
    pool_->run(grouping.groups * grouping.panels_per_group, [&](std::int64_t index, int thread) {
        const FlushDenormals flush;
        const std::int64_t group = index / grouping.panels_per_group;
        const std::int64_t first = index % grouping.panels_per_group * variant_.rows;
        const std::int64_t count = std::min<std::int64_t>(variant_.rows, grouping.rows - first);
        PanelRows rows;
        for (int i = 0; i < variant_.rows; ++i) {
            const Row row = row_of(r, members, group, first + (i < count ? i : 0));
            rows.set(static_cast<std::size_t>(i), r, model, to, row);
        }
        RolloutPanel panel = rows.panel(r, to, count);
        const Row head = row_of(r, members, group, first);
        panel.members = tables.data() + (per_problem ? head.problem * table_size : 0) + head.particle;
        panel.members_stride = r.particles;
        variant_.rollout(model, panel, scratch(thread));
    });
}

void Ensemble::predict(const float* state, const float* action, std::int64_t rows, float* mean,
                       float* variance, float* done) {
    const ModelView& model = model_->view();
    const std::int64_t width = model.state_size + 1;
    const std::int64_t panels = (rows + variant_.rows - 1) / variant_.rows;
    pool_->run(panels * model.num_members, [&](std::int64_t index, int thread) {
        const FlushDenormals flush;
        const std::int64_t member = index / panels;
        const std::int64_t first = index % panels * variant_.rows;
        const std::int64_t count = std::min<std::int64_t>(variant_.rows, rows - first);
        PerRow<const float*> states;
        PerRow<const float*> actions;
        for (int i = 0; i < variant_.rows; ++i) {
            const std::int64_t row = first + (i < count ? i : 0);
            states[static_cast<std::size_t>(i)] = state + row * model.state_size;
            actions[static_cast<std::size_t>(i)] = action + row * model.action_size;
        }
        const std::int64_t cell = member * rows + first;
        const PredictPanel panel{
            static_cast<int>(count), static_cast<int>(member), states.data(), actions.data(),
            mean + cell * width,     variance + cell * width,  done + cell};
        variant_.predict(model, panel, scratch(thread));
    });
}

}  // namespace native
