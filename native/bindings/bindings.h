// One function per topic; each registers that topic's classes and functions with the module.
#pragma once

#include <pybind11/pybind11.h>

void init_crc32(pybind11::module_& m);
void init_driving(pybind11::module_& m);
void init_ensemble(pybind11::module_& m);
void init_gather(pybind11::module_& m);
void init_mcts(pybind11::module_& m);
void init_risk(pybind11::module_& m);
void init_ray_scene(pybind11::module_& m);
void init_search(pybind11::module_& m);
void init_sum_tree(pybind11::module_& m);
