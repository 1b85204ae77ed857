"""paged_attention: every query of every sequence attends to the sequence's keys in their pages.

    out[t, h] = softmax(scale * q[t, h] . k[0 .. last(t)]) v        g = h // (H / G)
    lse[t, h] = log sum exp of the same scores (natural log, float32)

causal: query i of the Q that a sequence brings sees its first K - Q + i + 1 keys (bottom-right), where K counts the
appended tokens too. Q = 1 is decode, Q > 1 append-prefill; one call may hold both.
Floor: K and V once in decode (2 K G D values per sequence), 4 Q K H D FLOPs (less the masked part) in append.
Letters: see `vzoom.kernels.layout`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..checks import check_dtype, check_last_dim_contiguous, check_one_dtype, check_shapes
from ..declare import declare
from ..layout import page_dims
from .reference import Arguments
from .reference import paged_attention as _reference


def paged_attention(
    q_THD: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
    block_table_SB: Tensor,
    kv_lens_S: Tensor,
    cu_seqlens_q: Tensor,
    *,
    scale: float,
    causal: bool = True,
    out: Tensor | None = None,
    lse: Tensor | None = None,
    impl: str = "auto",
) -> Tensor:
    """Attend to keys and values in pages.

    A sequence without queries is skipped. A query that sees no key gets 0, and an LSE of -inf.

    Args:
        q_THD: queries of all sequences, one sequence after the other. The pages and `out` have its dtype.
        k_pages: keys, in the device's layout of pages (`vzoom.kernels.layout`).
        v_pages: values, of the shape of k_pages.
        block_table_SB: int32, the blocks of each sequence in order; entries after its last block are not read.
        kv_lens_S: int32, tokens in each sequence's pages, those of this call included.
        cu_seqlens_q: int32 [S + 1], from 0 to T: sequence s owns the queries cu_seqlens_q[s] to cu_seqlens_q[s + 1].
        scale: what scores are multiplied by, above 0, usually D ** -0.5.
        causal: whether a query sees only the keys up to itself.
        out: where the result goes, [T, H, D]; None makes a tensor.
        lse: float32 [T, H], written if given.
        impl: "auto", "reference", "cpu", "triton" or "cuda".

    Returns:
        `out`.

    Raises:
        ValueError: shapes, dtypes or devices do not fit together.
        RuntimeError: the named `impl` is not there.
    """
    if out is None:
        out = torch.empty_like(q_THD, memory_format=torch.contiguous_format)
    _op(q_THD, k_pages, v_pages, block_table_SB, kv_lens_S, cu_seqlens_q, out, lse, scale, causal, impl)
    return out


def _check(a: Arguments) -> None:
    sizes = check_shapes(a)
    check_last_dim_contiguous(q=a.q_THD, k_pages=a.k_pages, v_pages=a.v_pages, out=a.out_THD)
    check_dtype((torch.float32, torch.float64), lse=a.lse_TH)
    if tuple(a.cu_seqlens_q.shape) != (sizes["S"] + 1,):
        raise ValueError(f"cu_seqlens_q must hold S + 1 = {sizes['S'] + 1} numbers, got {tuple(a.cu_seqlens_q.shape)}")
    if not a.scale > 0:
        raise ValueError(f"scale must be above 0, got {a.scale}")
    dims = page_dims(a.k_pages, a.v_pages)
    if dims.head_dim != sizes["D"]:
        raise ValueError(f"q has head_dim {sizes['D']} but the pages have {dims.head_dim}")
    if sizes["H"] % dims.kv_heads:
        raise ValueError(f"{sizes['H']} query heads are not a multiple of {dims.kv_heads} key/value heads")
    check_dtype(torch.int32, block_table=a.block_table_SB, kv_lens=a.kv_lens_S, cu_seqlens_q=a.cu_seqlens_q)
    check_one_dtype(q=a.q_THD, k_pages=a.k_pages, v_pages=a.v_pages, out=a.out_THD)


_op = declare(Arguments, _reference, _check, writes=("out_THD", "lse_TH"))
