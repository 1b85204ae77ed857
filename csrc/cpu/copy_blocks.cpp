// pages[layer, targets[n]] <- pages[layer, sources[n]]; see kernels/copy_blocks/op.py.

#include <string>

#include "move.h"
#include "threads.h"

namespace vz {

void copy_blocks(const View& k_pages, const View& v_pages, const View& sources, const View& targets) {
  Dims dims;
  dims.bind("k_pages", k_pages, "LPGBD");
  dims.bind("v_pages", v_pages, "LPGBD");
  dims.bind("sources", sources, "N");
  dims.bind("targets", targets, "N");
  const struct { const char* name; const View& view; } all[] = {
      {"k_pages", k_pages}, {"v_pages", v_pages}, {"sources", sources}, {"targets", targets}};
  for (const auto& [name, view] : all) want_cpu(name, view);
  want_dtype("v_pages", v_pages, k_pages.dtype);
  want_dtype("sources", sources, Dtype::i64);
  want_dtype("targets", targets, Dtype::i64);
  want_last_contiguous("k_pages", k_pages);
  want_last_contiguous("v_pages", v_pages);
  const int64_t e = bytes(k_pages.dtype), num = dims['N'], layers = dims['L'];
  if (e == 0) throw BadArgument("k_pages has an element type that is not supported");
  const auto source = [&](int64_t n) { return sources.as<int64_t>()[n * sources.stride[0]]; };
  const auto target = [&](int64_t n) { return targets.as<int64_t>()[n * targets.stride[0]]; };
  for (int64_t n = 0; n < num; ++n)
    if (source(n) >= dims['P'] || target(n) >= dims['P'])
      throw BadArgument("copy " + std::to_string(n) + " from block " + std::to_string(source(n)) + " to " +
                        std::to_string(target(n)) + ", but there are " + std::to_string(dims['P']) + " blocks");

  const int64_t groups = dims['G'], rows = dims['B'], row_bytes = dims['D'] * e;
  const bool past_caches = 4 * layers * num * groups * rows * row_bytes > kPastCachesBytes;
  const MoveKernels& run = move_kernels();
  const auto copy_one = [&](const View& pages, int64_t layer, int64_t from, int64_t to) {
    const int64_t base = layer * pages.stride[0];
    const char* src = pages.data + (base + from * pages.stride[1]) * e;
    char* dst = pages.data + (base + to * pages.stride[1]) * e;
    const int64_t head = pages.stride[2] * e, row = pages.stride[3] * e;
    if (row == row_bytes && head == rows * row_bytes) {
      run.copy(dst, src, groups * rows * row_bytes, past_caches);
      return;
    }
    for (int64_t g = 0; g < groups; ++g)
      for (int64_t r = 0; r < rows; ++r) run.copy(dst + g * head + r * row, src + g * head + r * row, row_bytes, false);
  };
  parallel_for(layers * num, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t layer = i / num, n = i % num;
      if (source(n) < 0 || target(n) < 0) continue;
      copy_one(k_pages, layer, source(n), target(n));
      copy_one(v_pages, layer, source(n), target(n));
    }
    run.fence();
  });
}

}  // namespace vz
