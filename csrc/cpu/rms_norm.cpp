// Root mean square norm of rows, and the gate of a gated MLP; formulas in kernels/rms_norm and kernels/silu_mul.

#include <string>

#include "dense.h"
#include "move.h"
#include "threads.h"

namespace vz {
namespace {
constexpr int64_t kBytesWorthAThread = 64 << 10;

template <class F>
void in_parts(int64_t count, int64_t bytes_each, const F& work) {
  if (count * bytes_each < kBytesWorthAThread)
    work(int64_t{0}, count);
  else
    parallel_for(count, work);
}
}  // namespace

void rms_norm(const View& x, const View& weight, double epsilon, const View& out) {
  Dims dims;
  dims.bind("x", x, "THD");
  dims.bind("weight", weight, "D");
  dims.bind("out", out, "THD");
  if (!is_float(x.dtype)) throw BadArgument(std::string("x must be float32, bfloat16 or float16, got ") + name(x.dtype));
  const struct { const char* name; const View& view; } all[] = {{"x", x}, {"weight", weight}, {"out", out}};
  for (const auto& [name, view] : all) {
    want_dtype(name, view, x.dtype);
    want_last_contiguous(name, view);
    want_cpu(name, view);
  }
  const int64_t e = bytes(x.dtype), heads = dims['H'];
  const int size = static_cast<int>(dims['D']);
  const DenseKernels& run = dense_kernels();
  const auto row = [&](const View& v, int64_t i) {
    return v.data + (i / heads * v.stride[0] + i % heads * v.stride[1]) * e;
  };
  in_parts(dims['T'] * heads, size * e, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      run.rms_norm(x.dtype, row(x, i), weight.data, static_cast<float>(epsilon), row(out, i), size);
  });
}

void silu_mul(const View& gate, const View& up) {
  Dims dims;
  dims.bind("gate", gate, "TF");
  dims.bind("up", up, "TF");
  if (!is_float(gate.dtype))
    throw BadArgument(std::string("gate must be float32, bfloat16 or float16, got ") + name(gate.dtype));
  want_dtype("up", up, gate.dtype);
  want_last_contiguous("gate", gate);
  want_last_contiguous("up", up);
  want_cpu("gate", gate);
  want_cpu("up", up);
  const int64_t e = bytes(gate.dtype), size = dims['F'];
  const DenseKernels& run = dense_kernels();
  in_parts(dims['T'], size * e, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t)
      run.silu_mul(gate.dtype, gate.data + t * gate.stride[0] * e, up.data + t * up.stride[0] * e, size);
  });
}

}  // namespace vz
