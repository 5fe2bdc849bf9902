#include "bindings.h"

PYBIND11_MODULE(_native, m) {
    m.doc() = "worldfleet kernels; use the package `native`, not this module.";
    init_ensemble(m);
    init_search(m);
}
