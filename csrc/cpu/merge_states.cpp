// Two partial attentions joined by their log-sum-exp; see kernels/merge_states/op.py.

#include <cmath>
#include <string>

#include "move.h"
#include "threads.h"

namespace vz {

void merge_states(const View& out_a, const View& lse_a, const View& out_b, const View& lse_b, const View& out,
                  const View* lse) {
  Dims dims;
  dims.bind("out_a", out_a, "THD");
  dims.bind("lse_a", lse_a, "TH");
  dims.bind("out_b", out_b, "THD");
  dims.bind("lse_b", lse_b, "TH");
  dims.bind("out", out, "THD");
  if (lse) {
    dims.bind("lse", *lse, "TH");
    want_dtype("lse", *lse, Dtype::f32);
    want_cpu("lse", *lse);
  }
  const struct { const char* name; const View& view; } all[] = {
      {"out_a", out_a}, {"lse_a", lse_a}, {"out_b", out_b}, {"lse_b", lse_b}, {"out", out}};
  for (const auto& [name, view] : all) want_cpu(name, view);
  want_dtype("lse_a", lse_a, Dtype::f32);
  want_dtype("lse_b", lse_b, Dtype::f32);
  want_dtype("out_b", out_b, out_a.dtype);
  want_dtype("out", out, out_a.dtype);
  want_last_contiguous("out_a", out_a);
  want_last_contiguous("out_b", out_b);
  want_last_contiguous("out", out);
  if (!is_float(out_a.dtype))
    throw BadArgument(std::string("out_a must be float32, bfloat16 or float16, got ") + name(out_a.dtype));

  const int64_t e = bytes(out.dtype), heads = dims['H'];
  const int size = static_cast<int>(dims['D']);
  const MoveKernels& run = move_kernels();
  const auto row = [&](const View& x, int64_t t, int64_t h) { return x.data + (t * x.stride[0] + h * x.stride[1]) * e; };
  const auto score = [](const View& x, int64_t t, int64_t h) -> float& {
    return x.as<float>()[t * x.stride[0] + h * x.stride[1]];
  };
  parallel_for(dims['T'] * heads, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t t = i / heads, h = i % heads;
      const float a = score(lse_a, t, h), b = score(lse_b, t, h), high = std::max(a, b);
      float weight_a = 0, weight_b = 0, both = high;
      if (high > -INFINITY) {
        const float exp_a = std::exp(a - high), exp_b = std::exp(b - high), sum = exp_a + exp_b;
        weight_a = exp_a / sum;
        weight_b = exp_b / sum;
        both = high + std::log(sum);
      }
      run.blend(out.dtype, row(out_a, t, h), weight_a, row(out_b, t, h), weight_b, row(out, t, h), size);
      if (lse) score(*lse, t, h) = both;
    }
  });
}

}  // namespace vz
