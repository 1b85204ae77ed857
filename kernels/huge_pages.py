"""Memory in huge pages, if the system has them: what is read whole at every step is read a third faster from them."""

from __future__ import annotations

import itertools
import mmap
from typing import Any

import numpy as np

# Regions begin at multiples of 2 MiB. Keys and values, read side by side at equal offsets, would meet in the same sets
# of the caches and the same banks of the memory: each region starts elsewhere in its first pages.
_SHIFT_BYTES = 17 * 4096 + 5 * 64
_NUM_SHIFTS = 8
_serials = itertools.count(1)


def huge_region(num_bytes: int) -> np.ndarray:
    """Take zeroed memory from the system, which commits it when it is first written.

    Args:
        num_bytes: how much.

    Returns:
        uint8 [num_bytes] on a cache line's boundary. The memory lives as long as arrays over it do.
    """
    shift = next(_serials) % _NUM_SHIFTS * _SHIFT_BYTES
    # Private: shared anonymous memory has no huge pages.
    region: Any = mmap.mmap(-1, num_bytes + shift or 1, mmap.MAP_PRIVATE)
    if hasattr(mmap, "MADV_HUGEPAGE"):  # Linux
        region.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(region, dtype=np.uint8, count=num_bytes, offset=shift)
