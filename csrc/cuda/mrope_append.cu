// mrope_append: one block of threads per token, one thread per pack of pairs (i, i + R) at a time. Bytes per token: q read
// and written, k and v read and written once, cos and sin read once (again from L1 for each head).
#include "../ops/mrope_append.h"
#include "launch.h"

namespace vz::gpu {
namespace {

struct MropeArgs {
  void *q, *k_pages, *v_pages;
  const void *k, *v, *cos, *sin;  // cos and sin are null if keys are written as they come
  const int64_t* slots;
  int64_t q_token, q_head, k_token, k_head, v_token, v_head, cos_token, sin_token;
  PageStrides kp, vp;
  int heads, kv_heads, pairs, block_size;
};

template <class T, class C, bool WIDE>
__global__ void __launch_bounds__(128) mrope_append_kernel(MropeArgs a) {
  constexpr int N = Pack<T>::N;
  const int64_t token = blockIdx.x;
  const int64_t slot = a.slots[token];
  const int64_t block = slot / a.block_size, offset = slot % a.block_size;
  const int packs = (a.pairs + N - 1) / N;
  const int items = (a.heads + 2 * a.kv_heads) * packs;
  for (int item = threadIdx.x; item < items; item += blockDim.x) {
    const int head = item / packs, i = (item - head * packs) * N;
    const int count = a.pairs - i;
    const bool is_q = head < a.heads, is_k = !is_q && head < a.heads + a.kv_heads;
    const int group = head - a.heads - (is_k ? 0 : a.kv_heads);
    if (!is_q && slot < 0) continue;
    const T* from;
    T* to;
    if (is_q) {
      to = static_cast<T*>(a.q) + token * a.q_token + head * a.q_head + i;
      from = to;
    } else if (is_k) {
      from = static_cast<const T*>(a.k) + token * a.k_token + group * a.k_head + i;
      to = static_cast<T*>(a.k_pages) + block * a.kp.block + offset * a.kp.offset + group * a.kp.head + i;
    } else {
      from = static_cast<const T*>(a.v) + token * a.v_token + group * a.v_head + i;
      to = static_cast<T*>(a.v_pages) + block * a.vp.block + offset * a.vp.offset + group * a.vp.head + i;
    }
    Pack<T> first = load_pack<WIDE>(from, count), second = load_pack<WIDE>(from + a.pairs, count);
    if (a.cos && (is_q || is_k)) {
      float cos[N], sin[N];
      load_floats<WIDE>(static_cast<const C*>(a.cos) + token * a.cos_token + i, count, cos);
      load_floats<WIDE>(static_cast<const C*>(a.sin) + token * a.sin_token + i, count, sin);
      rotate(first, second, cos, sin);
    }
    store_pack<WIDE>(to, first, count);
    store_pack<WIDE>(to + a.pairs, second, count);
  }
}

void mrope_append(const MropeAppend& in, void* stream) {
  Dims dims;
  bool wide = true;
  const auto check = [&](const char* name, const View& view, const char* letters, Dtype dtype) {
    dims.bind(name, view, letters);
    want_dtype(name, view, dtype);
    want_last_contiguous(name, view);
    wide = wide && rows_aligned(view);
  };
  const Dtype dtype = in.k.dtype;
  if (in.q) check("q", *in.q, "THD", dtype);
  check("k", in.k, "TGD", dtype);
  check("v", in.v, "TGD", dtype);
  check("k_pages", in.k_pages, "NPGD", dtype);
  check("v_pages", in.v_pages, "NPGD", dtype);
  dims.bind("slots", in.slots, "T");
  want_dtype("slots", in.slots, Dtype::i64);
  want_contiguous("slots", in.slots);
  if (!in.cos != !in.sin) throw BadArgument("cos and sin must both be given or both be None");
  if (in.q && !in.cos) throw BadArgument("q is given, but no cos and sin to rotate it by");
  if (in.cos) {
    const Dtype angles = in.cos->dtype == dtype ? dtype : Dtype::f32;
    check("cos", *in.cos, "TR", angles);
    check("sin", *in.sin, "TR", angles);
    if (dims['D'] != 2 * dims['R']) throw BadArgument("cos must hold head_dim / 2 angles per token");
  }
  if (dims['D'] % 2) throw BadArgument("head_dim must be even, got " + std::to_string(dims['D']));
  wide = wide && dims['D'] / 2 * bytes(dtype) % 16 == 0;
  if (in.k.empty() && (!in.q || in.q->empty())) return;

  MropeArgs a = {};
  if (in.q) {
    a.q = in.q->data, a.q_token = in.q->stride[0], a.q_head = in.q->stride[1];
    a.heads = dims.as_int('H');
  }
  if (in.cos) {
    a.cos = in.cos->data, a.cos_token = in.cos->stride[0];
    a.sin = in.sin->data, a.sin_token = in.sin->stride[0];
  }
  a.k = in.k.data, a.k_token = in.k.stride[0], a.k_head = in.k.stride[1];
  a.v = in.v.data, a.v_token = in.v.stride[0], a.v_head = in.v.stride[1];
  a.k_pages = in.k_pages.data, a.v_pages = in.v_pages.data, a.slots = in.slots.as<const int64_t>();
  a.kp = page_strides(in.k_pages), a.vp = page_strides(in.v_pages);
  a.kv_heads = dims.as_int('G');
  a.pairs = dims.as_int('D') / 2, a.block_size = dims.as_int('P');
  const OnDevice device(in.k.device_id);
  const dim3 grid(dims.as_int('T'));
  with_type("k", dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    with_bool(wide, [&](auto w) {
      constexpr bool WIDE = decltype(w)::value;
      if (!in.cos || in.cos->dtype == Dtype::f32) {
        launch(mrope_append_kernel<T, float, WIDE>, grid, dim3(128), 0, stream, a);
      } else {
        launch(mrope_append_kernel<T, T, WIDE>, grid, dim3(128), 0, stream, a);
      }
    });
  });
}

}  // namespace

VZ_CUDA_OP("mrope_append", MropeAppend, mrope_append)

}  // namespace vz::gpu
