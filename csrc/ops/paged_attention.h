// The arguments of paged_attention; kernels/paged_attention/op.py says what they are.
#pragma once

#include "../op.h"

namespace vz {

struct PagedAttention {
  View q, k_pages, v_pages, block_table, kv_lens, cu_seqlens_q;
  Out out;
  MaybeOut lse;
  double scale;
  bool causal;
  VZ_ARGUMENTS(q, k_pages, v_pages, block_table, kv_lens, cu_seqlens_q, out, lse, scale, causal)
};

}  // namespace vz
