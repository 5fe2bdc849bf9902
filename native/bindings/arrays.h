// NumPy arrays at the boundary: shape checks that name what is wrong, and outputs that own their memory.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <initializer_list>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace native {

// C-contiguous input of exactly this dtype: bind it with noconvert(), so that a wrong one is a TypeError, not
// a copy.
template <class T>
using InputArray = pybind11::array_t<T, pybind11::array::c_style>;

inline std::string shape_text(const std::vector<pybind11::ssize_t>& shape) {
    std::string text = "[";
    for (const pybind11::ssize_t size : shape)
        text += (text.size() > 1 ? ", " : "") + (size < 0 ? std::string("any") : std::to_string(size));
    return text + "]";
}

// Throws std::invalid_argument unless the array has this shape; -1 allows any size.
inline void check_shape(const pybind11::array& array, const std::string& name,
                        const std::vector<pybind11::ssize_t>& expected) {
    const std::vector<pybind11::ssize_t> shape(array.shape(), array.shape() + array.ndim());
    bool equal = shape.size() == expected.size();
    for (std::size_t i = 0; equal && i < shape.size(); ++i)
        equal = expected[i] < 0 || shape[i] == expected[i];
    if (!equal)
        throw std::invalid_argument(name + " must have shape " + shape_text(expected) + ", not " +
                                    shape_text(shape));
}

// The same without a copy of anything where the shape is right.
inline void check_shape(const pybind11::array& array, const char* name,
                        std::initializer_list<pybind11::ssize_t> expected) {
    bool equal = array.ndim() == static_cast<pybind11::ssize_t>(expected.size());
    for (pybind11::ssize_t i = 0; equal && i < array.ndim(); ++i)
        equal = expected.begin()[i] < 0 || array.shape(i) == expected.begin()[i];
    if (!equal) check_shape(array, std::string(name), std::vector<pybind11::ssize_t>(expected));
}

// An uninitialised array whose buffer a capsule owns.
template <class T>
pybind11::array_t<T> make_output(const std::vector<pybind11::ssize_t>& shape) {
    std::size_t count = 1;
    for (const pybind11::ssize_t size : shape) count *= static_cast<std::size_t>(size);
    auto buffer = std::unique_ptr<T[]>(new T[count]);
    T* data = buffer.get();
    const pybind11::capsule owner(data, [](void* memory) { delete[] static_cast<T*>(memory); });
    buffer.release();
    return pybind11::array_t<T>(shape, data, owner);
}

}  // namespace native
