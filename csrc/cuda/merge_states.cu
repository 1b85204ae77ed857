// merge_states: one thread per pack of an output row; both weights are found again by each thread of a row.
#include <cmath>

#include "../ops/merge_states.h"
#include "launch.h"

namespace vz::gpu {
namespace {

constexpr int kThreads = 128;

struct MergeArgs {
  const void *out_a, *out_b;
  const float *lse_a, *lse_b;
  void* out;
  float* lse;
  int64_t a_token, a_head, b_token, b_head, o_token, o_head;
  int64_t la_token, la_head, lb_token, lb_head, l_token, l_head;
  int64_t items;
  int heads, dim;
};

template <class T, bool WIDE>
__global__ void __launch_bounds__(kThreads) merge_states_kernel(MergeArgs a) {
  constexpr int N = Pack<T>::N;
  const int64_t item = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (item >= a.items) return;
  const int packs = (a.dim + N - 1) / N;
  const int64_t row = item / packs, token = row / a.heads, head = row % a.heads;
  const int i = static_cast<int>(item % packs) * N, count = a.dim - i;
  const float score_a = a.lse_a[token * a.la_token + head * a.la_head];
  const float score_b = a.lse_b[token * a.lb_token + head * a.lb_head];
  const float top = fmaxf(score_a, score_b);
  const float safe = top == -INFINITY ? 0.f : top;  // -inf - -inf is no number
  const float weight_a = expf(score_a - safe), weight_b = expf(score_b - safe);
  const float total = weight_a + weight_b, scale = total > 0 ? 1.f / total : 0.f;

  float merged[N] = {};
  // A side without keys may hold anything, NaN too: it is not read.
  if (weight_a > 0) {
    const auto* p = static_cast<const T*>(a.out_a) + token * a.a_token + head * a.a_head + i;
    const Pack<T> pack = load_pack<WIDE>(p, count);
#pragma unroll
    for (int j = 0; j < N; ++j) merged[j] = to_float(pack.x[j]) * (weight_a * scale);
  }
  if (weight_b > 0) {
    const auto* p = static_cast<const T*>(a.out_b) + token * a.b_token + head * a.b_head + i;
    const Pack<T> pack = load_pack<WIDE>(p, count);
#pragma unroll
    for (int j = 0; j < N; ++j) merged[j] += to_float(pack.x[j]) * (weight_b * scale);
  }
  Pack<T> result;
#pragma unroll
  for (int j = 0; j < N; ++j) result.x[j] = from_float<T>(merged[j]);
  store_pack<WIDE>(static_cast<T*>(a.out) + token * a.o_token + head * a.o_head + i, result, count);
  if (a.lse && i == 0) a.lse[token * a.l_token + head * a.l_head] = total > 0 ? safe + logf(total) : -INFINITY;
}

void merge_states(const MergeStates& in, void* stream) {
  Dims dims;
  bool wide = true;
  for (const auto& [name, view] : {Named{"out_a", in.out_a}, {"out_b", in.out_b}, {"out", in.out}}) {
    dims.bind(name, view, "THD");
    want_dtype(name, view, in.out_a.dtype);
    want_last_contiguous(name, view);
    wide = wide && rows_aligned(view);
  }
  dims.bind("lse_a", in.lse_a, "TH");
  dims.bind("lse_b", in.lse_b, "TH");
  want_dtype("lse_a", in.lse_a, Dtype::f32);
  want_dtype("lse_b", in.lse_b, Dtype::f32);
  if (in.lse) {
    dims.bind("lse", *in.lse, "TH");
    want_dtype("lse", *in.lse, Dtype::f32);
  }
  wide = wide && dims['D'] * bytes(in.out.dtype) % 16 == 0;

  want_float("out_a", in.out_a);
  MergeArgs a;
  a.out_a = in.out_a.data, a.out_b = in.out_b.data, a.out = in.out.data;
  a.lse_a = in.lse_a.as<const float>(), a.lse_b = in.lse_b.as<const float>();
  a.lse = in.lse ? in.lse->as<float>() : nullptr;
  a.a_token = in.out_a.stride[0], a.a_head = in.out_a.stride[1];
  a.b_token = in.out_b.stride[0], a.b_head = in.out_b.stride[1];
  a.o_token = in.out.stride[0], a.o_head = in.out.stride[1];
  a.la_token = in.lse_a.stride[0], a.la_head = in.lse_a.stride[1];
  a.lb_token = in.lse_b.stride[0], a.lb_head = in.lse_b.stride[1];
  a.l_token = in.lse ? in.lse->stride[0] : 0, a.l_head = in.lse ? in.lse->stride[1] : 0;
  a.heads = dims.as_int('H'), a.dim = dims.as_int('D');
  a.items = dims['T'] * dims['H'] * ceil_div(dims['D'], 16 / bytes(in.out.dtype));
  if (!a.items) return;
  const OnDevice device(in.out.device_id);
  with_type("out_a", in.out.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    with_bool(wide, [&](auto w) {
      launch(merge_states_kernel<T, decltype(w)::value>, dim3(ceil_div(a.items, kThreads)), dim3(kThreads), 0, stream, a);
    });
  });
}

}  // namespace

VZ_CUDA_OP("merge_states", MergeStates, merge_states)

}  // namespace vz::gpu
