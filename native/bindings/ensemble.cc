#include "native/ensemble.h"

#include <pybind11/stl.h>

#include "arrays.h"
#include "bindings.h"
#include "native/cpu.h"

namespace py = pybind11;

namespace native {
namespace {

using Floats = InputArray<float>;
using Seeds = InputArray<std::uint64_t>;

// Reads one ensemble weights record; holds the arrays that EnsembleWeights points into.
class WeightsRecord {
  public:
    explicit WeightsRecord(const py::dict& record) : record_(record) {
        const Floats output_shift = floats("output_shift", {-1});
        const Floats input_shift = floats("input_shift", {-1});
        weights_.state_size = static_cast<int>(output_shift.shape(0)) - 1;
        weights_.action_size = static_cast<int>(input_shift.shape(0)) - weights_.state_size;
        weights_.gaussian = flag("gaussian");
        weights_.has_termination = flag("has_termination");
        weights_.activation = parse_activation(activation_name());
        weights_.output_shift = output_shift.data();
        weights_.input_shift = input_shift.data();
        weights_.input_scale = floats("input_scale", {input_shift.shape(0)}).data();
        weights_.output_scale = floats("output_scale", {output_shift.shape(0)}).data();
        if (weights_.gaussian) {
            weights_.min_logvar = floats("min_logvar", {output_shift.shape(0)}).data();
            weights_.max_logvar = floats("max_logvar", {output_shift.shape(0)}).data();
        }
        read_layers();
    }

    const EnsembleWeights& weights() const { return weights_; }

  private:
    py::array entry(const std::string& key) const {
        if (!record_.contains(key)) throw std::invalid_argument("the weights record has no '" + key + "'");
        const py::object value = record_[py::str(key)];
        if (!py::isinstance<py::array>(value)) {
            throw std::invalid_argument("'" + key + "' must be a NumPy array, not " +
                                        py::str(py::type::of(value)).cast<std::string>());
        }
        return py::reinterpret_borrow<py::array>(value);
    }

    Floats floats(const std::string& key, const std::vector<py::ssize_t>& shape) {
        const py::array array = entry(key);
        if (!py::isinstance<Floats>(array)) {
            throw std::invalid_argument("'" + key + "' must be a C-contiguous float32 array, not " +
                                        py::str(array.dtype()).cast<std::string>());
        }
        check_shape(array, "'" + key + "'", shape);
        kept_.push_back(py::reinterpret_borrow<Floats>(array));
        return kept_.back();
    }

    bool flag(const std::string& key) const {
        const py::array array = entry(key);
        if (array.size() != 1 || array.dtype().kind() != 'i')
            throw std::invalid_argument("'" + key + "' must be one int64, 0 or 1");
        const auto value = py::int_(array.attr("item")()).cast<std::int64_t>();
        if (value != 0 && value != 1)
            throw std::invalid_argument("'" + key + "' must be 0 or 1, not " + std::to_string(value));
        return value == 1;
    }

    std::string activation_name() const {
        const py::array array = entry("activation");
        if (array.dtype().kind() != 'u' || array.itemsize() != 1)
            throw std::invalid_argument("'activation' must be a uint8 array of an ascii name");
        return array.attr("tobytes")().cast<std::string>();
    }

    void read_layers() {
        for (int i = 0; i == 0 || record_.contains("weight_" + std::to_string(i)); ++i) {
            const Floats weight =
                floats("weight_" + std::to_string(i), {i == 0 ? -1 : weights_.num_members, -1, -1});
            if (i == 0) weights_.num_members = static_cast<int>(weight.shape(0));
            const Floats bias = floats("bias_" + std::to_string(i), {weight.shape(0), weight.shape(2)});
            weights_.layers.push_back({static_cast<int>(weight.shape(1)), static_cast<int>(weight.shape(2)),
                                       weight.data(), bias.data()});
        }
    }

