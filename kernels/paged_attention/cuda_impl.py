"""paged_attention on CUDA: C++ for decode; FlashAttention, else Triton, for append-prefill."""

from __future__ import annotations

import importlib.util
from types import ModuleType

import torch
from torch import Tensor

from vzoom import ext

from ..gpu import choose_splits, num_multiprocessors
from ..layout import heads_first
from . import flash

KEYS_A_STEP = 64  # what a block of threads of the C++ kernel reads between two joins of its softmax, about


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
    """A call with more queries than sequences is an append; its kernel is chosen by `append_impl`."""
    args = (q_THD, k_pages, v_pages, block_table_SB, kv_lens_S, cu_seqlens_q, out_THD, lse_TH, scale, causal)
    if q_THD.shape[0] <= block_table_SB.shape[0]:
        decode(*args)
        return
    kind = append_impl(q_THD, block_size=heads_first(k_pages).shape[2])
    if kind == "triton":
        from .triton_impl import paged_attention as append

        append(*args)
    elif kind == "cuda":
        decode(*args)
    else:
        flash.append(kind, *args)


def append_impl(q_THD: Tensor, *, block_size: int) -> str:
    """What runs an append: a FlashAttention (its name in `flash`), "triton", or "cuda", the slow but right decode."""
    usable = flash.usable(q_THD, block_size=block_size)
    if usable is not None:
        return usable
    return "triton" if importlib.util.find_spec("triton") is not None else "cuda"


def decode(
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
    *,
    native: ModuleType | None = None,
    splits: int | None = None,
) -> None:
    """The C++ kernel, right for any number of queries a sequence. native: the extension, or what stands for it.

    splits: pieces of the context; None chooses from the batch and what the block table can hold, so that nothing is
    read back from the GPU.
    """
    native = native or ext.loaded()
    tokens, heads, dim = q_THD.shape
    if tokens == 0 or block_table_SB.shape[0] == 0:
        return
    if splits is None:
        _, groups, block_size, _ = heads_first(k_pages).shape
        splits = choose_splits(
            programs=tokens * groups,
            longest=block_table_SB.shape[1] * block_size,
            keys_a_step=KEYS_A_STEP,
            multiprocessors=num_multiprocessors(q_THD.device),
        )
    part_out = part_lse = None
    if splits > 1:
        part_out = torch.empty((tokens, heads, splits, dim), dtype=torch.float32, device=q_THD.device)
        part_lse = torch.empty((tokens, heads, splits), dtype=torch.float32, device=q_THD.device)
    native.cuda_paged_attention(
        q_THD,
        k_pages,
        v_pages,
        block_table_SB,
        kv_lens_S,
        cu_seqlens_q,
        out_THD,
        lse_TH,
        scale,
        causal,
        part_out,
        part_lse,
    )
