// mrope_append: one block of threads a token, one thread a pack of pairs (i, i + R) at a time. Bytes a token: q read and
// written, k and v read and written once, cos and sin read once (again from L1 for each head).
#include "launch.h"
#include "ops.h"

namespace vz::gpu {
namespace {

struct MropeArgs {
  void *q, *k_pages, *v_pages;
  const void *k, *v, *cos, *sin;
  const int64_t* slots;
  int64_t q_token, q_head, k_token, k_head, v_token, v_head, cos_token, sin_token;
  PageStrides kp, vp;
  int heads, groups, pairs, block_size;
};

template <class T, class C, bool WIDE>
__global__ void __launch_bounds__(128) mrope_append_kernel(MropeArgs a) {
  constexpr int N = Pack<T>::N;
  const int64_t token = blockIdx.x;
  const int64_t slot = a.slots[token];
  const int64_t block = slot / a.block_size, offset = slot % a.block_size;
  const int packs = (a.pairs + N - 1) / N;
  const int items = (a.heads + 2 * a.groups) * packs;
  for (int item = threadIdx.x; item < items; item += blockDim.x) {
    const int head = item / packs, i = (item - head * packs) * N;
    const int count = a.pairs - i;
    const bool is_q = head < a.heads, is_k = !is_q && head < a.heads + a.groups;
    const int group = head - a.heads - (is_k ? 0 : a.groups);
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
    if (is_q || is_k) {
      float cos[N], sin[N];
      load_floats<WIDE>(static_cast<const C*>(a.cos) + token * a.cos_token + i, count, cos);
      load_floats<WIDE>(static_cast<const C*>(a.sin) + token * a.sin_token + i, count, sin);
      rotate(first, second, cos, sin);
    }
    store_pack<WIDE>(to, first, count);
    store_pack<WIDE>(to + a.pairs, second, count);
  }
}

}  // namespace

void mrope_append(const View& q, const View& k, const View& v, const View& cos, const View& sin, const View& k_pages,
                  const View& v_pages, const View& slots, void* stream) {
  Dims dims;
  dims.bind("q", q, "THD");
  dims.bind("k", k, "TGD");
  dims.bind("v", v, "TGD");
  dims.bind("cos", cos, "TR");
  dims.bind("sin", sin, "TR");
  dims.bind("slots", slots, "T");
  dims.bind("k_pages", k_pages, "BSGD");
  dims.bind("v_pages", v_pages, "BSGD");
  if (dims['D'] != 2 * dims['R']) throw BadArgument("cos must hold head_dim / 2 angles a token");
  want_dtype("slots", slots, Dtype::i64);
  want_contiguous("slots", slots);
  for (const auto& [name, view] : {std::pair<const char*, const View&>{"k", k}, {"v", v}, {"k_pages", k_pages},
                                   {"v_pages", v_pages}})
    want_dtype(name, view, q.dtype);
  want_dtype("sin", sin, cos.dtype);
  if (cos.dtype != q.dtype) want_dtype("cos", cos, Dtype::f32);
  bool wide = dims['R'] * bytes(q.dtype) % 16 == 0;
  for (const auto& [name, view] : {std::pair<const char*, const View&>{"q", q}, {"k", k}, {"v", v}, {"cos", cos},
                                   {"sin", sin}, {"k_pages", k_pages}, {"v_pages", v_pages}}) {
    want_last_contiguous(name, view);
    wide = wide && rows_aligned(view);
  }
  if (!dims['T']) return;

  MropeArgs a;
  a.q = q.data, a.k = k.data, a.v = v.data, a.cos = cos.data, a.sin = sin.data;
  a.k_pages = k_pages.data, a.v_pages = v_pages.data, a.slots = slots.as<const int64_t>();
  a.q_token = q.stride[0], a.q_head = q.stride[1], a.k_token = k.stride[0], a.k_head = k.stride[1];
  a.v_token = v.stride[0], a.v_head = v.stride[1], a.cos_token = cos.stride[0], a.sin_token = sin.stride[0];
  a.kp = page_strides(k_pages), a.vp = page_strides(v_pages);
  a.heads = static_cast<int>(dims['H']), a.groups = static_cast<int>(dims['G']);
  a.pairs = static_cast<int>(dims['R']), a.block_size = static_cast<int>(dims['S']);
  const OnDevice device(q.device_id);
  const dim3 grid(static_cast<unsigned>(dims['T']));
  with_type("q", q.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    with_bool(wide, [&](auto w) {
      constexpr bool WIDE = decltype(w)::value;
      if (cos.dtype == Dtype::f32) {
        launch(mrope_append_kernel<T, float, WIDE>, grid, dim3(128), 0, stream, a);
      } else {
        launch(mrope_append_kernel<T, T, WIDE>, grid, dim3(128), 0, stream, a);
      }
    });
  });
}

}  // namespace vz::gpu
