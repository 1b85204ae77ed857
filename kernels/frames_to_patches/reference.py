"""frames_to_patches in numpy: the integer pipeline of Pillow, then a table, then the order of patches.

N frames, H rows, W columns. Everything up to the table is exact integer arithmetic.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .weights import PRECISION_BITS, Filter, Pass, make_pass


class Step(NamedTuple):
    """One resize: to `height` x `width` pixels; `vertical_first` is the order of Pillow's passes."""

    height: int
    width: int
    filter: Filter
    vertical_first: bool = False


def resize(frames_NHWC: np.ndarray, step: Step) -> np.ndarray:
    """uint8 [N, H, W, 3] -> uint8 [N, height, width, 3], each pass rounded and clipped to 8 bits. An axis whose size
    does not change has no pass."""
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


def frames_to_patches(
    frames_NHWC: Tensor, table: Tensor, out: Tensor, *, steps: tuple[Step, ...], patch: int, merge: int, temporal: int
) -> None:
    frames = frames_NHWC.cpu().numpy()
    for step in steps:
        frames = resize(frames, step)
    num, height, width, _ = frames.shape
    values = torch.stack(
        [table.cpu()[c][torch.from_numpy(frames[..., c]).long()] for c in range(3)], dim=1
    )  # [N,3,H,W]
    rows, columns = height // patch, width // patch
    values = values.view(num, 3, rows // merge, merge, patch, columns // merge, merge, patch)
    values = values.permute(0, 2, 5, 3, 6, 1, 4, 7)  # [N, rows/m, columns/m, m, m, 3, patch, patch]
    values = values[:, :, :, :, :, :, None].expand(*values.shape[:6], temporal, patch, patch)
    out.copy_(values.reshape(out.shape))
