// Tokens to other slots, keys rotated on the way, all layers; see kernels/splice_move/op.py.

#include <string>
#include <vector>

#include "../ops/splice_move.h"
#include "move.h"
#include "threads.h"

namespace vz {
namespace {

// Tokens that follow each other in one block, at the source and at the target.
struct Run {
  int64_t from_block, from_offset, to_block, to_offset, tokens;
};

std::vector<Run> find_runs(const View& sources, const View& targets, int64_t num_slots, int64_t block_size) {
  std::vector<Run> runs;
  int64_t moved = 0;
  for (int64_t n = 0; n < sources.shape[0]; ++n) {
    const int64_t from = read_once(sources.as<int64_t>() + n * sources.stride[0]);
    const int64_t to = read_once(targets.as<int64_t>() + n * targets.stride[0]);
    if (from >= num_slots || to >= num_slots)
      throw BadArgument("token " + std::to_string(n) + " moves from slot " + std::to_string(from) + " to " +
                        std::to_string(to) + ", but there are " + std::to_string(num_slots) + " slots");
    if (from < 0 || to < 0) continue;
    if (++moved > num_slots) throw BadArgument("targets must be different slots, got more than there are");
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

void splice_move(const SpliceMove& a) {
  Dims dims;
  dims.bind("k_pages", a.k_pages, "LNGPD");
  dims.bind("v_pages", a.v_pages, "LNGPD");
  dims.bind("sources", a.sources, "T");
  dims.bind("targets", a.targets, "T");
  want_float("k_pages", a.k_pages);
  for (const auto& [name, view] : {Named{"k_pages", a.k_pages}, {"v_pages", a.v_pages}}) {
    want_dtype(name, view, a.k_pages.dtype);
    want_last_contiguous(name, view);
  }
  for (const auto& [name, view] : {Named{"sources", a.sources}, {"targets", a.targets}}) {
    want_dtype(name, view, Dtype::i64);
  }
  if (!a.cos != !a.sin) throw BadArgument("cos and sin must both be given or both be None");
  if (a.cos) {
    for (const auto& [name, view] : {Named{"cos", *a.cos}, {"sin", *a.sin}}) {
      dims.bind(name, view, "R");
      want_dtype(name, view, Dtype::f32);
      want_contiguous(name, view);
    }
    if (dims['R'] > kMaxPairs) throw BadArgument("head_dim must be at most 1024");
    if (dims['D'] != 2 * dims['R'])
      throw BadArgument("cos must hold head_dim / 2 = " + std::to_string(dims['D'] / 2) + " angles, got " +
                        std::to_string(dims['R']));
  }
  const int64_t e = bytes(a.k_pages.dtype), kv_heads = dims['G'], row_bytes = dims['D'] * e, layers = dims['L'];
  dims.as_int('T');  // of a run
  const std::vector<Run> runs = find_runs(a.sources, a.targets, dims['N'] * dims['P'], dims['P']);
  if (a.k_pages.empty()) return;
  const int64_t num = static_cast<int64_t>(runs.size());
  const bool past_caches = checked_product("tokens", {4, layers, dims['T'], kv_heads, row_bytes}) > kPastCachesBytes;
  const MoveKernels& run = move_kernels();
  const auto at = [&](const View& pages, int64_t layer, int64_t block, int64_t head, int64_t offset) {
    return pages.data + (layer * pages.stride[0] + block * pages.stride[1] + head * pages.stride[2] +
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
      for (int64_t g = 0; g < kv_heads; ++g) {
        if (a.cos) {
          const int64_t row = a.k_pages.stride[3] * e;
          run.rotate({at(a.k_pages, layer, r.from_block, g, r.from_offset), row,
                      at(a.k_pages, layer, r.to_block, g, r.to_offset), row, static_cast<int>(r.tokens),
                      static_cast<int>(dims['R']), a.cos->data, a.sin->data, past_caches},
                     a.k_pages.dtype, Dtype::f32);
        } else {
          copy_rows(a.k_pages, layer, r, g);
        }
        copy_rows(a.v_pages, layer, r, g);
      }
    }
    run.fence();
  });
}

}  // namespace

VZ_CPU_OP("splice_move", SpliceMove, splice_move)

}  // namespace vz
