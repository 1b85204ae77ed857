"""frames_to_patches in CUDA C++: one launch a resize."""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from vzoom import ext

from .device_weights import DevicePass, dense_frames, device_pass
from .reference import Step

_SHARED_BYTES = 48 * 1024  # of a block of threads without asking for more
_LEVEL_TILE = 32  # pixels on a side of a tile that is written as a frame


def frames_to_patches(
    frames_NHWC: Tensor,
    table: Tensor,
    out: Tensor,
    *,
    steps: tuple[Step, ...],
    patch: int,
    merge: int,
    temporal: int,
    native: ModuleType | None = None,
) -> None:
    """native: the extension, or what stands for it."""
    native = native or ext.loaded()
    frames, table = dense_frames(frames_NHWC), table.contiguous()
    steps = steps or (Step(frames.shape[1], frames.shape[2], "bicubic"),)  # of one size: only the table and the order
    for index, step in enumerate(steps):
        last = index + 1 == len(steps)
        _, height, width, _ = frames.shape
        across = device_pass(width, step.width, step.filter, frames.device)
        down = device_pass(height, step.height, step.filter, frames.device)
        target = out
        if not last:
            target = torch.empty((len(frames), step.height, step.width, 3), dtype=torch.uint8, device=frames.device)
        tile = choose_tile(across if step.vertical_first else down, patch if last else 0)
        native.cuda_resize(
            frames,
            table if last else None,
            target,
            (across.first, across.weights, across.span(tile)),
            (down.first, down.weights, down.span(tile)),
            step.vertical_first,
            patch,
            merge,
            temporal,
            tile,
        )
        frames = target


def choose_tile(second_pass: DevicePass, patch: int) -> int:
    """Pixels on a side of a tile: two patches, or one where what lies under two does not fit into shared memory.

    patch 0: the tile is written as a frame. ValueError where not even the smaller one fits (a shrink by about 60).
    """
    tiles = (2 * patch, patch) if patch else (_LEVEL_TILE, _LEVEL_TILE // 2, _LEVEL_TILE // 4)
    for tile in tiles:
        if 3 * tile * (second_pass.span(tile) + tile) <= _SHARED_BYTES:
            return tile
    raise ValueError(
        f"frames shrink too steeply for impl='cuda': {second_pass.span(tiles[-1])} source pixels lie under "
        f"{tiles[-1]} output pixels; resize in two steps, or use impl='triton'"
    )
