"""What this machine can do, measured beside the kernels: the floors that they are compared with.

Everything runs in turns on one thread and is timed in CPU seconds, so that a busy machine slows all of it alike.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import cache

import torch

LARGE_BYTES = 256 << 20  # far above any cache


def in_turns(calls: dict[str, Callable[[], object]], *, rounds: int) -> dict[str, float]:
    """Median CPU seconds of each call; the calls take turns."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.process_time()
            call()
            taken[name].append(time.process_time() - start)
    return {name: statistics.median(times) for name, times in taken.items()}


@cache
def _large() -> tuple[torch.Tensor, torch.Tensor]:
    # fill_: zeros that nobody wrote to are all one page of the system's, which a core reads from its cache.
    return torch.zeros(LARGE_BYTES, dtype=torch.uint8).fill_(0), torch.ones(LARGE_BYTES, dtype=torch.uint8)


def copy_large() -> None:
    """A large memcpy: LARGE_BYTES read and as many written."""
    target, source = _large()
    target.copy_(source)


def read_large() -> None:
    """LARGE_BYTES read by the fastest reduction that torch has."""
    _large()[0].any()


def multiply(dtype: torch.dtype) -> tuple[Callable[[], object], float]:
    """torch.mm of 1024 x 1024 and its FLOPs."""
    a, b = torch.randn(1024, 1024).to(dtype), torch.randn(1024, 1024).to(dtype)
    return lambda: torch.mm(a, b), 2.0 * 1024**3
