// copy_blocks: threads copy packs of 16 bytes of K and V; the element type does not matter, only its size.
#include "../ops/copy_blocks.h"
#include "launch.h"

namespace vz::gpu {
namespace {

constexpr int kThreads = 128, kPacksAThread = 4;

struct CopyArgs {
  void *k_pages, *v_pages;
  const int64_t *sources, *targets;
  PageStrides k, v;
  int kv_heads, dim, rows;  // rows of head_dim in a block
};

// Grid: copy, piece of a block, layer.
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
    // Heads run fastest: consecutive rows follow each other.
    const int64_t offset = row / a.kv_heads, head = row % a.kv_heads;
    const int64_t in_k = offset * a.k.offset + head * a.k.head + i, in_v = offset * a.v.offset + head * a.v.head + i;
    const Pack<T> from_k = load_pack<WIDE>(k + source * a.k.block + in_k, count);
    const Pack<T> from_v = load_pack<WIDE>(v + source * a.v.block + in_v, count);
    store_pack<WIDE>(k + target * a.k.block + in_k, from_k, count);
    store_pack<WIDE>(v + target * a.v.block + in_v, from_v, count);
  }
}

void copy_blocks(const CopyBlocks& in, void* stream) {
  Dims dims;
  dims.bind("k_pages", in.k_pages, "LNPGD");
  dims.bind("v_pages", in.v_pages, "LNPGD");
  dims.bind("sources", in.sources, "C");
  dims.bind("targets", in.targets, "C");
  want_dtype("v_pages", in.v_pages, in.k_pages.dtype);
  for (const auto& [name, view] : {Named{"sources", in.sources}, {"targets", in.targets}}) {
    want_dtype(name, view, Dtype::i64);
    want_contiguous(name, view);
  }
  want_last_contiguous("k_pages", in.k_pages);
  want_last_contiguous("v_pages", in.v_pages);
  const int element = bytes(in.k_pages.dtype);
  if (element != 2 && element != 4) throw BadArgument("k_pages must hold elements of 2 or 4 bytes for CUDA");
  if (!dims['C'] || in.k_pages.empty()) return;

  CopyArgs a;
  a.k_pages = in.k_pages.data, a.v_pages = in.v_pages.data;
  a.sources = in.sources.as<const int64_t>(), a.targets = in.targets.as<const int64_t>();
  a.k = page_strides(in.k_pages), a.v = page_strides(in.v_pages);
  a.kv_heads = dims.as_int('G'), a.dim = dims.as_int('D');
  a.rows = checked_int("k_pages", dims['G'] * dims['P']);
  const bool wide = dims['D'] * element % 16 == 0 && rows_aligned(in.k_pages) && rows_aligned(in.v_pages);
  const int packs = ceil_div(dims['D'], 16 / element);
  const dim3 grid(dims.as_int('C'), ceil_div(int64_t{a.rows} * packs, kThreads * kPacksAThread),
                  dims.as_int('L'));
  const OnDevice device(in.k_pages.device_id);
  with_bool(wide, [&](auto w) {
    constexpr bool WIDE = decltype(w)::value;
    if (element == 2) {
      launch(copy_blocks_kernel<uint16_t, WIDE>, grid, dim3(kThreads), 0, stream, a);
    } else {
      launch(copy_blocks_kernel<uint32_t, WIDE>, grid, dim3(kThreads), 0, stream, a);
    }
  });
}

}  // namespace

VZ_CUDA_OP("copy_blocks", CopyBlocks, copy_blocks)

}  // namespace vz::gpu
