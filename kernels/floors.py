"""What this CPU can do, measured beside the ops: the floors that they are compared with. (`gpu_check` has a GPU's.)

Everything runs in turns on one thread and is timed in CPU seconds, so that a busy machine slows all of it alike.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from .workload import Workload

LARGE_BYTES = 256 << 20  # far above any cache


def in_turns(calls: dict[str, Callable[[], object]], *, rounds: int) -> dict[str, float]:
    """Time calls that take turns, after one turn that is not timed.

    Args:
        calls: name -> call.
        rounds: turns of each.

    Returns:
        name -> median CPU seconds.
    """
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.process_time()
            call()
            taken[name].append(time.process_time() - start)
    return {name: statistics.median(times) for name, times in taken.items()}


def floor_of(work: Workload) -> tuple[Callable[[], object], float]:
    """Give the call that a workload is compared with.

    Returns:
        The call, and the fraction of its time that is the workload's floor.
    """
    if work.flops:
        call, flops = multiply(work.dtype)
        return call, work.flops / flops
    return (read_large, work.bytes / LARGE_BYTES) if work.reads else (copy_large, work.bytes / (2 * LARGE_BYTES))


@cache
def _large() -> tuple[Tensor, Tensor]:
    # fill_: zeros that nobody wrote to are all one page of the system's, which a core reads from its cache.
    return torch.zeros(LARGE_BYTES, dtype=torch.uint8).fill_(0), torch.ones(LARGE_BYTES, dtype=torch.uint8)


def copy_large() -> None:
    """Copy LARGE_BYTES: as many read, and as many written."""
    target, source = _large()
    target.copy_(source)


def read_large() -> None:
    """Read LARGE_BYTES by the fastest reduction that torch has."""
    _large()[0].any()


def multiply(dtype: torch.dtype) -> tuple[Callable[[], object], float]:
    """Multiply matrices: a call of torch.mm of 1024 x 1024, and its FLOPs."""
    a, b = torch.randn(1024, 1024).to(dtype), torch.randn(1024, 1024).to(dtype)
    return lambda: torch.mm(a, b), 2.0 * 1024**3
