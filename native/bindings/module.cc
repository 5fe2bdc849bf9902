#include "bindings.h"

PYBIND11_MODULE(_native, m) {
    m.doc() = "worldfleet kernels; use the package `native`, not this module.";
    init_crc32(m);
    init_ensemble(m);
    init_gather(m);
    init_mcts(m);
    init_search(m);
    init_sum_tree(m);
}
