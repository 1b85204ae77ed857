"""Checks of linear."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from ..suite import DTYPES, Check, Runner, poisoned, random, shifted, within_tolerance
from .reference import Arguments, project


def checks() -> Iterator[Check]:
    """List the checks."""
    for dtype in DTYPES:
        for rows in (0, 1, 2, 3, 7, 8, 15, 16, 17, 37):
            yield Check("linear", f"{rows} rows", dtype, partial(_check, rows, 96, 70, "bga", dtype))
        for inputs, outputs in ((1, 1), (31, 5), (33, 64), (130, 129), (1400, 34), (3000, 3)):
            for rows in (1, 9):
                body = partial(_check, rows, inputs, outputs, "bg", dtype)
                yield Check("linear", f"{rows} rows {inputs} to {outputs}", dtype, body)
        for given in ("", "b", "g", "a", "ba"):
            yield Check("linear", f"with {given or 'nothing'}", dtype, partial(_check, 2, 64, 40, given, dtype))


def example(device: torch.device) -> Arguments:
    """Make small arguments."""
    shapes = ((3, 8), (5, 8), (5,), (5, 8), (5,), (3, 5), (3, 5))
    return Arguments(*(torch.randn(shape, device=device) for shape in shapes))


def _check(rows: int, inputs: int, outputs: int, given: str, dtype: torch.dtype, runner: Runner) -> None:
    """Strided rows, unaligned weights, and no element outside of the output is written.

    given: letters of what there is beside x and weight: b for a bias, g for a gate, a for what is added.
    """
    x = random(rows, inputs + 3, dtype=dtype, seed=1)[:, :inputs]
    gain = inputs**-0.5
    weight, gate = (shifted(random(outputs, inputs, dtype=torch.float32, seed=s).mul(gain).to(dtype)) for s in (2, 3))
    bias, gate_bias, add = (random(*shape, dtype=dtype, seed=4) for shape in ((outputs,), (outputs,), (rows, outputs)))
    every = (
        x,
        weight,
        bias if "b" in given else None,
        gate if "g" in given else None,
        gate_bias if "g" in given and "b" in given else None,
        add if "a" in given else None,
    )
    truth = project(*(None if t is None else t.double() for t in every))  # type: ignore[arg-type]
    guarded = runner.put(poisoned(rows, outputs + 2, dtype=dtype))
    runner.run("linear", *(None if t is None else runner.put(t) for t in every), guarded[:, 1:-1])
    within_tolerance("out", guarded[:, 1:-1], project(*every), truth)
    assert guarded[:, [0, -1]].isnan().all(), "written outside of the output"
