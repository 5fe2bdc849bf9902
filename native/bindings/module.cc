#include "bindings.h"

namespace {

pybind11::dict build_dict() {
    pybind11::dict info;
    info["sources"] = NATIVE_SOURCES;
    info["compiler"] = __VERSION__;
    info["cplusplus"] = static_cast<int>(__cplusplus);
#ifdef NDEBUG
    info["assertions"] = false;
#else
    info["assertions"] = true;
#endif
    return info;
}

}  // namespace

PYBIND11_MODULE(_native, m) {
    m.doc() = "worldfleet kernels; use the package `native`, not this module.";
    m.def("build_info", &build_dict);
    init_crc32(m);
    init_driving(m);
    init_ensemble(m);
    init_gather(m);
    init_mcts(m);
    init_risk(m);
    init_ray_scene(m);
    init_search(m);
    init_sum_tree(m);
}
