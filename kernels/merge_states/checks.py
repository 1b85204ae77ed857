"""Checks of merge_states."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from ..suite import DTYPES, HEAD_DIMS, Check, Runner, poisoned, random, within_tolerance
from .reference import Arguments
from .reference import merge_states as reference


def checks() -> Iterator[Check]:
    """List the checks."""
    for dtype in DTYPES:
        for dim in (*HEAD_DIMS, 20):
            yield Check("merge_states", f"head_dim {dim}", dtype, partial(_check, dim=dim, dtype=dtype))
        wider = partial(_check, dim=20, dtype=dtype, padding=12)
        yield Check("merge_states", "rows wider than head_dim 20", dtype, wider)
        no_lse = partial(_check, dim=64, dtype=dtype, with_lse=False)
        yield Check("merge_states", "no lse", dtype, no_lse)
        yield Check("merge_states", "no tokens", dtype, partial(_check, dim=64, dtype=dtype, tokens=0))


def example(device: torch.device) -> Arguments:
    """Make small arguments."""
    out_a, out_b, out = (torch.randn(5, 4, 16, device=device) for _ in range(3))
    return Arguments(out_a, torch.randn(5, 4, device=device), out_b, torch.randn(5, 4, device=device), out, None)


def _check(
    runner: Runner,
    *,
    dim: int,
    dtype: torch.dtype,
    tokens: int = 5,
    heads: int = 3,
    with_lse: bool = True,
    padding: int = 0,
) -> None:
    """Sides without keys hold NaN, which must not come through; tensors are slices of wider ones."""
    wide = random(2, tokens, heads + 1, dim + padding, dtype=dtype, seed=7)
    both = wide[..., :dim]
    lses = random(2, tokens, heads, dtype=torch.float32, seed=8) * 4
    if tokens > 2:
        lses[0, 0, 0] = lses[1, 1, 1] = lses[:, 2, 2] = -torch.inf
        both[:, :, :heads][lses == -torch.inf] = torch.nan
        lses[0, 3, 0] = 200.0  # exp would overflow
    a, b = both[0, :, :heads], both[1, :, :heads]

    def by_reference(exact: torch.dtype, lse_dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        out, lse = torch.empty_like(a, dtype=exact), torch.empty_like(lses[0], dtype=lse_dtype)
        reference(Arguments(a.to(exact), lses[0].to(lse_dtype), b.to(exact), lses[1].to(lse_dtype), out, lse))
        return out, lse

    truth, truth_lse = by_reference(torch.float64, torch.float64)
    torch_got, torch_lse = by_reference(dtype, torch.float32)
    padded = runner.put(poisoned(tokens, heads, dim + padding, dtype=dtype))
    out = padded[..., :dim]
    lse = runner.put(poisoned(tokens, heads, dtype=torch.float32)) if with_lse else None
    tensors = [runner.put(x) for x in (both[0], lses[0], both[1], lses[1])]
    runner.run("merge_states", tensors[0][:, :heads], tensors[1], tensors[2][:, :heads], tensors[3], out, lse)
    within_tolerance("out", out, torch_got, truth)
    assert padded[..., dim:].isnan().all(), "written beyond head_dim"
    if lse is not None:
        within_tolerance("lse", lse, torch_lse, truth_lse)
