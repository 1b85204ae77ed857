"""paged_attention in Triton: one kernel for append-prefill and decode, and one that joins split contexts.

A program holds the rows of a tile of tokens and of all H / G query heads of a group, so each key is read once for the
group. Decode is a tile of one token whose context is cut into pieces if the batch is too small for the GPU.
No number is read on the host: which sequence a tile belongs to is found from cu_seqlens_q on the device, and the grid
is an upper bound (tiles after the last one leave at once), so the call can be captured in a CUDA graph.

Letters: see `vzoom.kernels.layout`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import triton
import triton.language as tl

from ..gpu import architecture_of, check_gpu_dtype, choose_splits, num_multiprocessors, on_device_of, power_of_2
from ..layout import heads_first
from .reference import Arguments


@triton.jit
def attend_kernel(  # type: ignore[no-untyped-def]
    q,
    k_pages,
    v_pages,
    block_table,
    kv_lens,
    cu_seqlens_q,
    out,
    lse,
    scale_log2,
    q_token,
    q_head,
    kp_block,
    kp_head,
    kp_offset,
    vp_block,
    vp_head,
    vp_offset,
    table_row,
    out_token,
    out_head,
    out_piece,
    lse_token,
    lse_head,
    lse_piece,
    num_seqs,
    block_size,
    GROUP: tl.constexpr,
    TOKENS: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    D: tl.constexpr,
    D_PAD: tl.constexpr,
    SEQS_PAD: tl.constexpr,
    SPLITS: tl.constexpr,
    CAUSAL: tl.constexpr,
    HAS_LSE: tl.constexpr,
):
    tile = tl.program_id(0)
    group = tl.program_id(1)
    piece = tl.program_id(2)

    # Which sequence, and which of its tiles.
    s_all = tl.arange(0, SEQS_PAD)
    begins = tl.load(cu_seqlens_q + s_all, mask=s_all < num_seqs, other=0)
    ends = tl.load(cu_seqlens_q + s_all + 1, mask=s_all < num_seqs, other=0)
    tiles = (ends - begins + TOKENS - 1) // TOKENS
    tile_ends = tl.cumsum(tiles, 0)
    seq = tl.sum((tile_ends <= tile).to(tl.int32), 0)
    if seq >= num_seqs:
        return
    tile -= tl.sum(tl.where(s_all < seq, tiles, 0), 0)
    begin = tl.load(cu_seqlens_q + seq)
    num_queries = tl.load(cu_seqlens_q + seq + 1) - begin
    length = tl.load(kv_lens + seq)

    row = tl.arange(0, ROWS)
    index = tile * TOKENS + row // GROUP  # of the token in its sequence
    there = (row < TOKENS * GROUP) & (index < num_queries)
    token = (begin + index).to(tl.int64)
    head = (group * GROUP + row % GROUP).to(tl.int64)
    dim = tl.arange(0, D_PAD)
    q_tile = tl.load(
        q + (token * q_token + head * q_head)[:, None] + dim[None, :],
        mask=there[:, None] & (dim < D)[None, :],
        other=0.0,
    )

    seen = index * 0 + length
    longest = length
    if CAUSAL:
        seen = length - num_queries + index + 1
        longest = length - num_queries + tl.minimum(num_queries, (tile + 1) * TOKENS)
    a_piece = tl.cdiv(tl.cdiv(longest, SPLITS), KEYS) * KEYS
    start = piece * a_piece
    stop = tl.minimum(start + a_piece, longest)

    top = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    acc = tl.zeros((ROWS, D_PAD), tl.float32)
    for key_start in range(start, stop, KEYS):
        key = key_start + tl.arange(0, KEYS)
        real = key < stop
        block = tl.load(block_table + seq.to(tl.int64) * table_row + key // block_size, mask=real, other=0).to(tl.int64)
        offset = (key % block_size).to(tl.int64)
        k_at = k_pages + block * kp_block + offset * kp_offset + group.to(tl.int64) * kp_head
        k_tile = tl.load(k_at[None, :] + dim[:, None], mask=real[None, :] & (dim < D)[:, None], other=0.0)
        scores = tl.dot(q_tile, k_tile, input_precision="ieee") * scale_log2
        scores = tl.where((key[None, :] < seen[:, None]) & real[None, :], scores, float("-inf"))
        new_top = tl.maximum(top, tl.max(scores, 1))
        safe = tl.where(new_top == float("-inf"), 0.0, new_top)  # rows that have seen nothing yet
        weights = tl.exp2(scores - safe[:, None])
        shrink = tl.exp2(top - safe)
        v_at = v_pages + block * vp_block + offset * vp_offset + group.to(tl.int64) * vp_head
        v_tile = tl.load(v_at[:, None] + dim[None, :], mask=real[:, None] & (dim < D)[None, :], other=0.0)
        total = total * shrink + tl.sum(weights, 1)
        acc = acc * shrink[:, None]
        acc = tl.dot(weights.to(v_tile.dtype), v_tile, acc, input_precision="ieee")
        top = new_top

    some = total > 0
    acc = acc / tl.where(some, total, 1.0)[:, None]
    to = out + (token * out_token + head * out_head + piece * out_piece)[:, None] + dim[None, :]
    tl.store(to, acc.to(out.dtype.element_ty), mask=there[:, None] & (dim < D)[None, :])
    if HAS_LSE:
        # Scores are in units of log 2; ln 2 = 0.6931...
        natural = tl.where(some, (top + tl.log2(tl.where(some, total, 1.0))) * 0.6931471805599453, float("-inf"))
        to = lse + token * lse_token + head * lse_head + piece * lse_piece
        tl.store(to, natural.to(lse.dtype.element_ty), mask=there)


@triton.jit
def join_pieces_kernel(  # type: ignore[no-untyped-def]
    part_out,
    part_lse,
    out,
    lse,
    out_token,
    out_head,
    lse_token,
    lse_head,
    heads,
    D: tl.constexpr,
    D_PAD: tl.constexpr,
    SPLITS: tl.constexpr,
    HAS_LSE: tl.constexpr,
):
    """One program per token and head. part_out [T, H, X, D] and part_lse [T, H, X] are contiguous, float32."""
    token, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    row = token * heads + head
    piece, dim = tl.arange(0, SPLITS), tl.arange(0, D_PAD)
    scores = tl.load(part_lse + row * SPLITS + piece)
    top = tl.max(scores, 0)
    safe = tl.where(top == float("-inf"), 0.0, top)
    weights = tl.exp(scores - safe)
    total = tl.sum(weights, 0)
    at = part_out + (row * SPLITS + piece)[:, None] * D + dim[None, :]
    parts = tl.load(at, mask=(dim < D)[None, :] & (weights > 0)[:, None], other=0.0)
    joined = tl.sum(parts * weights[:, None], 0) / tl.where(total > 0, total, 1.0)
    tl.store(out + token * out_token + head * out_head + dim, joined.to(out.dtype.element_ty), mask=dim < D)
    if HAS_LSE:
        both = tl.where(total > 0, safe + tl.log(tl.where(total > 0, total, 1.0)), float("-inf"))
        tl.store(lse + token * lse_token + head * lse_head, both.to(lse.dtype.element_ty))


class Tiles(NamedTuple):
    """Sizes of a program's tile."""

    tokens: int
    rows: int
    keys: int
    warps: int


