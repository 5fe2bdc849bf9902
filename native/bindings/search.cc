#include "native/search.h"

#include <pybind11/stl.h>

#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>

#include "arrays.h"
#include "bindings.h"

namespace py = pybind11;

namespace {

using native::Search;
using native::SearchCarry;
using native::SearchConfig;
using native::SearchState;

using Shape = std::vector<py::ssize_t>;
using native::InputArray;

template <class To, class From>
std::vector<To> copy_in(const char* name, const InputArray<From>& array, const Shape& shape) {
    native::check_shape(array, name, shape);
    return std::vector<To>(array.data(), array.data() + array.size());
}

template <class To, class From>
py::array_t<To> copy_out(const std::vector<From>& values, const Shape& shape) {
    py::array_t<To> array = native::make_output<To>(shape);
    std::copy(values.begin(), values.end(), array.mutable_data());
    return array;
}

native::Sampling parse_sampling(const std::string& name) {
    if (name == "gaussian") return native::Sampling::kGaussian;
    if (name == "truncated") return native::Sampling::kTruncated;
    if (name == "uniform") return native::Sampling::kUniform;
    throw std::invalid_argument("sampling must be gaussian, truncated or uniform, not " + name);
}

native::Weighting parse_weighting(const std::string& name) {
    if (name == "uniform") return native::Weighting::kUniform;
    if (name == "softmax") return native::Weighting::kSoftmax;
    throw std::invalid_argument("weighting must be uniform or softmax, not " + name);
}

std::shared_ptr<Search> make_search(const InputArray<float>& low, const InputArray<float>& high, int horizon,
                                    int population, int elites, int iterations, double momentum,
                                    double noise_beta, double population_decay, double keep_fraction,
                                    double init_std, double min_std, double temperature,
                                    const std::string& sampling, const std::string& weighting,
                                    bool update_std, bool include_mean, bool execute_best, bool warm_start) {
    SearchConfig config;
    config.horizon = horizon;
    config.population = population;
    config.elites = elites;
    config.iterations = iterations;
    config.momentum = momentum;
    config.noise_beta = noise_beta;
    config.population_decay = population_decay;
    config.keep_fraction = keep_fraction;
    config.init_std = init_std;
    config.min_std = min_std;
    config.temperature = temperature;
    config.sampling = parse_sampling(sampling);
    config.weighting = parse_weighting(weighting);
    config.update_std = update_std;
    config.include_mean = include_mean;
    config.execute_best = execute_best;
    config.warm_start = warm_start;
    return std::make_shared<Search>(config, copy_in<float>("low", low, {low.size()}),
                                    copy_in<float>("high", high, {low.size()}));
}

std::unique_ptr<SearchState> begin(std::shared_ptr<Search> search, const InputArray<float>& mean,
                                   const InputArray<float>& elites, const InputArray<bool>& has_elites,
                                   const InputArray<uint64_t>& seed, const InputArray<int64_t>& step,
                                   const InputArray<bool>& is_first) {
    const py::ssize_t B = seed.size(), H = search->config().horizon, A = search->action_size();
    SearchCarry carry;
    carry.seed = copy_in<uint64_t>("seed", seed, {B});
    carry.mean = copy_in<float>("mean", mean, {B, H, A});
    carry.elites = copy_in<float>("elites", elites, {B, search->num_kept(), H, A});
    carry.has_elites = copy_in<uint8_t>("has_elites", has_elites, {B});
    carry.step = copy_in<int64_t>("step", step, {B});
    return std::make_unique<SearchState>(std::move(search), std::move(carry),
                                         copy_in<uint8_t>("is_first", is_first, {B}));
}

Shape sequence_shape(const SearchState& state, Shape leading) {
    leading.push_back(state.search().config().horizon);
    leading.push_back(state.search().action_size());
    return leading;
}

py::array_t<float> ask(SearchState& state) {
    const std::vector<float>* candidates;
    {
        py::gil_scoped_release release;
        candidates = &state.ask();
    }
    return copy_out<float>(*candidates,
                           sequence_shape(state, {state.num_problems(), state.num_candidates()}));
}

void tell(SearchState& state, const InputArray<float>& scores,
          const std::optional<InputArray<float>>& violations) {
    const Shape shape = {state.num_problems(), state.num_candidates()};
    const auto values = copy_in<float>("scores", scores, shape);
    std::vector<float> excess;
    if (violations) excess = copy_in<float>("violations", *violations, shape);
    py::gil_scoped_release release;
    state.tell(values.data(), violations ? excess.data() : nullptr);
}

// (plan, mean, elites, has_elites, step): the plan and the fields of the next carry.
py::tuple finish(const SearchState& state) {
    const py::ssize_t B = state.num_problems();
    const SearchCarry carry = state.carry();
    return py::make_tuple(
        copy_out<float>(state.plan(), sequence_shape(state, {B})),
        copy_out<float>(carry.mean, sequence_shape(state, {B})),
        copy_out<float>(carry.elites, sequence_shape(state, {B, state.search().num_kept()})),
        copy_out<bool>(carry.has_elites, {B}), copy_out<int64_t>(carry.step, {B}));
}

}  // namespace

void init_search(py::module_& m) {
    py::class_<Search, std::shared_ptr<Search>>(m, "Search",
                                                "Configuration of a sampling-based search; immutable.")
        .def(py::init(&make_search), py::arg("low").noconvert(), py::arg("high").noconvert(), py::kw_only(),
             py::arg("horizon"), py::arg("population"), py::arg("elites"), py::arg("iterations"),
             py::arg("momentum") = 0.1, py::arg("noise_beta") = 0.0, py::arg("population_decay") = 1.0,
             py::arg("keep_fraction") = 0.0, py::arg("init_std") = 0.5, py::arg("min_std") = 0.0,
             py::arg("temperature") = 1.0, py::arg("sampling") = "gaussian", py::arg("weighting") = "uniform",
             py::arg("update_std") = true, py::arg("include_mean") = false, py::arg("execute_best") = false,
             py::arg("warm_start") = true)
        .def_property_readonly("num_kept", &Search::num_kept, "Elites E that a carry holds.")
        .def("num_candidates", &Search::num_candidates, py::arg("iteration"), "Candidates N of an iteration.")
        .def("begin", &begin, py::arg("mean").noconvert(), py::arg("elites").noconvert(),
             py::arg("has_elites").noconvert(), py::arg("seed").noconvert(), py::arg("step").noconvert(),
             py::arg("is_first").noconvert(), "Starts a plan of B problems.");
    py::class_<SearchState>(m, "SearchState", "A plan in progress: ask and tell by turns, then finish.")
        .def_property_readonly("iteration", &SearchState::iteration)
        .def(
            "noise_seeds",
            [](const SearchState& state) {
                return copy_out<uint64_t>(state.noise_seeds(),
                                          {static_cast<py::ssize_t>(state.num_problems())});
            },
            "Seeds [B] of the model's noise in this iteration.")
        .def("ask", &ask, "Candidates [B, N, H, A] of the next iteration.")
        .def("tell", &tell, py::arg("scores").noconvert(), py::arg("violations").noconvert() = py::none(),
             "Scores [B, N] of the candidates of the last ask, and their violations of constraints.")
        .def(
            "best",
            [](const SearchState& state) {
                return copy_out<float>(state.best(), sequence_shape(state, {state.num_problems()}));
            },
            "Best candidate [B, H, A] of the last iteration.")
        .def("finish", &finish, "(plan, mean, elites, has_elites, step).");
}
