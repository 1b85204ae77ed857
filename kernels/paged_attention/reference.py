"""paged_attention in torch: gather the pages of each sequence, then softmax(q k^T) v.

Letters: see `vzoom.kernels.layout`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from ..layout import heads_first


class Arguments(NamedTuple):
    """What every implementation takes, in this order. `op.paged_attention` says what they are."""

    q_THD: Tensor
    k_pages: Tensor
    v_pages: Tensor
    block_table_SB: Tensor
    kv_lens_S: Tensor
    cu_seqlens_q: Tensor
    out_THD: Tensor
    lse_TH: Tensor | None
    scale: float
    causal: bool


def paged_attention(a: Arguments) -> None:
    """Attend sequence by sequence."""
    block_size = heads_first(a.k_pages).shape[2]
    starts, lengths = a.cu_seqlens_q.tolist(), a.kv_lens_S.tolist()
    for s, length in enumerate(lengths):
        rows = slice(starts[s], starts[s + 1])
        if rows.stop == rows.start:
            continue
        blocks = a.block_table_SB[s, : -(-length // block_size)]
        k_GKD, v_GKD = _gather(a.k_pages, blocks, length), _gather(a.v_pages, blocks, length)
        wanted = a.lse_TH is not None
        out, lse = _attend(a.q_THD[rows], k_GKD, v_GKD, scale=a.scale, causal=a.causal, want_lse=wanted)
        a.out_THD[rows] = out
        if a.lse_TH is not None and lse is not None:
            a.lse_TH[rows] = lse


def _gather(pages: Tensor, blocks: Tensor, length: int) -> Tensor:
    """The first `length` tokens of a sequence: pages, block numbers -> [G, K, D]."""
    picked = heads_first(pages)[blocks.long()]  # [B, G, P, D]
    return picked.transpose(0, 1).flatten(1, 2)[:, :length]


def _attend(
    q_QHD: Tensor, k_GKD: Tensor, v_GKD: Tensor, *, scale: float, causal: bool, want_lse: bool
) -> tuple[Tensor, Tensor | None]:
    """One sequence. The H / G query heads of a group are rows of one product, so K and V are not repeated.

    causal is bottom-right: query i of Q sees keys 0 .. K - Q + i. A query that sees no key gives 0 and LSE -inf.
    """
    num_queries, heads, dim = q_QHD.shape
    kv_heads, length = k_GKD.shape[:2]
    q_GRD = q_QHD.unflatten(1, (kv_heads, heads // kv_heads)).permute(1, 2, 0, 3).reshape(kv_heads, -1, dim)
    seen = None
    if causal and num_queries > 1:
        last = torch.arange(length - num_queries, length, device=q_QHD.device)
        seen = torch.arange(length, device=q_QHD.device) <= last[:, None]
        seen = seen.repeat(heads // kv_heads, 1)
    out_GRD = scaled_dot_product_attention(q_GRD[None], k_GKD[None], v_GKD[None], attn_mask=seen, scale=scale)[0]
    lse = None
    if want_lse:
        scores = (q_GRD @ k_GKD.transpose(1, 2)).to(torch.promote_types(q_QHD.dtype, torch.float32)) * scale
        if seen is not None:
            scores = scores.masked_fill(~seen, -torch.inf)
        lse = torch.logsumexp(scores, dim=-1).view(heads, num_queries).T
    if length < num_queries and causal:  # the first queries see nothing: softmax of nothing is no number
        out_GRD = out_GRD.masked_fill(~seen.any(1)[None, :, None], 0) if seen is not None else out_GRD
    if length == 0:
        out_GRD = torch.zeros_like(out_GRD)
    return out_GRD.view(heads, num_queries, dim).transpose(0, 1), lse
