"""frames_to_patches in numpy: the integer pipeline of Pillow, then a table, then the order of patches.

N frames, H rows, W columns. Everything up to the table is exact integer arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .weights import PRECISION_BITS, Filter, Pass, make_pass

_FILTERS: tuple[Filter, ...] = ("bicubic", "lanczos")


class Step(NamedTuple):
    """One resize: to `height` x `width` pixels; `vertical_first` is the order of Pillow's passes."""

    height: int
    width: int
    filter: Filter
    vertical_first: bool = False


class Arguments(NamedTuple):
    """What every implementation takes, in this order. `op.frames_to_patches` says what they are."""

    frames_NHWC: Tensor
    table: Tensor
    out_RE: Tensor
    steps: list[int]
    patch: int
    merge: int
    temporal: int


def pack_steps(steps: tuple[Step, ...]) -> tuple[int, ...]:
    """Write steps as the op's flat list of numbers, four per step."""
    return tuple(x for s in steps for x in (s.height, s.width, _FILTERS.index(s.filter), int(s.vertical_first)))


def unpack_steps(packed: Sequence[int]) -> tuple[Step, ...]:
    """Read the op's flat list of numbers, four per step."""
    fours = zip(*(packed[i::4] for i in range(4)), strict=True)
    return tuple(Step(h, w, _FILTERS[f], bool(v)) for h, w, f, v in fours)


def resize(frames_NHWC: np.ndarray, step: Step) -> np.ndarray:
    """Resize frames, each pass rounded and clipped to 8 bits. An axis whose size does not change has no pass.

    Args:
        frames_NHWC: uint8 [N, H, W, 3].
        step: the size, the filter and the order of the passes.

    Returns:
        uint8 [N, step.height, step.width, 3].
    """
    height, width = frames_NHWC.shape[1:3]
    todo = [(1, height, step.height), (2, width, step.width)]
    for axis, old, new in todo if step.vertical_first else reversed(todo):
        if old != new:
            frames_NHWC = _run_pass(frames_NHWC, make_pass(old, new, step.filter), axis)
    return frames_NHWC


def _run_pass(frames: np.ndarray, weights: Pass, axis: int) -> np.ndarray:
    moved = np.moveaxis(frames, axis, 0)
    total = np.full((weights.out_size, *moved.shape[1:]), 1 << (PRECISION_BITS - 1), np.int32)
    for j in range(weights.weights.shape[1]):
        source = np.minimum(weights.first + j, weights.in_size - 1)
        total += moved[source].astype(np.int32) * weights.weights[:, j].reshape(-1, *[1] * (moved.ndim - 1))
    return np.moveaxis(np.clip(total >> PRECISION_BITS, 0, 255).astype(np.uint8), 0, axis)


def frames_to_patches(a: Arguments) -> None:
    """Resize, look up, reorder."""
    frames = a.frames_NHWC.cpu().numpy()
    for step in unpack_steps(a.steps):
        frames = resize(frames, step)
    num, height, width, _ = frames.shape
    patch, merge, table = a.patch, a.merge, a.table.cpu()
    values = torch.stack([table[c][torch.from_numpy(frames[..., c]).long()] for c in range(3)], dim=1)  # [N, 3, H, W]
    rows, columns = height // patch, width // patch
    values = values.view(num, 3, rows // merge, merge, patch, columns // merge, merge, patch)
    values = values.permute(0, 2, 5, 3, 6, 1, 4, 7)  # [N, rows/m, columns/m, m, m, 3, patch, patch]
    values = values[:, :, :, :, :, :, None].expand(*values.shape[:6], a.temporal, patch, patch)
    a.out_RE.copy_(values.reshape(a.out_RE.shape))
