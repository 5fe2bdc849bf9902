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

// The search and the arrays in which it names leaves.
class BoundMcts {
  public:
    BoundMcts(const MctsConfig& config, int threads) : mcts(config, threads) {}

    py::tuple begin(const InputArray<float>& logits, const InputArray<float>& value,
                    const InputArray<std::uint64_t>& seeds, const std::optional<InputArray<bool>>& invalid) {
        const py::ssize_t B = value.size(), A = mcts.config().num_actions;
        check_shape(value, "value", {-1});
        check_shape(logits, "logits", {B, A});
        check_shape(seeds, "seeds", {B});
        if (invalid) check_shape(*invalid, "invalid", {B, A});
        auto parent = make_output<std::int64_t>({B}), action = make_output<std::int64_t>({B});
        const auto* masked = invalid ? reinterpret_cast<const std::uint8_t*>(invalid->data()) : nullptr;
        run(B, [&] {
            mcts.begin(B, logits.data(), value.data(), masked, seeds.data(), parent.mutable_data(),
                       action.mutable_data());
        });
        parent_ = parent, action_ = action;
        return py::make_tuple(parent_, action_);
    }

    void expand(const InputArray<float>& logits, const InputArray<float>& value,
                const InputArray<float>& reward, const InputArray<float>& discount) {
        const py::ssize_t B = mcts.num_roots();
        check_shape(logits, "logits", {B, mcts.config().num_actions});
        check_shape(value, "value", {B});
        check_shape(reward, "reward", {B});
        check_shape(discount, "discount", {B});
        run(B, [&] {
            mcts.expand(logits.data(), value.data(), reward.data(), discount.data(), parent_.mutable_data(),
                        action_.mutable_data());
        });
    }

    Mcts mcts;

  private:
    static void run(py::ssize_t roots, const auto& work) {
        if (roots < kWorthReleasing) return work();
        py::gil_scoped_release release;
        work();
    }

    py::array_t<std::int64_t> parent_, action_;
};

py::tuple root(const BoundMcts& self) {
    const py::ssize_t B = self.mcts.num_roots(), A = self.mcts.config().num_actions;
    auto visits = make_output<std::int32_t>({B, A});
    auto q = make_output<float>({B, A}), value = make_output<float>({B});
    self.mcts.root(visits.mutable_data(), q.mutable_data(), value.mutable_data());
    return py::make_tuple(visits, q, value);
}

py::tuple policy(const BoundMcts& self) {
    const py::ssize_t B = self.mcts.num_roots();
    auto weights = make_output<float>({B, self.mcts.config().num_actions});
    auto action = make_output<std::int64_t>({B});
    self.mcts.policy(weights.mutable_data(), action.mutable_data());
    return py::make_tuple(weights, action);
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

std::unique_ptr<BoundMcts> make_mcts(int num_actions, int simulations, const std::string& selection,
                                     int max_depth, double c1, double c2, double dirichlet_alpha,
                                     double dirichlet_fraction, double gumbel_scale, int max_considered,
                                     double value_scale, double maxvisit_init, bool rescale, int threads) {
    MctsConfig config;
    config.num_actions = num_actions;
    config.simulations = simulations;
    config.selection = parse_selection(selection);
    config.max_depth = max_depth;
    config.c1 = c1;
    config.c2 = c2;
    config.dirichlet_alpha = dirichlet_alpha;
    config.dirichlet_fraction = dirichlet_fraction;
    config.gumbel_scale = gumbel_scale;
    config.max_considered = max_considered;
    config.value_scale = value_scale;
    config.maxvisit_init = maxvisit_init;
    config.rescale = rescale;
    return std::make_unique<BoundMcts>(config, threads);
}

}  // namespace

void init_mcts(py::module_& m) {
    py::class_<BoundMcts>(m, "Mcts", "Tree search over a learned model, for a batch of roots.")
        .def(py::init(&make_mcts), py::kw_only(), py::arg("num_actions"), py::arg("simulations"),
             py::arg("selection") = "puct", py::arg("max_depth") = 0, py::arg("c1") = 1.25,
             py::arg("c2") = 19652.0, py::arg("dirichlet_alpha") = 0.3, py::arg("dirichlet_fraction") = 0.0,
             py::arg("gumbel_scale") = 0.0, py::arg("max_considered") = 16, py::arg("value_scale") = 0.1,
             py::arg("maxvisit_init") = 50.0, py::arg("rescale") = true, py::arg("threads") = 1)
        .def_property_readonly("simulation", [](const BoundMcts& self) { return self.mcts.simulation(); })
        .def("begin", &BoundMcts::begin, py::arg("logits").noconvert(), py::arg("value").noconvert(),
             py::arg("seeds").noconvert(), py::arg("invalid").noconvert() = py::none())
        .def("expand", &BoundMcts::expand, py::arg("logits").noconvert(), py::arg("value").noconvert(),
             py::arg("reward").noconvert(), py::arg("discount").noconvert())
        .def("root", &root)
        .def("policy", &policy)
        .def("nodes", &nodes);
    m.def("halving_sequence", &halving_sequence, py::arg("considered"), py::arg("simulations"));
}
