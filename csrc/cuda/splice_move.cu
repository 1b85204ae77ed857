// splice_move: threads move packs of pairs (i, i + R) of K, turned by one angle a frequency, and of V. A thread reads both
// halves before it writes them, so a token may move onto itself.
#include "../ops/splice_move.h"
#include "launch.h"

namespace vz::gpu {
namespace {

constexpr int kThreads = 128, kTokens = 4;  // tokens per block of threads

struct SpliceArgs {
  void *k_pages, *v_pages;
  const int64_t *sources, *targets;
  const float *cos, *sin;
  PageStrides k, v;
  int64_t tokens;
  int kv_heads, pairs, block_size;
};

// Grid: tile of tokens, layer.
template <class T, bool WIDE>
__global__ void __launch_bounds__(kThreads) splice_move_kernel(SpliceArgs a) {
  constexpr int N = Pack<T>::N;
  const int packs = (a.pairs + N - 1) / N;
  const int items = 2 * a.kv_heads * packs;  // of a token: K, then V
  const int64_t layer = blockIdx.y;
  for (int item = threadIdx.x; item < kTokens * items; item += kThreads) {
    const int nth = item / items;
    const int64_t token = static_cast<int64_t>(blockIdx.x) * kTokens + nth;
    if (token >= a.tokens) break;
    const int64_t source = a.sources[token], target = a.targets[token];
    if (source < 0 || target < 0) continue;
    const int row = (item - nth * items) / packs;
    const int i = (item - nth * items - row * packs) * N, count = a.pairs - i;
    const bool is_k = row < a.kv_heads;
    const PageStrides& s = is_k ? a.k : a.v;
    T* const pages = static_cast<T*>(is_k ? a.k_pages : a.v_pages) + layer * s.layer +
                     (is_k ? row : row - a.kv_heads) * s.head + i;
    const T* from = pages + source / a.block_size * s.block + source % a.block_size * s.offset;
    T* to = pages + target / a.block_size * s.block + target % a.block_size * s.offset;
    Pack<T> first = load_pack<WIDE>(from, count), second = load_pack<WIDE>(from + a.pairs, count);
    if (a.cos && is_k) {
      float cos[N], sin[N];
      load_floats<WIDE>(a.cos + i, count, cos);
      load_floats<WIDE>(a.sin + i, count, sin);
      rotate(first, second, cos, sin);
    }
    store_pack<WIDE>(to, first, count);
    store_pack<WIDE>(to + a.pairs, second, count);
  }
}

void splice_move(const SpliceMove& in, void* stream) {
  Dims dims;
  dims.bind("k_pages", in.k_pages, "LNPGD");
  dims.bind("v_pages", in.v_pages, "LNPGD");
  dims.bind("sources", in.sources, "T");
  dims.bind("targets", in.targets, "T");
  want_dtype("v_pages", in.v_pages, in.k_pages.dtype);
  for (const auto& [name, view] : {Named{"sources", in.sources}, {"targets", in.targets}}) {
    want_dtype(name, view, Dtype::i64);
    want_contiguous(name, view);
  }
  want_last_contiguous("k_pages", in.k_pages);
  want_last_contiguous("v_pages", in.v_pages);
  if (dims['D'] % 2) throw BadArgument("head_dim must be even, got " + std::to_string(dims['D']));
  if (!in.cos != !in.sin) throw BadArgument("cos and sin must both be given or both be None");
  bool wide = dims['D'] / 2 * bytes(in.k_pages.dtype) % 16 == 0 && rows_aligned(in.k_pages) && rows_aligned(in.v_pages);
  if (in.cos) {
    for (const auto& [name, view] : {Named{"cos", *in.cos}, {"sin", *in.sin}}) {
      want_dtype(name, view, Dtype::f32);
      want_contiguous(name, view);
      if (view.ndim != 1 || view.shape[0] != dims['D'] / 2)
        throw BadArgument(std::string(name) + " must hold head_dim / 2 angles, got " + shape_text(view));
      wide = wide && rows_aligned(view);
    }
  }
  if (!dims['T'] || in.k_pages.empty()) return;

  SpliceArgs a;
  a.k_pages = in.k_pages.data, a.v_pages = in.v_pages.data;
  a.sources = in.sources.as<const int64_t>(), a.targets = in.targets.as<const int64_t>();
  a.cos = in.cos ? in.cos->as<const float>() : nullptr, a.sin = in.sin ? in.sin->as<const float>() : nullptr;
  a.k = page_strides(in.k_pages), a.v = page_strides(in.v_pages);
  a.tokens = dims['T'], a.kv_heads = dims.as_int('G');
  a.pairs = dims.as_int('D') / 2, a.block_size = dims.as_int('P');
  const dim3 grid(ceil_div(dims['T'], kTokens), dims.as_int('L'));
  const OnDevice device(in.k_pages.device_id);
  with_type("k_pages", in.k_pages.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    with_bool(wide, [&](auto w) {
      launch(splice_move_kernel<T, decltype(w)::value>, grid, dim3(kThreads), 0, stream, a);
    });
  });
}

}  // namespace

VZ_CUDA_OP("splice_move", SpliceMove, splice_move)

}  // namespace vz::gpu