    py::dict record_;
    std::vector<Floats> kept_;
    EnsembleWeights weights_;
};

std::unique_ptr<Ensemble> make_ensemble(const py::dict& record, const std::string& precision,
                                        const std::optional<std::string>& isa, int threads) {
    const WeightsRecord read(record);
    return std::make_unique<Ensemble>(read.weights(), parse_precision(precision), isa, threads);
}

int to_int(py::ssize_t size, const char* name) {
    if (size > INT32_MAX)
        throw std::invalid_argument(std::string(name) + " is too large: " + std::to_string(size));
    return static_cast<int>(size);
}

py::object rollout(Ensemble& ensemble, const Floats& observation, const Floats& actions, const Seeds& seeds,
                   int particles, const std::string& propagation, float gamma, bool sample, bool states) {
    check_shape(actions, "actions", {-1, -1, -1, ensemble.action_size()});
    check_shape(observation, "observation", {actions.shape(0), ensemble.state_size()});
    check_shape(seeds, "seeds", {actions.shape(0)});
    RolloutRequest request;
    request.observation = observation.data();
    request.actions = actions.data();
    request.seeds = seeds.data();
    request.problems = to_int(actions.shape(0), "the number of problems");
    request.candidates = to_int(actions.shape(1), "the number of candidates");
    request.horizon = to_int(actions.shape(2), "the horizon");
    request.particles = particles;
    request.propagation = parse_propagation(propagation);
    request.gamma = gamma;
    request.sample = sample;
    ensemble.check(request);
    auto returns = make_output<float>({actions.shape(0), actions.shape(1), particles});
    float* data = returns.mutable_data();
    if (!states) {
        {
            const py::gil_scoped_release release;
            ensemble.rollout(request, data);
        }
        return returns;
    }
    auto paths = make_output<float>(
        {actions.shape(0), actions.shape(1), particles, actions.shape(2) + 1, ensemble.state_size()});
    float* path_data = paths.mutable_data();
    {
        const py::gil_scoped_release release;
        ensemble.rollout(request, data, path_data);
    }
    return py::make_tuple(returns, paths);
}

py::tuple trajectories(Ensemble& ensemble, const Floats& observation, const Floats& actions,
                       const Seeds& seeds, int particles, const std::string& propagation, bool sample) {
    check_shape(actions, "actions", {-1, -1, ensemble.action_size()});
    check_shape(observation, "observation", {actions.shape(0), ensemble.state_size()});
    check_shape(seeds, "seeds", {actions.shape(0)});
    RolloutRequest request;
    request.observation = observation.data();
    request.actions = actions.data();
    request.seeds = seeds.data();
    request.problems = to_int(actions.shape(0), "the number of problems");
    request.candidates = 1;
    request.horizon = to_int(actions.shape(1), "the horizon");
    request.particles = particles;
    request.propagation = parse_propagation(propagation);
    request.sample = sample;
    ensemble.check(request);
    auto states =
        make_output<float>({actions.shape(0), particles, actions.shape(1) + 1, ensemble.state_size()});
    auto rewards = make_output<float>({actions.shape(0), particles, actions.shape(1)});
    float* state_data = states.mutable_data();
    float* reward_data = rewards.mutable_data();
    {
        const py::gil_scoped_release release;
        ensemble.trajectories(request, state_data, reward_data);
    }
    return py::make_tuple(states, rewards);
}

py::tuple predict(Ensemble& ensemble, const Floats& state, const Floats& action) {
    check_shape(state, "state", {-1, ensemble.state_size()});
    const py::ssize_t rows = state.shape(0);
    check_shape(action, "action", {rows, ensemble.action_size()});
    const std::vector<py::ssize_t> shape = {ensemble.num_members(), rows, ensemble.state_size() + 1};
    auto mean = make_output<float>(shape);
    auto variance = make_output<float>(shape);
    auto done = make_output<float>({ensemble.num_members(), rows});
    float* mean_data = mean.mutable_data();
    float* variance_data = variance.mutable_data();
    float* done_data = done.mutable_data();
    {
        const py::gil_scoped_release release;
        ensemble.predict(state.data(), action.data(), rows, mean_data, variance_data, done_data);
    }
    return py::make_tuple(mean, variance, done);
}

py::array_t<std::int32_t> members_table(std::uint64_t seed, int horizon, int particles, int num_members,
                                        const std::string& propagation) {
    if (horizon < 1 || num_members < 1 || particles < 1 || particles % num_members != 0) {
        throw std::invalid_argument(
            "particles must be a positive multiple of num_members over a positive horizon, not " +
            std::to_string(particles) + " of " + std::to_string(num_members) + " over " +
            std::to_string(horizon));
    }
    const auto members =
        particle_members(seed, horizon, particles, num_members, parse_propagation(propagation));
    auto table = make_output<std::int32_t>({horizon, particles});
    std::copy(members.begin(), members.end(), table.mutable_data());
    return table;
}

py::dict features_dict() {
    const CpuFeatures& cpu = cpu_features();
    py::dict features;
    features["pclmul"] = cpu.pclmul;
    features["vpclmul"] = cpu.vpclmul;
    features["avx2"] = cpu.avx2;
    features["avx512"] = cpu.avx512;
    features["avx512bf16"] = cpu.avx512bf16;
    features["amx_bf16"] = cpu.amx_bf16;
    return features;
}

}  // namespace
}  // namespace native

void init_ensemble(py::module_& m) {
    using native::Ensemble;
    py::class_<Ensemble>(m, "Ensemble")
        .def(py::init(&native::make_ensemble), py::arg("weights"), py::arg("precision") = "auto",
             py::arg("isa") = py::none(), py::arg("threads") = 1)
        .def_property_readonly("num_members", &Ensemble::num_members)
        .def_property_readonly("state_size", &Ensemble::state_size)
        .def_property_readonly("action_size", &Ensemble::action_size)
        .def_property_readonly("is_gaussian", &Ensemble::is_gaussian)
        .def_property_readonly("threads", &Ensemble::threads)
        .def_property_readonly("isa", &Ensemble::isa)
        .def_property_readonly(
            "precision",
            [](const Ensemble& e) { return e.precision() == native::Precision::bf16 ? "bf16" : "fp32"; })
        .def("rollout", &native::rollout, py::arg("observation").noconvert(), py::arg("actions").noconvert(),
             py::arg("seeds").noconvert(), py::arg("particles"), py::arg("propagation"), py::arg("gamma"),
             py::arg("sample"), py::arg("states") = false)
        .def("trajectories", &native::trajectories, py::arg("observation").noconvert(),
             py::arg("actions").noconvert(), py::arg("seeds").noconvert(), py::arg("particles"),
             py::arg("propagation"), py::arg("sample"))
        .def("predict", &native::predict, py::arg("state").noconvert(), py::arg("action").noconvert());
    m.def("particle_members", &native::members_table, py::arg("seed"), py::arg("horizon"),
          py::arg("particles"), py::arg("num_members"), py::arg("propagation"));
    m.def("cpu_features", &native::features_dict);
}