def choose_tiles(*, tokens: int, seqs: int, group: int, dim: int, element_bytes: int, architecture: int) -> Tiles:
    """Choose the tile: one token in a decode step, else as many tokens as fill it with their heads.

    These are the largest tiles that spill no register on sm_80, sm_90 and sm_100 (docs/kernels-gpu.md).
    float32 is multiplied without tensor cores, which keeps a whole row of both operands in registers: small tiles.

    Args:
        tokens: queries of all sequences.
        seqs: sequences.
        group: query heads per key/value head.
        dim: head_dim.
        element_bytes: of the queries.
        architecture: 90 for sm_90.

    Returns:
        The sizes of a program's tile.
    """
    padded = power_of_2(dim)
    group_rows = max(16, power_of_2(group))
    decode = tokens <= seqs
    if element_bytes == 4:
        tiles = Tiles(0, group_rows, 32 if padded <= 128 else 16, 8)
    elif decode:
        tiles = Tiles(0, group_rows, 64 if padded <= 128 else 32, 4)
    elif padded <= 64:
        tiles = Tiles(0, max(128, group_rows), 64, 8)
    elif padded <= 128:
        tiles = Tiles(0, max(128, group_rows), 64 if architecture >= 90 else 32, 8)
    else:
        tiles = Tiles(0, max(64, group_rows), 32, 8)
    return tiles._replace(tokens=1 if decode else tiles.rows // group)


def paged_attention(a: Arguments, *, splits: int | None = None, architecture: int | None = None) -> None:
    """Run the op.

    Args:
        a: the op's arguments.
        splits: pieces of the context, a power of two; None chooses.
        architecture: 90 for sm_90; None asks the device.
    """
    q_THD, out_THD, lse_TH = a.q_THD, a.out_THD, a.lse_TH
    check_gpu_dtype("q", q_THD)
    tokens, heads, dim = q_THD.shape
    seqs, width = a.block_table_SB.shape
    kp, vp = heads_first(a.k_pages), heads_first(a.v_pages)
    kv_heads, block_size = kp.shape[1:3]
    if tokens == 0 or seqs == 0:
        return
    tiles = choose_tiles(
        tokens=tokens,
        seqs=seqs,
        group=heads // kv_heads,
        dim=dim,
        element_bytes=q_THD.element_size(),
        architecture=architecture or architecture_of(q_THD.device),
    )
    # At most one tile of each sequence is not full.
    num_tiles = tokens if tiles.tokens == 1 else tokens // tiles.tokens + seqs
    if splits is None:
        splits = choose_splits(
            programs=num_tiles * kv_heads,
            longest=width * block_size,
            keys_per_step=tiles.keys,
            multiprocessors=num_multiprocessors(q_THD.device),
        )
    out, lse = out_THD, lse_TH
    out_strides, lse_strides = (*out_THD.stride()[:2], 0), (*(lse_TH.stride() if lse_TH is not None else (0, 0)), 0)
    if splits > 1:
        # Rows that no sequence owns are never joined from garbage: they are -inf.
        out = q_THD.new_empty((tokens, heads, splits, dim), dtype=torch.float32)
        lse = q_THD.new_full((tokens, heads, splits), -torch.inf, dtype=torch.float32)
        out_strides, lse_strides = out.stride()[:3], lse.stride()
    with on_device_of(q_THD):
        attend_kernel[(num_tiles, kv_heads, splits)](
            q_THD,
            a.k_pages,
            a.v_pages,
            a.block_table_SB,
            a.kv_lens_S.contiguous(),
            a.cu_seqlens_q.contiguous(),
            out,
            lse,
            a.scale / math.log(2),
            *q_THD.stride()[:2],
            *kp.stride()[:3],
            *vp.stride()[:3],
            a.block_table_SB.stride(0),
            *out_strides,
            *lse_strides,
            seqs,
            block_size,
            GROUP=heads // kv_heads,
            TOKENS=tiles.tokens,
            ROWS=tiles.rows,
            KEYS=tiles.keys,
            D=dim,
            D_PAD=max(16, power_of_2(dim)),
            SEQS_PAD=power_of_2(seqs),
            SPLITS=splits,
            CAUSAL=a.causal,
            HAS_LSE=lse is not None,
            num_warps=tiles.warps,
            num_stages=2,
        )
        if splits > 1:
            join_pieces_kernel[(tokens, heads)](
                out,
                lse,
                out_THD,
                lse_TH,
                *out_THD.stride()[:2],
                *(lse_TH.stride() if lse_TH is not None else (0, 0)),
                heads,
                D=dim,
                D_PAD=power_of_2(dim),
                SPLITS=splits,
                HAS_LSE=lse_TH is not None,
                num_warps=4,
            )
