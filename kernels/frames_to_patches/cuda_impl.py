"""frames_to_patches in CUDA C++: one launch per resize."""

from __future__ import annotations

from types import ModuleType

import torch

from .. import extension
from .device_weights import DevicePass, dense_frames, device_pass
from .reference import Arguments, Step, unpack_steps

_SHARED_BYTES = 48 * 1024  # of a block of threads without asking for more
_LEVEL_TILE = 32  # pixels on a side of a tile that is written as a frame


def frames_to_patches(a: Arguments, *, native: ModuleType | None = None) -> None:
    """Run the op.

    Args:
        a: the op's arguments.
        native: the extension, or what stands for it.
    """
    run = (native or extension.module).cuda_frames_to_patches
    frames, table = dense_frames(a.frames_NHWC), a.table.contiguous()
    # Without a resize: only the table and the order.
    steps = unpack_steps(a.steps) or (Step(frames.shape[1], frames.shape[2], "bicubic"),)
    for index, step in enumerate(steps):
        last = index + 1 == len(steps)
        _, height, width, _ = frames.shape
        across = device_pass(width, step.width, step.filter, frames.device)
        down = device_pass(height, step.height, step.filter, frames.device)
        target = a.out_RE
        if not last:
            target = torch.empty((len(frames), step.height, step.width, 3), dtype=torch.uint8, device=frames.device)
        tile = choose_tile(across if step.vertical_first else down, a.patch if last else 0)
        run(
            frames,
            table if last else None,
            target,
            across.first,
            across.weights,
            across.span(tile),
            down.first,
            down.weights,
            down.span(tile),
            step.vertical_first,
            a.patch,
            a.merge,
            a.temporal,
            tile,
        )
        frames = target


def choose_tile(second_pass: DevicePass, patch: int) -> int:
    """Choose the side of a block's tile: two patches, or one if what is under two does not fit into shared memory.

    Args:
        second_pass: the pass that reads from shared memory.
        patch: pixels on a side of a patch; 0 if the tile is written as a frame.

    Returns:
        Pixels.

    Raises:
        ValueError: not even the smaller tile fits (a shrink by about 60).
    """
    tiles = (2 * patch, patch) if patch else (_LEVEL_TILE, _LEVEL_TILE // 2, _LEVEL_TILE // 4)
    for tile in tiles:
        if 3 * tile * (second_pass.span(tile) + tile) <= _SHARED_BYTES:
            return tile
    raise ValueError(
        f"frames shrink too steeply for impl='cuda': {second_pass.span(tiles[-1])} source pixels are under "
        f"{tiles[-1]} output pixels; resize in two steps, or use impl='triton'"
    )
