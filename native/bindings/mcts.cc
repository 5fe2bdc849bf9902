#include "native/mcts.h"

#include <pybind11/stl.h>

#include <optional>

#include "arrays.h"
#include "bindings.h"

namespace py = pybind11;
using namespace native;

namespace {

constexpr std::int64_t kWorthReleasing = 16;  // roots; giving the GIL back costs more than a few trees

Selection parse_selection(const std::string& name) {
    if (name == "puct") return Selection::kPuct;
    if (name == "gumbel") return Selection::kGumbel;
    throw std::invalid_argument("selection must be puct or gumbel, not " + name);
}

Normalisation parse_normalisation(const std::string& name) {
    if (name == "siblings") return Normalisation::kSiblings;
    if (name == "tree") return Normalisation::kTree;
    if (name == "bounds") return Normalisation::kBounds;
    throw std::invalid_argument("normalisation must be siblings, tree or bounds, not " + name);
}

using Mask = std::optional<InputArray<bool>>;

// The search and the arrays in which it names leaves.
class BoundMcts {
  public:
    BoundMcts(const MctsConfig& config, int threads) : mcts(config, threads) {}

    py::tuple begin(const InputArray<float>& logits, const InputArray<float>& value,
                    const InputArray<std::uint64_t>& seeds, const Mask& invalid, bool noise) {
        const py::ssize_t B = value.size(), A = mcts.config().num_actions;
        check_shape(value, "value", {-1});
        check_shape(logits, "logits", {B, A});
        check_shape(seeds, "seeds", {B});
        auto parent = make_output<std::int64_t>({B}), action = make_output<std::int64_t>({B});
        const auto* masked = flags(invalid, B);
        run(B, [&] {
            mcts.begin(B, logits.data(), value.data(), masked, seeds.data(), noise, parent.mutable_data(),
                       action.mutable_data());
        });
        parent_ = parent, action_ = action;
        return py::make_tuple(parent_, action_);
    }

    py::tuple begin_kept(const InputArray<float>& logits, const InputArray<float>& value,
                         const InputArray<std::uint64_t>& seeds, const InputArray<std::uint8_t>& trees,
                         const InputArray<std::int64_t>& taken, const Mask& invalid, bool noise) {
        const py::ssize_t B = value.size(), A = mcts.config().num_actions;
        const py::ssize_t nodes = mcts.config().simulations + 1;
        check_shape(value, "value", {-1});
        check_shape(logits, "logits", {B, A});
        check_shape(seeds, "seeds", {B});
        check_shape(trees, "trees", {B, static_cast<py::ssize_t>(mcts.tree_size())});
        check_shape(taken, "taken", {B});
        auto parent = make_output<std::int64_t>({B}), action = make_output<std::int64_t>({B});
        auto origin = make_output<std::int32_t>({B, nodes}), limit = make_output<std::int32_t>({B});
        const auto* masked = flags(invalid, B);
        const Mcts::Kept kept = {reinterpret_cast<const std::byte*>(trees.data()), taken.data(),
                                 origin.mutable_data(), limit.mutable_data()};
        run(B, [&] {
            mcts.begin_kept(B, logits.data(), value.data(), masked, seeds.data(), noise, kept,
                            parent.mutable_data(), action.mutable_data());
        });
        parent_ = parent, action_ = action;
        return py::make_tuple(parent_, action_, origin, limit);
    }

    py::array_t<std::uint8_t> save() const {
        auto trees =
            make_output<std::uint8_t>({mcts.num_roots(), static_cast<py::ssize_t>(mcts.tree_size())});
        mcts.save(reinterpret_cast<std::byte*>(trees.mutable_data()));
        return trees;
    }

    void expand(const InputArray<float>& logits, const InputArray<float>& value,
                const InputArray<float>& reward, const InputArray<float>& discount, const Mask& invalid) {
        const py::ssize_t B = mcts.num_roots();
        check_shape(logits, "logits", {B, mcts.config().num_actions});
        check_shape(value, "value", {B});
        check_shape(reward, "reward", {B});
        check_shape(discount, "discount", {B});
        const auto* masked = flags(invalid, B);
        run(B, [&] {
            mcts.expand(logits.data(), value.data(), reward.data(), discount.data(), masked,
                        parent_.mutable_data(), action_.mutable_data());
        });
    }

    Mcts mcts;

  private:
    const std::uint8_t* flags(const Mask& invalid, py::ssize_t rows) const {
        if (!invalid) return nullptr;
        check_shape(*invalid, "invalid", {rows, mcts.config().num_actions});
        return reinterpret_cast<const std::uint8_t*>(invalid->data());
    }

    static void run(py::ssize_t roots, const auto& work) {
        if (roots < kWorthReleasing) return work();
        py::gil_scoped_release release;
        work();
    }

