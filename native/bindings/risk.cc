#include "native/risk.h"

#include <stdexcept>
#include <string>
#include <vector>

#include "arrays.h"
#include "bindings.h"

namespace py = pybind11;

namespace {

using native::InputArray;
using native::RiskMeasure;
using native::RiskPart;

RiskMeasure parse_measure(const std::string& name) {
    if (name == "mean") return RiskMeasure::kMean;
    if (name == "mean_std") return RiskMeasure::kMeanStd;
    if (name == "var") return RiskMeasure::kVar;
    if (name == "cvar") return RiskMeasure::kCvar;
    if (name == "worst") return RiskMeasure::kWorst;
    if (name == "entropic") return RiskMeasure::kEntropic;
    throw std::invalid_argument("measure must be mean, mean_std, var, cvar, worst or entropic, not " + name);
}

RiskPart parse_part(const std::string& name) {
    if (name == "both") return RiskPart::kBoth;
    if (name == "epistemic") return RiskPart::kEpistemic;
    if (name == "aleatoric") return RiskPart::kAleatoric;
    throw std::invalid_argument("part must be both, epistemic or aleatoric, not " + name);
}

py::array_t<float> risk_scores(const InputArray<float>& returns, const std::string& measure, double parameter,
                               const std::string& part, int members) {
    if (returns.ndim() < 1) throw std::invalid_argument("returns must have an axis of particles");
    const native::RiskConfig config{parse_measure(measure), parse_part(part), parameter, members};
    std::vector<py::ssize_t> shape(returns.shape(), returns.shape() + returns.ndim());
    const py::ssize_t particles = shape.back();
    shape.pop_back();
    native::check(config, static_cast<int>(particles));
    py::array_t<float> scores = native::make_output<float>(shape);
    const float* from = returns.data();
    float* to = scores.mutable_data();
    const py::ssize_t rows = scores.size();
    {
        const py::gil_scoped_release release;
        native::risk_scores(config, from, rows, static_cast<int>(particles), to);
    }
    return scores;
}

}  // namespace

void init_risk(py::module_& m) {
    m.def("risk_scores", &risk_scores, py::arg("returns").noconvert(), py::kw_only(),
          py::arg("measure") = "mean", py::arg("parameter") = 0.0, py::arg("part") = "both",
          py::arg("members") = 1);
}
