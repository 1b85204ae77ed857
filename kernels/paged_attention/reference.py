"""paged_attention in torch: gather the pages of each sequence, then softmax(q k^T) v.

T query tokens of S sequences in a row, H query heads, G key/value heads, D head_dim, L keys of one sequence.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from ..layout import heads_first


def gather(pages: Tensor, blocks: Tensor, length: int) -> Tensor:
    """The first `length` tokens of a sequence: pages, block numbers -> [G, L, D]."""
    picked = heads_first(pages)[blocks.long()]  # [blocks, G, block_size, D]
    return picked.transpose(0, 1).flatten(1, 2)[:, :length]


def paged_attention(
    q_THD: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
    block_table_SB: Tensor,
    kv_lens_S: Tensor,
    cu_seqlens_q: Tensor,
    out_THD: Tensor,
    lse_TH: Tensor | None,
    scale: float,
    causal: bool,
) -> None:
    block_size = heads_first(k_pages).shape[2]
    starts, lengths = cu_seqlens_q.tolist(), kv_lens_S.tolist()
    for s, length in enumerate(lengths):
        rows = slice(starts[s], starts[s + 1])
        if rows.stop == rows.start:
            continue
        blocks = block_table_SB[s, : -(-length // block_size)]
        k_GLD, v_GLD = gather(k_pages, blocks, length), gather(v_pages, blocks, length)
        out, lse = attend(q_THD[rows], k_GLD, v_GLD, scale=scale, causal=causal, want_lse=lse_TH is not None)
        out_THD[rows] = out
        if lse_TH is not None and lse is not None:
            lse_TH[rows] = lse


def attend(
    q_NHD: Tensor, k_GLD: Tensor, v_GLD: Tensor, *, scale: float, causal: bool, want_lse: bool
) -> tuple[Tensor, Tensor | None]:
    """One sequence. The H / G query heads of a group are rows of one product, so K and V are not repeated.

    causal is bottom-right: query i of N sees keys 0 .. L - N + i. A query that sees no key gives 0 and LSE -inf.
    """
    num_queries, heads, dim = q_NHD.shape
    groups, length = k_GLD.shape[:2]
    q_GND = q_NHD.unflatten(1, (groups, heads // groups)).permute(1, 2, 0, 3).reshape(groups, -1, dim)
    seen = None
    if causal and num_queries > 1:
        last = torch.arange(length - num_queries, length, device=q_NHD.device)
        seen = torch.arange(length, device=q_NHD.device) <= last[:, None]
        seen = seen.repeat(heads // groups, 1)
    out_GND = scaled_dot_product_attention(q_GND[None], k_GLD[None], v_GLD[None], attn_mask=seen, scale=scale)[0]
    lse = None
    if want_lse:
        scores = (q_GND @ k_GLD.transpose(1, 2)).to(torch.promote_types(q_NHD.dtype, torch.float32)) * scale
        if seen is not None:
            scores = scores.masked_fill(~seen, -torch.inf)
        lse = torch.logsumexp(scores, dim=-1).view(heads, num_queries).T
    if length < num_queries and causal:  # the first queries see nothing: softmax of nothing is no number
        out_GND = out_GND.masked_fill(~seen.any(1)[None, :, None], 0) if seen is not None else out_GND
    if length == 0:
        out_GND = torch.zeros_like(out_GND)
    return out_GND.view(heads, num_queries, dim).transpose(0, 1), lse
