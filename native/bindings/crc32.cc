#include "native/crc32.h"

#include "bindings.h"

namespace py = pybind11;

namespace {

constexpr py::ssize_t kReleaseBytes = 1 << 16;  // from here on other Python threads may run meanwhile

std::uint32_t crc32(const py::buffer& buffer, std::uint32_t crc) {
    Py_buffer view;
    if (PyObject_GetBuffer(buffer.ptr(), &view, PyBUF_SIMPLE) != 0) throw py::error_already_set();
    const auto* data = static_cast<const std::byte*>(view.buf);
    const auto bytes = static_cast<std::size_t>(view.len);
    if (view.len < kReleaseBytes) {
        crc = native::crc32(data, bytes, crc);
    } else {
        py::gil_scoped_release release;
        crc = native::crc32(data, bytes, crc);
    }
    PyBuffer_Release(&view);
    return crc;
}

}  // namespace

void init_crc32(py::module_& m) { m.def("crc32", &crc32, py::arg("buffer"), py::arg("crc") = 0U); }
