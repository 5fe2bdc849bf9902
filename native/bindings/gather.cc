#include "native/gather.h"

#include <pybind11/stl.h>

#include "arrays.h"
#include "bindings.h"

namespace py = pybind11;
using namespace native;

namespace {

// Keeps the arrays alive that the kernel copies from.
class Gather {
  public:
    Gather(std::vector<py::array> arrays, int threads)
        : arrays_(std::move(arrays)), kernel_(views(), threads) {}

    // out[a] is filled in place with the rows of array a.
    void gather(const InputArray<int64_t>& first, const InputArray<int64_t>& count,
                std::vector<py::array> out) {
        check_shape(first, "first", {-1});
        check_shape(count, "count", {first.size()});
        copy(first.data(), count.data(), first.size(), out);
    }

    void gather_chains(const InputArray<int64_t>& chunk, const InputArray<int64_t>& offset, int64_t length,
                       int64_t chunk_steps, const InputArray<int64_t>& next_chunk,
                       std::vector<py::array> out) {
        check_shape(chunk, "chunk", {-1});
        check_shape(offset, "offset", {chunk.size()});
        check_shape(next_chunk, "next_chunk", {-1});
        if (chunk_steps < 1 || length < 1)
            throw std::invalid_argument("length and chunk_steps must be at least 1, not " +
                                        std::to_string(length) + " and " + std::to_string(chunk_steps));
        const ChunkChain chain{next_chunk.data(), next_chunk.size(), chunk_steps};
        std::vector<int64_t> first, count;
        for (py::ssize_t i = 0; i < chunk.size(); ++i)
            append_runs(chain, chunk.data()[i], offset.data()[i], length, first, count);
        copy(first.data(), count.data(), static_cast<int64_t>(first.size()), out);
    }

  private:
    void copy(const int64_t* first, const int64_t* count, int64_t runs, std::vector<py::array>& out) {
        const int64_t rows = kernel_.check(first, count, runs);
        if (out.size() != arrays_.size())
            throw std::invalid_argument("out must hold " + std::to_string(arrays_.size()) + " arrays, not " +
                                        std::to_string(out.size()));
        std::vector<std::byte*> targets;
        for (std::size_t a = 0; a < out.size(); ++a) targets.push_back(target(out[a], a, rows));
        py::gil_scoped_release release;
        kernel_.gather(first, count, runs, targets.data());
    }

    std::vector<RowArray> views() const {
        std::vector<RowArray> views;
        for (const py::array& array : arrays_) {
            if (array.ndim() < 1 || !(array.flags() & py::array::c_style))
                throw std::invalid_argument("arrays must be C-contiguous, with rows first");
            const std::size_t rows = static_cast<std::size_t>(array.shape(0));
            views.push_back({static_cast<const std::byte*>(array.data()),
                             static_cast<std::size_t>(array.nbytes()) / std::max<std::size_t>(rows, 1),
                             static_cast<int64_t>(rows)});
        }
        return views;
    }

    std::byte* target(py::array& out, std::size_t a, int64_t rows) const {
        const std::string name = "out[" + std::to_string(a) + "]";
        if (!out.dtype().equal(arrays_[a].dtype()))
            throw std::invalid_argument(name + " must have dtype " +
                                        std::string(py::str(arrays_[a].dtype())) + ", not " +
                                        std::string(py::str(out.dtype())));
        if (!(out.flags() & py::array::c_style)) throw std::invalid_argument(name + " must be C-contiguous");
        if (!out.writeable()) throw std::invalid_argument(name + " must be writeable");
        const std::size_t expected = static_cast<std::size_t>(rows) * kernel_.arrays()[a].row_bytes;
        if (static_cast<std::size_t>(out.nbytes()) != expected)
            throw std::invalid_argument(name + " must have " + std::to_string(expected) + " bytes, not " +
                                        std::to_string(out.nbytes()));
        return static_cast<std::byte*>(out.mutable_data());
    }

    std::vector<py::array> arrays_;
    RowGather kernel_;
};

}  // namespace

void init_gather(py::module_& m) {
    py::class_<Gather>(m, "RowGather", "Copies runs of rows of several arrays into contiguous outputs.")
        .def(py::init<std::vector<py::array>, int>(), py::arg("arrays").noconvert(), py::arg("threads") = 1)
        .def("gather", &Gather::gather, py::arg("first").noconvert(), py::arg("count").noconvert(),
             py::arg("out").noconvert())
        .def("gather_chains", &Gather::gather_chains, py::arg("chunk").noconvert(),
             py::arg("offset").noconvert(), py::arg("length"), py::arg("chunk_steps"),
             py::arg("next_chunk").noconvert(), py::arg("out").noconvert());
}
