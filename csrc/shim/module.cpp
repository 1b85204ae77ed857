// A Python module with the CUDA ops compiled for the CPU, for the tests: same bindings, same kernels, CPU tensors.
#include <pybind11/pybind11.h>

#include "../bind_ops.h"
#include "cuda_shim.h"
#include "faults.h"

PYBIND11_MODULE(_vzoom_shim, m) {
  pybind11::register_local_exception<vz::BadArgument>(m, "BadArgument", PyExc_ValueError);
  m.def("set_order", &shim::set_order, "The order in which blocks and threads run: forward, backward or shuffled.");
  m.def("run_fault", &shim::run_fault, "Runs a kernel that is wrong: barrier, lane, alignment, shared or race.");
  vz::bind_cuda_ops(m);
}
