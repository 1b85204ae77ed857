// The gate of a gated MLP; formula in kernels/silu_mul/op.py.

#include "../op.h"
#include "dense.h"
#include "threads.h"

namespace vz {
namespace {

struct SiluMul {
  Out gate;
  View up;
  VZ_ARGUMENTS(gate, up)
};

void silu_mul(const SiluMul& a) {
  Dims dims;
  want_float("gate", a.gate);
  for (const auto& [name, view] : {Named{"gate", a.gate}, {"up", a.up}}) {
    dims.bind(name, view, "TF");
    want_dtype(name, view, a.gate.dtype);
    want_last_contiguous(name, view);
  }
  if (a.gate.empty()) return;
  const int64_t e = bytes(a.gate.dtype), size = dims['F'];
  const DenseKernels& run = dense_kernels();
  in_parts(dims['T'], size * e, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t)
      run.silu_mul(a.gate.dtype, a.gate.data + t * a.gate.stride[0] * e, a.up.data + t * a.up.stride[0] * e, size);
  });
}

}  // namespace

VZ_CPU_OP("silu_mul", SiluMul, silu_mul)

}  // namespace vz
