"""The integer weights of Pillow's 8-bit resize, and the order of its two passes.

A pass gives out[i] = clip8((2**21 + sum_j weight[i, j] * in[first[i] + j]) >> 22). Weights are the filter at the
centres of the input pixels, in double precision, normalised, times 2**22 and rounded half away from zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

Filter = Literal["bicubic", "lanczos"]
PRECISION_BITS = 22


@dataclass(frozen=True, eq=False)
class Pass:
    """One pass. first [out] int32; weights [out, taps] int32, zeros after the last tap of a row."""

    in_size: int
    first: np.ndarray
    weights: np.ndarray

    @property
    def out_size(self) -> int:
        """Pixels that the pass makes."""
        return len(self.first)


def _bicubic(x: float) -> float:
    x = abs(x)
    if x < 1:
        return (1.5 * x - 2.5) * x * x + 1
    if x < 2:
        return (((x - 5) * x + 8) * x - 4) * -0.5
    return 0.0


def _sinc(x: float) -> float:
    x *= math.pi
    return math.sin(x) / x if x else 1.0


def _lanczos(x: float) -> float:
    return _sinc(x) * _sinc(x / 3) if -3 <= x < 3 else 0.0


_FILTERS: dict[str, tuple[Callable[[float], float], float]] = {"bicubic": (_bicubic, 2.0), "lanczos": (_lanczos, 3.0)}


@lru_cache(maxsize=256)
def make_pass(in_size: int, out_size: int, filter_name: Filter) -> Pass:
    """Compute the weights of one pass. In plain floats: numpy's sin may differ in the last bit.

    Args:
        in_size: pixels before.
        out_size: pixels after.
        filter_name: "bicubic" or "lanczos".

    Returns:
        The pass.
    """
    kernel, radius = _FILTERS[filter_name]
    scale = in_size / out_size
    widened = max(scale, 1.0)
    support = radius * widened
    first = np.zeros(out_size, np.int32)
    weights = np.zeros((out_size, math.ceil(support) * 2 + 1), np.int32)
    for i in range(out_size):
        center = (i + 0.5) * scale
        begin = max(0, int(center - support + 0.5))
        end = min(in_size, int(center + support + 0.5))
        inverse = 1.0 / widened
        values = [kernel((j + begin - center + 0.5) * inverse) for j in range(end - begin)]
        total = 0.0
        for value in values:  # sum() of Python 3.12 compensates rounding errors, Pillow does not
            total += value
        for j, value in enumerate(values):
            scaled = (value / total if total else value) * (1 << PRECISION_BITS)
            weights[i, j] = int(scaled - 0.5) if scaled < 0 else int(scaled + 0.5)
        first[i] = begin
    used = int(np.flatnonzero(weights.any(axis=0)).max(initial=0)) + 1
    return Pass(in_size, first, np.ascontiguousarray(weights[:, :used]))
