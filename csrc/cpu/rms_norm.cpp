// Root mean square norm of rows; formula in kernels/rms_norm/op.py.

#include <string>

#include "../op.h"
#include "dense.h"
#include "threads.h"

namespace vz {
namespace {

struct RmsNorm {
  View x, weight;
  double epsilon;
  Out out;
  VZ_ARGUMENTS(x, weight, epsilon, out)
};

void rms_norm(const RmsNorm& a) {
  Dims dims;
  dims.bind("x", a.x, "THD");
  dims.bind("weight", a.weight, "D");
  dims.bind("out", a.out, "THD");
  want_float("x", a.x);
  for (const auto& [name, view] : {Named{"x", a.x}, {"weight", a.weight}, {"out", a.out}}) {
    want_dtype(name, view, a.x.dtype);
    want_last_contiguous(name, view);
  }
  if (a.epsilon < 0) throw BadArgument("epsilon must not be negative, got " + std::to_string(a.epsilon));
  if (a.out.empty()) return;
  const int64_t e = bytes(a.x.dtype), heads = dims['H'];
  const int size = dims.as_int('D');
  const DenseKernels& run = dense_kernels();
  const auto row = [&](const View& v, int64_t i) {
    return v.data + (i / heads * v.stride[0] + i % heads * v.stride[1]) * e;
  };
  in_parts(dims['T'] * heads, size * e, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      run.rms_norm(a.x.dtype, row(a.x, i), a.weight.data, static_cast<float>(a.epsilon), row(a.out, i), size);
  });
}

}  // namespace

VZ_CPU_OP("rms_norm", RmsNorm, rms_norm)

}  // namespace vz
