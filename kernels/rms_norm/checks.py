"""Checks of rms_norm."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from ..suite import DTYPES, Check, Runner, poisoned, random, within_tolerance
from .reference import Arguments, normed


def checks() -> Iterator[Check]:
    """List the checks."""
    for dtype in DTYPES:
        for size in (1, 16, 17, 80, 128, 515):
            yield Check("rms_norm", f"{size} features", dtype, partial(_check, size, dtype))


def example(device: torch.device) -> Arguments:
    """Make small arguments."""
    x, out = torch.randn(3, 2, 8, device=device), torch.randn(3, 2, 8, device=device)
    return Arguments(x, torch.randn(8, device=device), 1e-6, out)


def _check(size: int, dtype: torch.dtype, runner: Runner) -> None:
    """Rows of some heads of wider ones; what is beside them stays."""
    fused = random(5, 7, size, dtype=dtype, seed=size) * 3
    x, weight = fused[:, 1:4], random(size, dtype=dtype, seed=2)
    truth = normed(x.double(), weight.double(), 1e-6)
    guarded = runner.put(poisoned(5, 5, size, dtype=dtype))
    runner.run("rms_norm", runner.put(fused)[:, 1:4], runner.put(weight), 1e-6, guarded[:, 1:4])
    within_tolerance("out", guarded[:, 1:4], normed(x, weight, 1e-6), truth)
    assert guarded[:, [0, 4]].isnan().all(), "written outside of the output"
