#include "native/sum_tree.h"

#include "arrays.h"
#include "bindings.h"

namespace py = pybind11;
using namespace native;

// A call takes microseconds: it keeps the GIL, which also keeps two threads from using one tree at once.
namespace {

void update(SumTree& tree, const InputArray<int64_t>& index, const InputArray<double>& priority) {
    check_shape(index, "index", {-1});
    check_shape(priority, "priority", {index.size()});
    tree.update(index.data(), priority.data(), index.size());
}

void assign(SumTree& tree, int64_t first, const InputArray<double>& priority) {
    check_shape(priority, "priority", {-1});
    tree.assign(first, priority.data(), priority.size());
}

py::array_t<double> get(const SumTree& tree, const InputArray<int64_t>& index) {
    check_shape(index, "index", {-1});
    auto priority = make_output<double>({index.size()});
    tree.get(index.data(), priority.mutable_data(), index.size());
    return priority;
}

py::tuple sample(const SumTree& tree, const InputArray<double>& uniform) {
    check_shape(uniform, "uniform", {-1});
    auto index = make_output<int64_t>({uniform.size()});
    auto priority = make_output<double>({uniform.size()});
    tree.sample(uniform.data(), index.mutable_data(), priority.mutable_data(), uniform.size());
    return py::make_tuple(index, priority);
}

}  // namespace

void init_sum_tree(py::module_& m) {
    py::class_<SumTree>(m, "SumTree", "Draws leaves in proportion to their float64 priorities.")
        .def(py::init<int64_t>(), py::arg("size"))
        .def_property_readonly("size", &SumTree::size)
        .def_property_readonly("total", &SumTree::total)
        .def_property_readonly("max_priority", &SumTree::max_priority)
        .def("update", &update, py::arg("index").noconvert(), py::arg("priority").noconvert())
        .def("assign", &assign, py::arg("first"), py::arg("priority").noconvert())
        .def("fill", &SumTree::fill, py::arg("first"), py::arg("count"), py::arg("priority"))
        .def("get", &get, py::arg("index").noconvert())
        .def("sample", &sample, py::arg("uniform").noconvert());
}