    py::array_t<std::int64_t> parent_, action_;
};

py::array_t<std::int64_t> actions(const BoundMcts& self) {
    auto action = make_output<std::int64_t>({self.mcts.num_roots(), self.mcts.config().width()});
    self.mcts.actions(action.mutable_data());
    return action;
}

py::tuple root(const BoundMcts& self) {
    const py::ssize_t B = self.mcts.num_roots(), N = self.mcts.config().width();
    auto visits = make_output<std::int32_t>({B, N});
    auto q = make_output<float>({B, N}), value = make_output<float>({B});
    self.mcts.root(visits.mutable_data(), q.mutable_data(), value.mutable_data());
    return py::make_tuple(visits, q, value);
}

py::tuple policy(const BoundMcts& self) {
    const py::ssize_t B = self.mcts.num_roots();
    auto weights = make_output<float>({B, self.mcts.config().width()});
    auto best = make_output<std::int64_t>({B});
    self.mcts.policy(weights.mutable_data(), best.mutable_data());
    return py::make_tuple(weights, best);
}

py::tuple nodes(const BoundMcts& self) {
    const std::vector<py::ssize_t> shape{self.mcts.num_roots(), self.mcts.config().simulations + 1};
    auto parent = make_output<std::int32_t>(shape), action = make_output<std::int32_t>(shape);
    auto visits = make_output<std::int32_t>(shape);
    auto value = make_output<float>(shape);
    self.mcts.nodes(parent.mutable_data(), action.mutable_data(), visits.mutable_data(),
                    value.mutable_data());
    return py::make_tuple(parent, action, visits, value);
}

py::tuple details(const BoundMcts& self) {
    const std::vector<py::ssize_t> shape{self.mcts.num_roots(), self.mcts.config().simulations + 1};
    auto prior = make_output<float>(shape), reward = make_output<float>(shape);
    auto discount = make_output<float>(shape), raw_value = make_output<float>(shape);
    self.mcts.details(prior.mutable_data(), reward.mutable_data(), discount.mutable_data(),
                      raw_value.mutable_data());
    return py::make_tuple(prior, reward, discount, raw_value);
}

std::unique_ptr<BoundMcts> make_mcts(int num_actions, int simulations, const std::string& selection,
                                     int max_depth, int sampled_actions, double proposal_temperature,
                                     const std::string& normalisation, double min_value, double max_value,
                                     double min_range, double c1, double c2, double dirichlet_alpha,
                                     double dirichlet_fraction, double gumbel_scale, int max_considered,
                                     double value_scale, double maxvisit_init, bool rescale, bool mixed_value,
                                     int threads) {
    MctsConfig config;
    config.num_actions = num_actions;
    config.simulations = simulations;
    config.selection = parse_selection(selection);
    config.max_depth = max_depth;
    config.sampled_actions = sampled_actions;
    config.proposal_temperature = proposal_temperature;
    config.normalisation = parse_normalisation(normalisation);
    config.min_value = min_value;
    config.max_value = max_value;
    config.min_range = min_range;
    config.c1 = c1;
    config.c2 = c2;
    config.dirichlet_alpha = dirichlet_alpha;
    config.dirichlet_fraction = dirichlet_fraction;
    config.gumbel_scale = gumbel_scale;
    config.max_considered = max_considered;
    config.value_scale = value_scale;
    config.maxvisit_init = maxvisit_init;
    config.rescale = rescale;
    config.mixed_value = mixed_value;
    return std::make_unique<BoundMcts>(config, threads);
}

}  // namespace

void init_mcts(py::module_& m) {
    const MctsConfig defaults;
    py::class_<BoundMcts>(m, "Mcts", "Tree search over a learned model, for a batch of roots.")
        .def(py::init(&make_mcts), py::kw_only(), py::arg("num_actions"), py::arg("simulations"),
             py::arg("selection") = "puct", py::arg("max_depth") = defaults.max_depth,
             py::arg("sampled_actions") = defaults.sampled_actions,
             py::arg("proposal_temperature") = defaults.proposal_temperature,
             py::arg("normalisation") = "siblings", py::arg("min_value") = defaults.min_value,
             py::arg("max_value") = defaults.max_value, py::arg("min_range") = defaults.min_range,
             py::arg("c1") = defaults.c1, py::arg("c2") = defaults.c2,
             py::arg("dirichlet_alpha") = defaults.dirichlet_alpha,
             py::arg("dirichlet_fraction") = defaults.dirichlet_fraction,
             py::arg("gumbel_scale") = defaults.gumbel_scale,
             py::arg("max_considered") = defaults.max_considered,
             py::arg("value_scale") = defaults.value_scale, py::arg("maxvisit_init") = defaults.maxvisit_init,
             py::arg("rescale") = defaults.rescale, py::arg("mixed_value") = defaults.mixed_value,
             py::arg("threads") = 1)
        .def_property_readonly("simulation", [](const BoundMcts& self) { return self.mcts.simulation(); })
        .def("begin", &BoundMcts::begin, py::arg("logits").noconvert(), py::arg("value").noconvert(),
             py::arg("seeds").noconvert(), py::arg("invalid").noconvert() = py::none(),
             py::arg("noise") = true)
        .def("begin_kept", &BoundMcts::begin_kept, py::arg("logits").noconvert(),
             py::arg("value").noconvert(), py::arg("seeds").noconvert(), py::arg("trees").noconvert(),
             py::arg("taken").noconvert(), py::arg("invalid").noconvert() = py::none(),
             py::arg("noise") = true)
        .def("save", &BoundMcts::save)
        .def_property_readonly("tree_size", [](const BoundMcts& self) { return self.mcts.tree_size(); })
        .def_property_readonly("done", [](const BoundMcts& self) { return self.mcts.done(); })
        .def("expand", &BoundMcts::expand, py::arg("logits").noconvert(), py::arg("value").noconvert(),
             py::arg("reward").noconvert(), py::arg("discount").noconvert(),
             py::arg("invalid").noconvert() = py::none())
        .def("actions", &actions)
        .def("root", &root)
        .def("policy", &policy)
        .def("nodes", &nodes)
        .def("details", &details);
    m.def("halving_sequence", &halving_sequence, py::arg("considered"), py::arg("simulations"));
}
