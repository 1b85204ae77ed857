"""paged_attention: every query of every sequence attends to the sequence's keys in their pages.

    out[t, h] = softmax(scale * q[t, h] . k[0 .. last(t)]) v        g = h // (H / G)
    lse[t, h] = log sum exp of the same scores (natural log, float32)

causal: query i of the N that a sequence brings sees its first L - N + i + 1 keys (bottom-right), where L counts
the appended tokens too. N = 1 is decode, N > 1 append-prefill; both may stand in one call.
Floor: K and V once in decode (2 L G D values a sequence), 4 N L H D FLOPs (less the masked part) in append.
Shapes: T query tokens in all, S sequences, B blocks a row of the table, H query heads, G key/value heads, D head_dim.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vzoom import ext

from ..checks import check_dims, check_last_dim_contiguous, check_same_device
from ..layout import page_dims
from ..library import LIB
from ..registry import resolve
from .reference import paged_attention as _reference

LIB.define(
    "paged_attention(Tensor q, Tensor k_pages, Tensor v_pages, Tensor block_table, Tensor kv_lens, "
    "Tensor cu_seqlens_q, Tensor(a!) out, Tensor(b!)? lse, float scale, bool causal, str impl) -> ()"
)


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
    """Attention over pages; returns out [T, H, D].

    block_table [S, B] int32; kv_lens [S] int32, counting the tokens that this call appends; cu_seqlens_q [S + 1]
    int32, from 0 to T. `out` is made where it is not given; `lse` [T, H] float32 is written where it is given. A
    sequence without queries is skipped. A query that sees no key gives 0, and LSE -inf.
    ValueError where shapes, dtypes or devices do not fit; RuntimeError where a named `impl` is not there.
    """
    if out is None:
        out = torch.empty_like(q_THD, memory_format=torch.contiguous_format)
    torch.ops.vzoom.paged_attention(
        q_THD, k_pages, v_pages, block_table_SB, kv_lens_S, cu_seqlens_q, out, lse, scale, causal, impl
    )
    return out


def check(
    q: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
    block_table: Tensor,
    kv_lens: Tensor,
    cu_seqlens_q: Tensor,
    out: Tensor,
    lse: Tensor | None,
) -> None:
    """ValueError where the arguments do not fit together. Looks at no values: it must not wait for a GPU."""
    check_same_device(
        q=q, k_pages=k_pages, v_pages=v_pages, block_table=block_table, kv_lens=kv_lens, cu_seqlens_q=cu_seqlens_q,
        out=out, lse=lse,
    )  # fmt: skip
    sizes = check_dims(q=(q, "THD"), out=(out, "THD"), block_table=(block_table, "SB"), kv_lens=(kv_lens, "S"))
    check_last_dim_contiguous(q=q, k_pages=k_pages, v_pages=v_pages, out=out)
    if lse is not None:
        check_dims(q=(q, "TH."), lse=(lse, "TH"))
        if lse.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"lse must be float32, got {lse.dtype}")
    if tuple(cu_seqlens_q.shape) != (sizes["S"] + 1,):
        raise ValueError(f"cu_seqlens_q must hold S + 1 = {sizes['S'] + 1} numbers, got {tuple(cu_seqlens_q.shape)}")
    if k_pages.shape != v_pages.shape:
        raise ValueError(f"k_pages {tuple(k_pages.shape)} and v_pages {tuple(v_pages.shape)} must have one shape")
    dims = page_dims(k_pages)
    if dims.head_dim != sizes["D"]:
        raise ValueError(f"q has head_dim {sizes['D']} but the pages have {dims.head_dim}")
    if sizes["H"] % dims.kv_heads:
        raise ValueError(f"{sizes['H']} query heads are not a multiple of {dims.kv_heads} key/value heads")
    for name, tensor in (("block_table", block_table), ("kv_lens", kv_lens), ("cu_seqlens_q", cu_seqlens_q)):
        if tensor.dtype != torch.int32:
            raise ValueError(f"{name} must be int32, got {tensor.dtype}")
    for name, tensor in (("k_pages", k_pages), ("v_pages", v_pages), ("out", out)):
        if tensor.dtype != q.dtype:
            raise ValueError(f"{name} is {tensor.dtype} but q is {q.dtype}: they must share one dtype")


def _run(
    q: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
    block_table: Tensor,
    kv_lens: Tensor,
    cu_seqlens_q: Tensor,
    out: Tensor,
    lse: Tensor | None,
    scale: float,
    causal: bool,
    impl: str,
) -> None:
    chosen = resolve("paged_attention", impl, q.device.type)
    if chosen == "cpu":  # which checks its arguments itself
        ext.loaded().paged_attention(q, k_pages, v_pages, block_table, kv_lens, cu_seqlens_q, out, lse, scale, causal)
        return
    check(q, k_pages, v_pages, block_table, kv_lens, cu_seqlens_q, out, lse)
    if chosen == "cuda":
        from .cuda_impl import paged_attention as run
    elif chosen == "triton":
        from .triton_impl import paged_attention as run
    else:
        run = _reference
    run(q, k_pages, v_pages, block_table, kv_lens, cu_seqlens_q, out, lse, scale, causal)


def _fake(
    q: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
    block_table: Tensor,
    kv_lens: Tensor,
    cu_seqlens_q: Tensor,
    out: Tensor,
    lse: Tensor | None,
    scale: float,
    causal: bool,
    impl: str,
) -> None:
    check(q, k_pages, v_pages, block_table, kv_lens, cu_seqlens_q, out, lse)


LIB.impl("paged_attention", _run, "CPU")
LIB.impl("paged_attention", _run, "CUDA")
torch.library.register_fake("vzoom::paged_attention", _fake, lib=LIB)
