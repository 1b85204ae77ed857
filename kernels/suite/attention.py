"""Checks of paged_attention."""

from __future__ import annotations

import torch

from ..paged_attention.reference import paged_attention as reference
from .cases import AttentionCase, attention_case, poisoned, shifted
from .compare import within_house_rule
from .runner import Runner


def check_attention(
    runs: list[tuple[int, int]],
    runner: Runner,
    *,
    dim: int,
    dtype: torch.dtype,
    heads: int = 4,
    groups: int = 2,
    block_size: int = 16,
    causal: bool = True,
    with_lse: bool = True,
    share_first_block: bool = False,
    unaligned: bool = False,
) -> None:
    """out and lse against the reference in float64; both start as NaN. q is a slice of wider rows."""
    case = attention_case(
        runs,
        heads=heads,
        groups=groups,
        dim=dim,
        block_size=block_size,
        dtype=dtype,
        share_first_block=share_first_block,
    )
    scale = dim**-0.5
    truth, truth_lse = _by_reference(case.to(torch.float64), scale, causal)
    torch_got, torch_lse = _by_reference(case, scale, causal)

    tokens = case.q.shape[0]
    wide = poisoned(tokens, heads + 2 * groups, dim, dtype=dtype)
    wide[:, :heads] = case.q
    out = runner.put(poisoned(tokens, heads, dim, dtype=dtype))
    lse = runner.put(poisoned(tokens, heads, dtype=torch.float32)) if with_lse else None
    tensors = (
        runner.put(shifted(wide) if unaligned else wide)[:, :heads],
        runner.put_pages(case.k_pages),
        runner.put_pages(case.v_pages),
        *(runner.put(t) for t in (case.block_table, case.kv_lens, case.cu_seqlens_q)),
    )
    returned = runner.run("paged_attention", *tensors, scale=scale, causal=causal, out=out, lse=lse)
    assert returned is out, "the tensor that was given must be returned"
    within_house_rule("out", out, torch_got, truth)
    if lse is not None:
        within_house_rule("lse", lse, torch_lse.float(), truth_lse)


def _by_reference(case: AttentionCase, scale: float, causal: bool) -> tuple[torch.Tensor, torch.Tensor]:
    out = torch.empty_like(case.q)
    lse = torch.empty(case.q.shape[:2], dtype=torch.promote_types(case.q.dtype, torch.float32))
    reference(*case.args, out, lse, scale, causal)
    return out, lse
