"""Append-prefill through FlashAttention: what we pass it and how we read its answer, with stand-ins for it."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from vzoom.kernels.paged_attention import cuda_impl, flash
from vzoom.kernels.paged_attention.reference import Arguments
from vzoom.kernels.paged_attention.reference import paged_attention as reference
from vzoom.kernels.suite import AttentionCase, attention_case


def case() -> AttentionCase:
    made = attention_case([(3, 9), (2, 5), (4, 4)], heads=4, kv_heads=2, dim=16, block_size=4, dtype=torch.float32)
    return AttentionCase(made.q, made.k_pages, made.v_pages, made.block_table.clamp(min=0), *made.args[4:])


def answer(
    q: Tensor, k: Tensor, v: Tensor, table: Tensor, lens: Tensor, starts: Tensor, scale: float, causal: bool
) -> Any:
    out, lse = torch.empty_like(q), torch.empty(q.shape[:2])
    # FlashAttention's pages are [blocks, block_size, heads, dim]; the reference on the CPU wants heads first.
    reference(Arguments(q, k.transpose(1, 2), v.transpose(1, 2), table, lens, starts, out, lse, scale, causal))
    return out, lse.T.contiguous(), None


def flash3(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    *,
    cache_seqlens: Tensor,
    page_table: Tensor,
    cu_seqlens_q: Tensor,
    max_seqlen_q: int,
    softmax_scale: float,
    causal: bool,
    return_softmax_lse: bool,
) -> Any:
    assert max_seqlen_q >= 4
    assert return_softmax_lse
    return answer(q, k_cache, v_cache, page_table, cache_seqlens, cu_seqlens_q, softmax_scale, causal)


def flash4(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    cu_seqlens_q: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    seqused_k: Tensor,
    page_table: Tensor,
    softmax_scale: float,
    causal: bool,
    return_lse: bool,
) -> Any:
    assert max_seqlen_q >= 4
    assert max_seqlen_k >= 9
    assert return_lse
    return answer(q, k, v, page_table, seqused_k, cu_seqlens_q, softmax_scale, causal)


def flash2(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    *,
    softmax_scale: float,
    causal: bool,
    return_attn_probs: bool,
    block_table: Tensor,
) -> Any:
    assert cu_seqlens_k.dtype == torch.int32
    assert return_attn_probs
    return answer(q, k, v, block_table, cu_seqlens_k.diff(), cu_seqlens_q, softmax_scale, causal)


@pytest.mark.parametrize(
    ("kind", "module", "name", "function"),
    [
        ("flash3", "flash_attn_interface", "flash_attn_with_kvcache", flash3),
        ("flash4", "flash_attn.cute", "flash_attn_varlen_func", flash4),
        ("flash2", "flash_attn", "flash_attn_varlen_func", flash2),
    ],
)
def test_append(kind: str, module: str, name: str, function: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    standin = ModuleType(module)
    setattr(standin, name, function)
    monkeypatch.setitem(sys.modules, "flash_attn", ModuleType("flash_attn"))
    monkeypatch.setitem(sys.modules, module, standin)
    made = case()
    wanted, wanted_lse = torch.empty_like(made.q), torch.empty(made.q.shape[:2])
    reference(Arguments(*made.args, wanted, wanted_lse, 0.2, True))
    out, lse = torch.full_like(made.q, torch.nan), torch.full(made.q.shape[:2], torch.nan)
    pages = (made.k_pages.transpose(1, 2), made.v_pages.transpose(1, 2))
    flash.append(kind, Arguments(made.q, *pages, *made.args[3:], out, lse, 0.2, True))
    assert out.equal(wanted)
    assert lse.equal(wanted_lse)


def test_which_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    q = torch.zeros(4, 4, 128, dtype=torch.bfloat16)
    monkeypatch.setattr(flash, "installed", lambda: ("flash3", "flash4", "flash2"))
    for architecture, block_size, wanted in (
        (90, 32, "flash3"),
        (100, 32, "flash4"),
        (80, 256, "flash2"),
        (80, 32, None),
    ):
        monkeypatch.setattr(flash, "architecture_of", lambda device, value=architecture: value)
        assert flash.usable(q, block_size=block_size) == wanted
    monkeypatch.setattr(flash, "architecture_of", lambda device: 90)
    assert flash.usable(q.float(), block_size=256) is None
    monkeypatch.setattr(flash, "installed", lambda: ())
    monkeypatch.setattr(cuda_impl.importlib.util, "find_spec", lambda name: None)
    assert cuda_impl.append_impl(q, block_size=32) == "cuda"


def test_nothing_is_installed_here_or_it_is_known() -> None:
    assert set(flash.installed()) <= {"flash3", "flash4", "flash2"}
