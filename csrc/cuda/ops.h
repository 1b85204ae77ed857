// The CUDA implementations, argument for argument as in kernels/<op>/op.py, with the stream behind them. Pages are
// [blocks, block_size, kv_heads, head_dim], with layers in front in copy_blocks and splice_move. BadArgument where shapes
// or dtypes do not fit; nothing is computed then.
#pragma once

#include "../tensor_view.h"

namespace vz::gpu {

void mrope_append(const View& q, const View& k, const View& v, const View& cos, const View& sin, const View& k_pages,
                  const View& v_pages, const View& slots, void* stream);

void copy_blocks(const View& k_pages, const View& v_pages, const View& sources, const View& targets, void* stream);

void splice_move(const View& k_pages, const View& v_pages, const View& sources, const View& targets, const View* cos,
                 const View* sin, void* stream);

void merge_states(const View& out_a, const View& lse_a, const View& out_b, const View& lse_b, const View& out,
                  const View* lse, void* stream);

// Any number of queries a sequence, one block of threads a query, group and piece of the context: made for decode.
// part_out [T, H, P, D] and part_lse [T, H, P], float32 and contiguous, are scratch for P pieces; null for one piece.
void paged_attention(const View& q, const View& k_pages, const View& v_pages, const View& block_table,
                     const View& kv_lens, const View& cu_seqlens_q, const View& out, const View* lse, double scale,
                     bool causal, const View* part_out, const View* part_lse, void* stream);

// One resize, to patches (table given) or to uint8 frames [N, h, w, 3] (table null: patch is then the tile's side).
// first [out] and weights [out, taps] int32 of each axis; span: the most source pixels that a tile's side needs.
struct Axis { const View& first; const View& weights; int span; };
void resize(const View& frames, const View* table, const View& out, const Axis& x, const Axis& y, bool vertical_first,
            int patch, int merge, int temporal, int tile, void* stream);

}  // namespace vz::gpu
