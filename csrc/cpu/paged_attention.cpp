// Ragged queries against paged keys and values: checks, and how the work is cut; formula in kernels/paged_attention/op.py.

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "../ops/paged_attention.h"
#include "attention.h"
#include "isa.h"
#include "threads.h"

namespace vz {
namespace {

constexpr int kRowsOfATile = 384;   // their sums stay in the core's second cache
constexpr int kKeysOfAPart = 1024;  // at least, if the keys of a sequence are cut for more threads
constexpr int kPartsOfAThread = 4;  // of a sequence with few rows, so that threads end together
constexpr int kBytesOfAStep = 256 << 10;  // that groups with few rows read together; a core's second cache holds two
constexpr int kKeysOfAStep = 64;
constexpr int kMaxHeadDim = 512;
constexpr int64_t kMostBlocks = int64_t{1} << 26;  // of all sequences: their numbers are copied

const AttentionKernel& kernel_for(Dtype dtype) {
  const AttentionKernels* all = &attention_scalar;
#ifdef VZ_X86
  if (dtype == Dtype::bf16 && has_bf16_dot()) return attention_avx512bf16;
  if (isa() >= Isa::avx512) all = &attention_avx512;
  if (isa() == Isa::avx2) all = &attention_avx2;
#endif
  return dtype == Dtype::f32 ? all->f32 : dtype == Dtype::bf16 ? all->bf16 : all->f16;
}

// Grows and is kept, one per thread.
char* scratch_of(int64_t bytes) {
  static thread_local std::unique_ptr<char[]> memory;
  static thread_local int64_t size = 0;
  if (bytes + 64 > size) {
    memory.reset(new char[bytes + 64]);
    size = bytes + 64;
  }
  return reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(memory.get()) + 63) / 64 * 64);
}

void check_types(const PagedAttention& a) {
  want_float("q", a.q);
  for (const auto& [name, view] : {Named{"q", a.q}, {"k_pages", a.k_pages}, {"v_pages", a.v_pages}, {"out", a.out}}) {
    want_dtype(name, view, a.q.dtype);
    want_last_contiguous(name, view);
  }
  for (const auto& [name, view] :
       {Named{"block_table", a.block_table}, {"kv_lens", a.kv_lens}, {"cu_seqlens_q", a.cu_seqlens_q}}) {
    want_dtype(name, view, Dtype::i32);
    want_last_contiguous(name, view);
  }
  if (a.lse) {
    want_dtype("lse", *a.lse, Dtype::f32);
  }
}

// A copy of the numbers that say which keys belong to which queries, checked: they are what pages are followed by.
struct Batch {
  std::vector<int32_t> starts, lengths, blocks;  // starts [S + 1]
  std::vector<int64_t> first_block;              // where the blocks of a sequence begin in `blocks`
};

Batch read_batch(const PagedAttention& a, int64_t sequences, int64_t tokens, int64_t max_blocks, int64_t block_size,
                 int64_t num_blocks) {
  Batch batch;
  batch.starts.assign(a.cu_seqlens_q.as<int32_t>(), a.cu_seqlens_q.as<int32_t>() + sequences + 1);
  batch.lengths.assign(a.kv_lens.as<int32_t>(), a.kv_lens.as<int32_t>() + sequences);
  const auto& [starts, lengths, blocks, first_block] = batch;
  if (starts[0] != 0 || starts[sequences] != tokens)
    throw BadArgument("cu_seqlens_q must go from 0 to T = " + std::to_string(tokens) + ", got " +
                      std::to_string(starts[0]) + " to " + std::to_string(starts[sequences]));
  for (int64_t s = 0; s < sequences; ++s) {
    if (starts[s + 1] < starts[s]) throw BadArgument("cu_seqlens_q decreases at " + std::to_string(s));
    const int64_t used = (lengths[s] + block_size - 1) / block_size;
    if (lengths[s] < 0 || used > max_blocks)
      throw BadArgument("kv_lens[" + std::to_string(s) + "] = " + std::to_string(lengths[s]) +
                        " does not fit the block table of " + std::to_string(max_blocks) + " blocks");
    checked_int("kv_lens", lengths[s]);
    batch.first_block.push_back(static_cast<int64_t>(blocks.size()));
    if (starts[s + 1] == starts[s] || used == 0) continue;  // nothing attends, or to nothing
    if (static_cast<int64_t>(blocks.size()) + used > kMostBlocks)
      throw BadArgument("the sequences have more than 2^26 blocks together: split the call");
    const int32_t* row = a.block_table.as<int32_t>() + s * a.block_table.stride[0];
    batch.blocks.insert(batch.blocks.end(), row, row + used);
    for (int64_t b = 0; b < used; ++b) {
      const int32_t block = blocks[first_block[s] + b];
      if (block < 0 || block >= num_blocks)
        throw BadArgument("block_table[" + std::to_string(s) + ", " + std::to_string(b) + "] = " +
                          std::to_string(block) + ", but there are " + std::to_string(num_blocks) + " blocks");
    }
  }
  return batch;
}

