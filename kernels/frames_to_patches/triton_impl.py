"""frames_to_patches in Triton: one program per patch; resize, table and patch order in one pass over the pixels.

Each output pixel sums its taps of both axes directly (for the usual shrink of about 1.5: 7 x 7), with the rounding to
8 bits between the axes where Pillow has it. A resize before the last one writes uint8 frames to a scratch tensor.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..gpu import check_gpu_dtype, on_device_of, power_of_2
from .device_weights import dense_frames, device_pass
from .reference import Arguments, Step, unpack_steps

LEVEL_TILE = 16  # pixels on a side of a program's tile when it writes frames, not patches


@triton.jit
def to_level(total):  # type: ignore[no-untyped-def]
    """A sum of weights * levels (weights times 2**22, the half of it already added) as a level, 0 to 255."""
    return tl.minimum(tl.maximum(total >> 22, 0), 255)


@triton.jit
def pixel_at(frames, at, mask):  # type: ignore[no-untyped-def]
    return tl.load(frames + at, mask=mask, other=0).to(tl.int32)


@triton.jit
def resize_kernel(  # type: ignore[no-untyped-def]
    frames,
    table,
    out,
    x_first,
    x_weights,
    y_first,
    y_weights,
    x_taps,
    y_taps,
    in_height,
    in_width,
    frame_stride,
    row_stride,
    out_height,
    out_width,
    TILE: tl.constexpr,
    PIXELS: tl.constexpr,
    MERGE: tl.constexpr,
    TEMPORAL: tl.constexpr,
    TO_PATCHES: tl.constexpr,
    VERTICAL_FIRST: tl.constexpr,
):
    # Programs are numbered as the output orders patches: frame, rows of merged patches, columns of them, inside them.
    program = tl.program_id(0)
    columns = tl.cdiv(out_width, TILE * MERGE)
    inner = program % (MERGE * MERGE)
    merged = program // (MERGE * MERGE)
    merged_rows = tl.cdiv(out_height, TILE * MERGE)
    frame = (merged // (columns * merged_rows)).to(tl.int64)
    merged = merged % (columns * merged_rows)
    tile_y = (merged // columns) * MERGE + inner // MERGE
    tile_x = (merged % columns) * MERGE + inner % MERGE

    p = tl.arange(0, PIXELS)
    y, x = tile_y * TILE + p // TILE, tile_x * TILE + p % TILE
    inside = (p < TILE * TILE) & (y < out_height) & (x < out_width)
    begin_y = tl.load(y_first + y, mask=inside, other=0)
    begin_x = tl.load(x_first + x, mask=inside, other=0)
    source = frame * frame_stride

    half = tl.full((PIXELS,), 1 << 21, tl.int32)
    total_r, total_g, total_b = half, half, half
    outer_taps = x_taps if VERTICAL_FIRST else y_taps
    inner_taps = y_taps if VERTICAL_FIRST else x_taps
    for i in range(outer_taps):
        sum_r, sum_g, sum_b = half, half, half
        for j in range(inner_taps):
            if VERTICAL_FIRST:
                tap_y, tap_x = j, i
                weight = tl.load(y_weights + y * y_taps + tap_y, mask=inside, other=0)
            else:
                tap_y, tap_x = i, j
                weight = tl.load(x_weights + x * x_taps + tap_x, mask=inside, other=0)
            # A row's last taps may be outside of the image; their weights are 0.
            row, column = tl.minimum(begin_y + tap_y, in_height - 1), tl.minimum(begin_x + tap_x, in_width - 1)
            at = source + row.to(tl.int64) * row_stride + column * 3
            sum_r += weight * pixel_at(frames, at, inside)
            sum_g += weight * pixel_at(frames, at + 1, inside)
            sum_b += weight * pixel_at(frames, at + 2, inside)
        if VERTICAL_FIRST:
            weight = tl.load(x_weights + x * x_taps + i, mask=inside, other=0)
        else:
            weight = tl.load(y_weights + y * y_taps + i, mask=inside, other=0)
        total_r += weight * to_level(sum_r)
        total_g += weight * to_level(sum_g)
        total_b += weight * to_level(sum_b)
    level_r, level_g, level_b = to_level(total_r), to_level(total_g), to_level(total_b)

    if TO_PATCHES:
        value_r = tl.load(table + level_r)
        value_g = tl.load(table + 256 + level_g)
        value_b = tl.load(table + 512 + level_b)
        area: tl.constexpr = TILE * TILE
        to = out + program.to(tl.int64) * (3 * TEMPORAL * area) + p
        for t in tl.static_range(TEMPORAL):
            tl.store(to + t * area, value_r, mask=inside)
            tl.store(to + (TEMPORAL + t) * area, value_g, mask=inside)
            tl.store(to + (2 * TEMPORAL + t) * area, value_b, mask=inside)
    else:
        to = out + ((frame * out_height + y) * out_width + x) * 3
        tl.store(to, level_r.to(tl.uint8), mask=inside)
        tl.store(to + 1, level_g.to(tl.uint8), mask=inside)
        tl.store(to + 2, level_b.to(tl.uint8), mask=inside)


def _resize(
    frames: Tensor, table: Tensor, out: Tensor, step: Step, *, tile: int, merge: int, temporal: int, to_patches: bool
) -> None:
    num, in_height, in_width, _ = frames.shape
    across = device_pass(in_width, step.width, step.filter, frames.device)
    down = device_pass(in_height, step.height, step.filter, frames.device)
    programs = num * triton.cdiv(step.height, tile * merge) * triton.cdiv(step.width, tile * merge) * merge * merge
    resize_kernel[(programs,)](
        frames,
        table,
        out,
        across.first,
        across.weights,
        down.first,
        down.weights,
        across.taps,
        down.taps,
        in_height,
        in_width,
        frames.stride(0),
        frames.stride(1),
        step.height,
        step.width,
        TILE=tile,
        PIXELS=power_of_2(tile * tile),
        MERGE=merge,
        TEMPORAL=temporal,
        TO_PATCHES=to_patches,
        VERTICAL_FIRST=step.vertical_first,
        num_warps=4,
    )


def frames_to_patches(a: Arguments) -> None:
    """Run the op."""
    check_gpu_dtype("table", a.table)
    if not a.out_RE.is_contiguous():
        raise ValueError(f"out must be contiguous, got strides {a.out_RE.stride()}")
    frames, table = dense_frames(a.frames_NHWC), a.table.contiguous()
    if len(frames) == 0:
        return
    # Without a resize: only the table and the order.
    steps = unpack_steps(a.steps) or (Step(frames.shape[1], frames.shape[2], "bicubic"),)
    with on_device_of(frames):
        for step in steps[:-1]:
            scratch = torch.empty((len(frames), step.height, step.width, 3), dtype=torch.uint8, device=frames.device)
            _resize(frames, table, scratch, step, tile=LEVEL_TILE, merge=1, temporal=1, to_patches=False)
            frames = scratch
        _resize(frames, table, a.out_RE, steps[-1], tile=a.patch, merge=a.merge, temporal=a.temporal, to_patches=True)
