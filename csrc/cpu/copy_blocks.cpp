// pages[layer, targets[c]] <- pages[layer, sources[c]]; see kernels/copy_blocks/op.py.

#include <string>

#include "../ops/copy_blocks.h"
#include "move.h"
#include "threads.h"

namespace vz {
namespace {

void copy_blocks(const CopyBlocks& a) {
  Dims dims;
  dims.bind("k_pages", a.k_pages, "LNGPD");
  dims.bind("v_pages", a.v_pages, "LNGPD");
  dims.bind("sources", a.sources, "C");
  dims.bind("targets", a.targets, "C");
  for (const auto& [name, view] : {Named{"k_pages", a.k_pages}, {"v_pages", a.v_pages}}) {
    want_dtype(name, view, a.k_pages.dtype);
    want_last_contiguous(name, view);
  }
  for (const auto& [name, view] : {Named{"sources", a.sources}, {"targets", a.targets}}) {
    want_dtype(name, view, Dtype::i64);
  }
  const int64_t e = bytes(a.k_pages.dtype), copies = dims.as_int('C'), layers = dims['L'], blocks = dims['N'];
  const auto source = [&](int64_t n) { return read_once(a.sources.as<int64_t>() + n * a.sources.stride[0]); };
  const auto target = [&](int64_t n) { return read_once(a.targets.as<int64_t>() + n * a.targets.stride[0]); };
  for (int64_t n = 0; n < copies; ++n) {
    const int64_t from = source(n), to = target(n);
    if (from >= blocks || to >= blocks)
      throw BadArgument("copy " + std::to_string(n) + " from block " + std::to_string(from) + " to " +
                        std::to_string(to) + ", but there are " + std::to_string(blocks) + " blocks");
  }
  if (a.k_pages.empty()) return;

  const int64_t kv_heads = dims['G'], rows = dims['P'], row_bytes = dims['D'] * e;
  const bool past_caches = checked_product("copies", {4, layers, copies, kv_heads, rows, row_bytes}) > kPastCachesBytes;
  const MoveKernels& run = move_kernels();
  const auto copy_one = [&](const View& pages, int64_t layer, int64_t from, int64_t to) {
    const int64_t base = layer * pages.stride[0];
    const char* src = pages.data + (base + from * pages.stride[1]) * e;
    char* dst = pages.data + (base + to * pages.stride[1]) * e;
    const int64_t head = pages.stride[2] * e, row = pages.stride[3] * e;
    if (row == row_bytes && head == rows * row_bytes) {
      run.copy(dst, src, kv_heads * rows * row_bytes, past_caches);
      return;
    }
    for (int64_t g = 0; g < kv_heads; ++g)
      for (int64_t r = 0; r < rows; ++r) run.copy(dst + g * head + r * row, src + g * head + r * row, row_bytes, false);
  };
  parallel_for(layers * copies, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t layer = i / copies, n = i % copies;
      const int64_t from = source(n), to = target(n);
      if (from < 0 || to < 0 || from >= blocks || to >= blocks) continue;
      copy_one(a.k_pages, layer, from, to);
      copy_one(a.v_pages, layer, from, to);
    }
    run.fence();
  });
}

}  // namespace

VZ_CPU_OP("copy_blocks", CopyBlocks, copy_blocks)

}  // namespace vz
