// copy_blocks: threads copy packs of 16 bytes of K and V; the element type does not matter, only its size.
#include "launch.h"
#include "ops.h"

namespace vz::gpu {
namespace {

constexpr int kThreads = 128, kPacksAThread = 4;

struct CopyArgs {
  void *k_pages, *v_pages;
  const int64_t *sources, *targets;
  PageStrides k, v;
  int groups, dim, rows;  // rows of head_dim in a block
};

// Grid: pair, piece of a block, layer.
template <class T, bool WIDE>
__global__ void __launch_bounds__(kThreads) copy_blocks_kernel(CopyArgs a) {
  constexpr int N = Pack<T>::N;
  const int64_t source = a.sources[blockIdx.x], target = a.targets[blockIdx.x], layer = blockIdx.z;
  if (source < 0 || target < 0) return;
  const int packs = (a.dim + N - 1) / N;
  const int items = a.rows * packs;
  T* const k = static_cast<T*>(a.k_pages) + layer * a.k.layer;
  T* const v = static_cast<T*>(a.v_pages) + layer * a.v.layer;
#pragma unroll
  for (int j = 0; j < kPacksAThread; ++j) {
    const int item = (blockIdx.y * kPacksAThread + j) * kThreads + threadIdx.x;
    if (item >= items) break;
    const int row = item / packs, i = (item - row * packs) * N, count = a.dim - i;
    // Heads run fastest: consecutive rows lie together.
    const int64_t offset = row / a.groups, head = row % a.groups;
    const int64_t in_k = offset * a.k.offset + head * a.k.head + i, in_v = offset * a.v.offset + head * a.v.head + i;
    const Pack<T> from_k = load_pack<WIDE>(k + source * a.k.block + in_k, count);
    const Pack<T> from_v = load_pack<WIDE>(v + source * a.v.block + in_v, count);
    store_pack<WIDE>(k + target * a.k.block + in_k, from_k, count);
    store_pack<WIDE>(v + target * a.v.block + in_v, from_v, count);
  }
}

}  // namespace

void copy_blocks(const View& k_pages, const View& v_pages, const View& sources, const View& targets, void* stream) {
  Dims dims;
  dims.bind("k_pages", k_pages, "LBSGD");
  dims.bind("v_pages", v_pages, "LBSGD");
  dims.bind("sources", sources, "N");
  dims.bind("targets", targets, "N");
  want_dtype("v_pages", v_pages, k_pages.dtype);
  for (const auto& [name, view] : {std::pair<const char*, const View&>{"sources", sources}, {"targets", targets}}) {
    want_dtype(name, view, Dtype::i64);
    want_contiguous(name, view);
  }
  want_last_contiguous("k_pages", k_pages);
  want_last_contiguous("v_pages", v_pages);
  const int element = bytes(k_pages.dtype);
  if (element != 2 && element != 4) throw BadArgument("k_pages must hold elements of 2 or 4 bytes for CUDA");
  if (!dims['N'] || !dims['L']) return;

  CopyArgs a;
  a.k_pages = k_pages.data, a.v_pages = v_pages.data;
  a.sources = sources.as<const int64_t>(), a.targets = targets.as<const int64_t>();
  a.k = page_strides(k_pages), a.v = page_strides(v_pages);
  a.groups = static_cast<int>(dims['G']), a.dim = static_cast<int>(dims['D']);
  a.rows = static_cast<int>(dims['G'] * dims['S']);
  const bool wide = dims['D'] * element % 16 == 0 && rows_aligned(k_pages) && rows_aligned(v_pages);
  const int packs = ceil_div(dims['D'], 16 / element);
  const dim3 grid(static_cast<unsigned>(dims['N']), ceil_div(int64_t{a.rows} * packs, kThreads * kPacksAThread),
                  static_cast<unsigned>(dims['L']));
  const OnDevice device(k_pages.device_id);
  with_bool(wide, [&](auto w) {
    constexpr bool WIDE = decltype(w)::value;
    if (element == 2) {
      launch(copy_blocks_kernel<uint16_t, WIDE>, grid, dim3(kThreads), 0, stream, a);
    } else {
      launch(copy_blocks_kernel<uint32_t, WIDE>, grid, dim3(kThreads), 0, stream, a);
    }
  });
}

}  // namespace vz::gpu