void paged_attention(const PagedAttention& a) {
  check_types(a);
  Dims dims;
  dims.bind("q", a.q, "THD");
  dims.bind("out", a.out, "THD");
  dims.bind("k_pages", a.k_pages, "NGPD");
  dims.bind("v_pages", a.v_pages, "NGPD");
  dims.bind("block_table", a.block_table, "SB");
  dims.bind("kv_lens", a.kv_lens, "S");
  if (a.lse) dims.bind("lse", *a.lse, "TH");
  const int heads = dims.as_int('H'), kv_heads = dims.as_int('G'), dim = dims.as_int('D'), block_size = dims.as_int('P');
  const int64_t sequences = dims['S'];
  checked_int("q", dims['T'] * std::max(heads, 1));
  if (a.cu_seqlens_q.ndim != 1 || a.cu_seqlens_q.shape[0] != sequences + 1)
    throw BadArgument("cu_seqlens_q must hold S + 1 = " + std::to_string(sequences + 1) + " numbers, got " +
                      shape_text(a.cu_seqlens_q));
  if (kv_heads == 0 || heads % kv_heads)
    throw BadArgument(std::to_string(heads) + " query heads are not a multiple of " + std::to_string(kv_heads) +
                      " key/value heads");
  if (dim < 1 || dim > kMaxHeadDim) throw BadArgument("head_dim must be 1 to 512, got " + std::to_string(dim));
  if (!(static_cast<float>(a.scale) > 0))  // keys that a query does not see have the score -inf before they are scaled
    throw BadArgument("scale must be above 0, got " + std::to_string(a.scale));
  if (block_size < 1) throw BadArgument("pages must hold at least one token, got " + shape_text(a.k_pages));
  const Batch batch = read_batch(a, sequences, dims['T'], dims['B'], block_size, dims['N']);
  if (a.out.empty()) return;

  const int per_group = heads / kv_heads;
  const AttentionArgs args = {
      a.q.data, a.k_pages.data, a.v_pages.data, a.out.data, a.lse ? a.lse->as<float>() : nullptr,
      a.q.stride[0], a.q.stride[1], a.out.stride[0], a.out.stride[1],
      a.lse ? a.lse->stride[0] : 0, a.lse ? a.lse->stride[1] : 0,
      a.k_pages.stride[0], a.k_pages.stride[1], a.k_pages.stride[2],
      a.v_pages.stride[0], a.v_pages.stride[1], a.v_pages.stride[2],
      per_group, dim, block_size, static_cast<float>(a.scale), a.causal};

  // Tiles of rows. With few rows (decode) neighbouring groups go together: pages are read in one piece. Keys are cut into
  // parts that are joined if tiles are fewer than threads; a decode by its own length and the threads alone, so that
  // what runs beside it changes no bit of it.
  const AttentionKernel& kernel = kernel_for(a.q.dtype);
  const int64_t row_bytes = int64_t{dim} * bytes(a.q.dtype);
  const auto parts_of_few = [&](int keys) {
    return threads() == 1 ? 1 : std::clamp(keys / kKeysOfAPart, 1, kPartsOfAThread * threads());
  };
  int64_t few_units = 0;
  for (int64_t s = 0; s < sequences; ++s) few_units += parts_of_few(batch.lengths[s]);
  const int together = few_units < threads() ? 1 : static_cast<int>(std::clamp<int64_t>(
      kBytesOfAStep / (2 * kKeysOfAStep * row_bytes), 1, kv_heads));
  std::vector<AttentionTile> tiles;
  for (int64_t s = 0; s < sequences; ++s) {
    const int queries = batch.starts[s + 1] - batch.starts[s], rows = queries * per_group;
    const int step = rows <= kernel.few_rows ? together : 1;
    for (int g = 0; g < kv_heads; g += step)
      for (int r = 0; r < rows; r += kRowsOfATile)
        tiles.push_back({batch.blocks.data() + batch.first_block[s], batch.starts[s], g, std::min(step, kv_heads - g),
                         queries, batch.lengths[s], r, std::min(rows, r + kRowsOfATile), 0, batch.lengths[s], nullptr,
                         nullptr, nullptr});
  }
  const int64_t num = static_cast<int64_t>(tiles.size());
  const int64_t wanted = num && num < threads() ? (threads() + num - 1) / num : 1;
  std::vector<AttentionTile> units;
  std::vector<int> parts_of(tiles.size());
  const auto rows_of = [](const AttentionTile& tile) { return tile.num_groups * (tile.row_end - tile.row_begin); };
  int64_t part_rows = 0;
  for (int64_t i = 0; i < num; ++i) {
    const bool few = tiles[i].row_end - tiles[i].row_begin <= kernel.few_rows;
    const int parts = few ? parts_of_few(tiles[i].num_keys)
                          : static_cast<int>(std::clamp<int64_t>(tiles[i].num_keys / kKeysOfAPart, 1, wanted));
    parts_of[i] = parts;
    if (parts > 1) part_rows += parts * rows_of(tiles[i]);
  }
  std::vector<float> part_out(part_rows * dim), part_max(part_rows), part_sum(part_rows);
  int64_t at = 0;
  for (int64_t i = 0; i < num; ++i) {
    for (int p = 0; p < parts_of[i]; ++p) {
      AttentionTile unit = tiles[i];
      if (parts_of[i] > 1) {
        unit.key_begin = static_cast<int>(int64_t{tiles[i].num_keys} * p / parts_of[i]);
        unit.key_end = static_cast<int>(int64_t{tiles[i].num_keys} * (p + 1) / parts_of[i]);
        unit.part_out = part_out.data() + at * dim;
        unit.part_max = part_max.data() + at;
        unit.part_sum = part_sum.data() + at;
        at += rows_of(unit);
      }
      units.push_back(unit);
    }
  }
  parallel_for(static_cast<int64_t>(units.size()), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const AttentionTile& unit = units[i];
      kernel.run(args, unit, scratch_of(kernel.scratch_bytes(args, unit)));
    }
  });
  at = 0;
  for (int64_t i = 0; i < num; ++i) {
    if (parts_of[i] == 1) continue;
    kernel.join(args, tiles[i], parts_of[i], part_out.data() + at * dim, part_max.data() + at, part_sum.data() + at);
    at += parts_of[i] * rows_of(tiles[i]);
  }
}

}  // namespace

VZ_CPU_OP("paged_attention", PagedAttention, paged_attention)

}  // namespace vz
