// Two partial attentions joined by their log-sum-exp; see kernels/merge_states/op.py.

#include <cmath>
#include <string>

#include "../ops/merge_states.h"
#include "move.h"
#include "threads.h"

namespace vz {
namespace {

void merge_states(const MergeStates& a) {
  Dims dims;
  dims.bind("out_a", a.out_a, "THD");
  dims.bind("lse_a", a.lse_a, "TH");
  dims.bind("out_b", a.out_b, "THD");
  dims.bind("lse_b", a.lse_b, "TH");
  dims.bind("out", a.out, "THD");
  if (a.lse) {
    dims.bind("lse", *a.lse, "TH");
    want_dtype("lse", *a.lse, Dtype::f32);
  }
  want_dtype("lse_a", a.lse_a, Dtype::f32);
  want_dtype("lse_b", a.lse_b, Dtype::f32);
  want_float("out_a", a.out_a);
  for (const auto& [name, view] : {Named{"out_a", a.out_a}, {"out_b", a.out_b}, {"out", a.out}}) {
    want_dtype(name, view, a.out_a.dtype);
    want_last_contiguous(name, view);
  }

  const int64_t e = bytes(a.out.dtype), heads = dims['H'];
  const int size = dims.as_int('D');
  const MoveKernels& run = move_kernels();
  const auto row = [&](const View& x, int64_t t, int64_t h) { return x.data + (t * x.stride[0] + h * x.stride[1]) * e; };
  const auto score = [](const View& x, int64_t t, int64_t h) -> float& {
    return x.as<float>()[t * x.stride[0] + h * x.stride[1]];
  };
  parallel_for(dims['T'] * heads, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t t = i / heads, h = i % heads;
      const float lse_a = score(a.lse_a, t, h), lse_b = score(a.lse_b, t, h), high = std::max(lse_a, lse_b);
      float weight_a = 0, weight_b = 0, both = high;
      if (high > -INFINITY) {
        const float exp_a = std::exp(lse_a - high), exp_b = std::exp(lse_b - high), sum = exp_a + exp_b;
        weight_a = exp_a / sum;
        weight_b = exp_b / sum;
        both = high + std::log(sum);
      }
      if (size > 0)
        run.blend(a.out.dtype, row(a.out_a, t, h), weight_a, row(a.out_b, t, h), weight_b, row(a.out, t, h), size);
      if (a.lse) score(*a.lse, t, h) = both;
    }
  });
}

}  // namespace

VZ_CPU_OP("merge_states", MergeStates, merge_states)

}  // namespace vz
