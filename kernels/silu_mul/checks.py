"""Checks of silu_mul."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from ..suite import DTYPES, Check, Runner, random, same_bits, within_tolerance
from .reference import Arguments
from .reference import silu_mul as reference


def checks() -> Iterator[Check]:
    """List the checks."""
    for dtype in DTYPES:
        for size in (1, 16, 33):
            yield Check("silu_mul", f"{size} features", dtype, partial(_check, size, dtype))


def example(device: torch.device) -> Arguments:
    """Make small arguments."""
    return Arguments(torch.randn(3, 8, device=device), torch.randn(3, 8, device=device))


def _check(size: int, dtype: torch.dtype, runner: Runner) -> None:
    """Far from 0 too, where exp leaves the range of float32; what is between the rows stays."""
    wide = random(4, size + 2, dtype=dtype, seed=1) * 40
    wide[0, 1], wide[1, 1] = -200, 200
    up = random(4, size, dtype=dtype, seed=2)

    def by_reference(exact: torch.dtype) -> Tensor:
        gate = wide[:, 1:-1].to(exact, copy=True)
        reference(Arguments(gate, up.to(exact)))
        return gate

    truth, by_torch = by_reference(torch.float64), by_reference(dtype)
    got = runner.put(wide)
    runner.run("silu_mul", got[:, 1:-1], runner.put(up))
    within_tolerance("gate", got[:, 1:-1], by_torch, truth)
    same_bits("beside the gate", got[:, [0, -1]], wide[:, [0, -1]])
