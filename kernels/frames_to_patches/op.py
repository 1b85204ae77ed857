"""frames_to_patches: uint8 RGB frames -> resized -> normalised -> patches in merge order.

    level = clip8((2**21 + sum_j weight_j * pixel_j) >> 22)      once for each axis and step, as Pillow does it
    value = table[channel, level]                                rescale and normalise, 256 values a channel
    row   = patch (gy / m, gx / m, gy % m, gx % m), columns [3, temporal, patch, patch], the frame repeated in time

Bytes that must move a frame: read 3 H W, write 3 h w temporal values.
Shapes: N frames, H x W pixels; R = N (h / patch) (w / patch) patches of E = 3 temporal patch**2 values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vzoom import ext

from ..checks import check_dims, check_same_device
from ..library import LIB
from ..registry import resolve
from .reference import Step, resize
from .reference import frames_to_patches as _reference
from .weights import Filter, make_pass

LIB.define(
    "frames_to_patches(Tensor frames, Tensor table, Tensor(a!) out, int[] steps, int patch, int merge, int temporal, "
    "str impl) -> ()"
)
_FILTERS: tuple[Filter, ...] = ("bicubic", "lanczos")


def frames_to_patches(
    frames_NHWC: Tensor,
    table_C256: Tensor,
    *,
    steps: tuple[Step, ...],
    patch: int,
    merge: int,
    temporal: int,
    out: Tensor | None = None,
    impl: str = "auto",
) -> Tensor:
    """Patches [R, E] of `frames` (uint8 [N, H, W, 3]) in the dtype of `table` (float32, bfloat16 or float16).

    steps: the resizes, one after the other (`order.pillow_step` makes them). `out` is written where it is given.
    ValueError where the last size is not whole merged patches or shapes do not fit; RuntimeError where a named
    `impl` is not there.
    """
    height, width = steps[-1][:2] if steps else frames_NHWC.shape[1:3]
    if out is None:
        rows = len(frames_NHWC) * (height // patch) * (width // patch)
        out = table_C256.new_empty(rows, 3 * temporal * patch * patch)
    packed = pack_steps(steps)
    torch.ops.vzoom.frames_to_patches(frames_NHWC, table_C256, out, packed, patch, merge, temporal, impl)
    return out


def resize_frames(frames_NHWC: np.ndarray, steps: tuple[Step, ...], *, impl: str = "auto") -> np.ndarray:
    """Only the resizes, for frames that are kept at the model's size: uint8 [N, H, W, 3] -> uint8 [N, h, w, 3].

    On the CPU. RuntimeError where a named `impl` is not there.
    """
    if resolve("frames_to_patches", impl, "cpu") == "cpu":
        height, width = steps[-1][:2] if steps else frames_NHWC.shape[1:3]
        out = np.empty((len(frames_NHWC), height, width, 3), np.uint8)
        plan = _plan(*frames_NHWC.shape[1:3], pack_steps(steps))
        ext.loaded().resize_frames(plan, np.ascontiguousarray(frames_NHWC), out)
        return out
    for step in steps:
        frames_NHWC = resize(frames_NHWC, step)
    return frames_NHWC


def pack_steps(steps: tuple[Step, ...]) -> tuple[int, ...]:
    """Steps as the op's flat list of numbers, four a step."""
    return tuple(x for s in steps for x in (s.height, s.width, _FILTERS.index(s.filter), int(s.vertical_first)))


def unpack_steps(packed: Sequence[int]) -> tuple[Step, ...]:
    """The op's flat list of numbers, four a step, as steps again."""
    fours = zip(*(packed[i::4] for i in range(4)), strict=True)
    return tuple(Step(h, w, _FILTERS[f], bool(v)) for h, w, f, v in fours)


def check(frames: Tensor, table: Tensor, out: Tensor, steps: list[int], patch: int, merge: int, temporal: int) -> None:
    """ValueError where the arguments do not fit together."""
    check_same_device(frames=frames, table=table, out=out)
    sizes = check_dims(frames=(frames, "NHWC"), table=(table, "CV"), out=(out, "RE"))
    if frames.dtype != torch.uint8 or sizes["C"] != 3 or sizes["V"] != 256:
        raise ValueError(
            f"frames must be uint8 [N, H, W, 3] and table [3, 256], got {frames.dtype} {tuple(frames.shape)} and "
            f"{tuple(table.shape)}"
        )
    if out.dtype != table.dtype:
        raise ValueError(f"out is {out.dtype} but table is {table.dtype}: they must share one dtype")
    height, width = unpack_steps(steps)[-1][:2] if steps else (sizes["H"], sizes["W"])
    if height % (patch * merge) or width % (patch * merge):
        raise ValueError(f"{height} x {width} pixels are not whole patches of {patch} merged by {merge}")
    shape = (sizes["N"] * (height // patch) * (width // patch), 3 * temporal * patch * patch)
    if tuple(out.shape) != shape:
        raise ValueError(f"out must have shape {shape}, got {tuple(out.shape)}")


@lru_cache(maxsize=64)
def _plan(height: int, width: int, steps: tuple[int, ...]) -> Any:
    """The C++ plan of frames of one size: weights packed for this CPU."""
    plan = ext.loaded().FramePlan(height, width)
    for step in unpack_steps(steps):
        h, v = make_pass(width, step.width, step.filter), make_pass(height, step.height, step.filter)
        plan.add_step(h.first, h.weights, v.first, v.weights, step.vertical_first)
        height, width = step.height, step.width
    return plan


def _run(
    frames: Tensor, table: Tensor, out: Tensor, steps: list[int], patch: int, merge: int, temporal: int, impl: str
) -> None:
    check(frames, table, out, steps, patch, merge, temporal)
    chosen = resolve("frames_to_patches", impl, frames.device.type)
    if chosen == "cpu":
        plan = _plan(frames.shape[1], frames.shape[2], tuple(steps))
        ext.loaded().frames_to_patches(plan, frames, table, out, patch, merge, temporal)
        return
    run: Callable[..., None] = _reference
    if chosen == "cuda":
        from . import cuda_impl

        run = cuda_impl.frames_to_patches
    elif chosen == "triton":
        from . import triton_impl

        run = triton_impl.frames_to_patches
    run(frames, table, out, steps=unpack_steps(steps), patch=patch, merge=merge, temporal=temporal)


def _fake(
    frames: Tensor, table: Tensor, out: Tensor, steps: list[int], patch: int, merge: int, temporal: int, impl: str
) -> None:
    check(frames, table, out, steps, patch, merge, temporal)


LIB.impl("frames_to_patches", _run, "CPU")
LIB.impl("frames_to_patches", _run, "CUDA")
torch.library.register_fake("vzoom::frames_to_patches", _fake, lib=LIB)
