// Tokens to other slots, keys rotated on the way, all layers; see kernels/splice_move/op.py.

#include <string>
#include <vector>

#include "move.h"
#include "threads.h"

namespace vz {
namespace {

// Tokens that lie one behind the other in one block, at the source and at the target.
struct Run {
  int64_t from_block, from_offset, to_block, to_offset, tokens;
};

std::vector<Run> find_runs(const View& sources, const View& targets, int64_t num_slots, int64_t block_size) {
  std::vector<Run> runs;
  for (int64_t n = 0; n < sources.shape[0]; ++n) {
    const int64_t from = sources.as<int64_t>()[n * sources.stride[0]], to = targets.as<int64_t>()[n * targets.stride[0]];
    if (from >= num_slots || to >= num_slots)
      throw BadArgument("token " + std::to_string(n) + " moves from slot " + std::to_string(from) + " to " +
                        std::to_string(to) + ", but there are " + std::to_string(num_slots) + " slots");
    if (from < 0 || to < 0) continue;
    const Run next = {from / block_size, from % block_size, to / block_size, to % block_size, 1};
    if (!runs.empty()) {
      Run& last = runs.back();
      if (next.from_block == last.from_block && next.from_offset == last.from_offset + last.tokens &&
          next.to_block == last.to_block && next.to_offset == last.to_offset + last.tokens) {
        ++last.tokens;
        continue;
      }
    }
    runs.push_back(next);
  }
  return runs;
}

}  // namespace

void splice_move(const View& k_pages, const View& v_pages, const View& sources, const View& targets, const View* cos,
                 const View* sin) {
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
  if (!is_float(k_pages.dtype))
    throw BadArgument(std::string("k_pages must be float32, bfloat16 or float16, got ") + name(k_pages.dtype));
  if ((cos == nullptr) != (sin == nullptr)) throw BadArgument("cos and sin must both be given or both be None");
  if (cos) {
    dims.bind("cos", *cos, "R");
    dims.bind("sin", *sin, "R");
    want_dtype("cos", *cos, Dtype::f32);
    want_dtype("sin", *sin, Dtype::f32);
    want_contiguous("cos", *cos);
    want_contiguous("sin", *sin);
    if (dims['R'] > kMaxPairs) throw BadArgument("head_dim must be at most 1024");
    if (dims['D'] != 2 * dims['R'])
      throw BadArgument("cos must hold head_dim / 2 = " + std::to_string(dims['D'] / 2) + " angles, got " +
                        std::to_string(dims['R']));
  }
  const int64_t e = bytes(k_pages.dtype), groups = dims['G'], row_bytes = dims['D'] * e, layers = dims['L'];
  const std::vector<Run> runs = find_runs(sources, targets, dims['P'] * dims['B'], dims['B']);
  const int64_t num = static_cast<int64_t>(runs.size());
  const bool past_caches = 4 * layers * dims['N'] * groups * row_bytes > kPastCachesBytes;
  const MoveKernels& run = move_kernels();
  const auto at = [&](const View& pages, int64_t layer, int64_t block, int64_t group, int64_t offset) {
    return pages.data + (layer * pages.stride[0] + block * pages.stride[1] + group * pages.stride[2] +
                         offset * pages.stride[3]) * e;
  };
  const auto copy_rows = [&](const View& pages, int64_t layer, const Run& r, int64_t g) {
    const char* src = at(pages, layer, r.from_block, g, r.from_offset);
    char* dst = at(pages, layer, r.to_block, g, r.to_offset);
    const int64_t row = pages.stride[3] * e;
    if (row == row_bytes) return run.copy(dst, src, r.tokens * row_bytes, past_caches);
    for (int64_t i = 0; i < r.tokens; ++i) run.copy(dst + i * row, src + i * row, row_bytes, false);
  };
  parallel_for(layers * num, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t layer = i / num;
      const Run& r = runs[i % num];
      for (int64_t g = 0; g < groups; ++g) {
        if (cos) {
          const int64_t row = k_pages.stride[3] * e;
          run.rotate({at(k_pages, layer, r.from_block, g, r.from_offset), row,
                      at(k_pages, layer, r.to_block, g, r.to_offset), row, static_cast<int>(r.tokens),
                      static_cast<int>(dims['R']), cos->data, sin->data, past_caches},
                     k_pages.dtype, Dtype::f32);
        } else {
          copy_rows(k_pages, layer, r, g);
        }
        copy_rows(v_pages, layer, r, g);
      }
    }
    run.fence();
  });
}

}  // namespace vz
