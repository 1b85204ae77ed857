"""paged_attention on CUDA: C++ for decode; FlashAttention, else Triton, for append-prefill."""

from __future__ import annotations

import importlib.util
from types import ModuleType

import torch
from torch import Tensor

from .. import extension
from ..gpu import choose_splits, num_multiprocessors
from ..layout import heads_first
from . import flash
from .reference import Arguments

KEYS_PER_STEP = 64  # what a block of threads of the C++ kernel reads between two joins of its softmax, about


def paged_attention(a: Arguments) -> None:
    """Run a call with more queries than sequences by what `append_impl` chooses, any other by the C++."""
    if a.q_THD.shape[0] <= a.block_table_SB.shape[0]:
        decode(a)
        return
    kind = append_impl(a.q_THD, block_size=heads_first(a.k_pages).shape[2])
    if kind == "triton":
        from .triton_impl import paged_attention as append

        append(a)
    elif kind == "cuda":
        decode(a)
    else:
        flash.append(kind, a)


def append_impl(q_THD: Tensor, *, block_size: int) -> str:
    """Choose what runs an append-prefill.

    Returns:
        A FlashAttention (its name in `flash`), "triton", or "cuda", the decode kernel, which is right but slow.
    """
    usable = flash.usable(q_THD, block_size=block_size)
    if usable is not None:
        return usable
    return "triton" if importlib.util.find_spec("triton") is not None else "cuda"


def decode(a: Arguments, *, native: ModuleType | None = None, splits: int | None = None) -> None:
    """Run the C++ kernel, which is right for any number of queries per sequence.

    Args:
        a: the op's arguments.
        native: the extension, or what stands for it.
        splits: pieces of the context; None chooses from the batch and from what the block table can hold, so that
            nothing is read back from the GPU.
    """
    tokens, heads, dim = a.q_THD.shape
    if tokens == 0 or a.block_table_SB.shape[0] == 0:
        return
    if splits is None:
        _, kv_heads, block_size, _ = heads_first(a.k_pages).shape
        splits = choose_splits(
            programs=tokens * kv_heads,
            longest=a.block_table_SB.shape[1] * block_size,
            keys_per_step=KEYS_PER_STEP,
            multiprocessors=num_multiprocessors(a.q_THD.device),
        )
    part_out = part_lse = None
    if splits > 1:
        part_out = torch.empty((tokens, heads, splits, dim), dtype=torch.float32, device=a.q_THD.device)
        part_lse = torch.empty((tokens, heads, splits), dtype=torch.float32, device=a.q_THD.device)
    (native or extension.module).cuda_paged_attention(*a, part_out, part_lse)
