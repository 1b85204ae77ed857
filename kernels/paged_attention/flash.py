"""Append-prefill through FlashAttention, if one is installed that reads pages like ours.

| package                            | pages            | GPUs            |
| flash-attn 3, flash_attn_interface | any size         | sm_90           |
| flash-attn-4, flash_attn.cute      | any size         | sm_90, sm_100   |
| flash-attn 2, flash_attn           | multiples of 256 | sm_80 and newer |

Never needed: Triton computes the same. They return new tensors, which are copied to `out` and `lse`.
"""

from __future__ import annotations

import importlib
import importlib.util
from functools import cache

import torch
from torch import Tensor

from ..gpu import architecture_of
from .reference import Arguments


@cache
def installed() -> tuple[str, ...]:
    """List what is installed, best first: "flash3", "flash4", "flash2"."""
    found = []
    if importlib.util.find_spec("flash_attn_interface") is not None:
        found.append("flash3")
    if importlib.util.find_spec("flash_attn") is not None:  # a part of a package that is not there cannot be asked for
        if importlib.util.find_spec("flash_attn.cute") is not None:
            found.append("flash4")
        if importlib.util.find_spec("flash_attn.flash_attn_interface") is not None:
            found.append("flash2")
    return tuple(found)


def usable(q_THD: Tensor, *, block_size: int) -> str | None:
    """Choose the best installed FlashAttention for these queries and pages; None if none fits."""
    dim = q_THD.shape[2]
    if q_THD.dtype not in (torch.bfloat16, torch.float16) or dim % 8 or dim > 256:
        return None
    architecture = architecture_of(q_THD.device)
    fits = {
        "flash3": architecture == 90,
        "flash4": architecture // 10 in (9, 10, 11) and (dim <= 128 or architecture == 90),
        "flash2": architecture >= 80 and block_size % 256 == 0,
    }
    return next((name for name in installed() if fits[name]), None)


def append(kind: str, a: Arguments) -> None:
    """Run paged_attention by FlashAttention. Pages are [N, P, G, D].

    The longest run of queries and the longest context are on the GPU; their bounds serve, so nothing waits for it.

    Args:
        kind: one of `installed()`.
        a: the op's arguments.
    """
    longest_q, longest_k = a.q_THD.shape[0], a.block_table_SB.shape[1] * a.k_pages.shape[1]
    if kind == "flash3":
        out, lse, *_ = importlib.import_module("flash_attn_interface").flash_attn_with_kvcache(
            a.q_THD,
            a.k_pages,
            a.v_pages,
            cache_seqlens=a.kv_lens_S,
            page_table=a.block_table_SB,
            cu_seqlens_q=a.cu_seqlens_q,
            max_seqlen_q=longest_q,
            softmax_scale=a.scale,
            causal=a.causal,
            return_softmax_lse=True,
        )
    elif kind == "flash4":
        out, lse, *_ = importlib.import_module("flash_attn.cute").flash_attn_varlen_func(
            a.q_THD,
            a.k_pages,
            a.v_pages,
            cu_seqlens_q=a.cu_seqlens_q,
            max_seqlen_q=longest_q,
            max_seqlen_k=longest_k,
            seqused_k=a.kv_lens_S,
            page_table=a.block_table_SB,
            softmax_scale=a.scale,
            causal=a.causal,
            return_lse=True,
        )
    else:
        starts = torch.nn.functional.pad(a.kv_lens_S.cumsum(0, dtype=torch.int32), (1, 0))
        out, lse, *_ = importlib.import_module("flash_attn").flash_attn_varlen_func(
            a.q_THD,
            a.k_pages,
            a.v_pages,
            a.cu_seqlens_q,
            starts,
            longest_q,
            longest_k,
            softmax_scale=a.scale,
            causal=a.causal,
            return_attn_probs=True,
            block_table=a.block_table_SB,
        )
    a.out_THD.copy_(out)
    if a.lse_TH is not None:
        # [H, T]; some versions give +inf to a query that sees no key.
        a.lse_TH.copy_(torch.where(lse == torch.inf, -torch.inf, lse).transpose(0, 1))
