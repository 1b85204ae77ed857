// paged_attention on the CPU: online softmax over blocks of keys that are packed into the core's cache.
// Decode and append-prefill are one algorithm: the H / G query heads of a group and the queries of a sequence are the
// rows of one matrix, so a page is read once for all of them.
#pragma once

#include <cstdint>

#include "../tensor_view.h"

namespace vz {

// Strides count elements.
struct AttentionArgs {
  const char *q, *k_pages, *v_pages;
  char* out;
  float* lse;  // nullptr if it is not wanted
  int64_t q_token, q_head, out_token, out_head, lse_token, lse_head;
  int64_t k_block, k_group, k_offset, v_block, v_group, v_offset;
  int heads_per_group, dim, block_size;
  float scale;
  bool causal;
};

// Rows [row_begin, row_end) of one sequence in each of some groups against keys [key_begin, key_end). Row r is query
// r / heads_per_group of the sequence, head r % heads_per_group of the group.
struct AttentionTile {
  const int32_t* blocks;      // of the sequence
  int64_t first_token;        // of the sequence's queries in q and out
  int group, num_groups;      // the first, and how many go together: 1 above few_rows rows
  int num_queries, num_keys;
  int row_begin, row_end, key_begin, key_end;
  // If only a part of the keys is seen: unnormalised sums [groups][rows][dim], maxima and sums of weights
  // [groups][rows] of this part, instead of out and lse.
  float *part_out, *part_max, *part_sum;
};

struct AttentionKernel {
  int64_t (*scratch_bytes)(const AttentionArgs&, const AttentionTile&);
  void (*run)(const AttentionArgs&, const AttentionTile&, char* scratch);  // scratch is 64-byte aligned
  // Joins `parts` partial results of each row into out and lse; the parts are all rows of all groups apart.
  void (*join)(const AttentionArgs&, const AttentionTile&, int parts, const float* outs, const float* maxima,
               const float* sums);
  int few_rows;  // tiles of at most so many rows take any number of groups
};

struct AttentionKernels {
  AttentionKernel f32, bf16, f16;
};
extern const AttentionKernels attention_scalar;
#ifdef VZ_X86
extern const AttentionKernels attention_avx2, attention_avx512;
extern const AttentionKernel attention_avx512bf16;  // bf16 dot products, two keys or dimensions an instruction
#endif

}  // namespace vz
