"""frames_to_patches: uint8 RGB frames -> resized -> normalised -> patches in merge order.

    level = clip8((2**21 + sum_j weight_j * pixel_j) >> 22)      once for each axis and step, as Pillow does it
    value = table[channel, level]                                rescale and normalise, 256 values per channel
    row   = patch (gy / m, gx / m, gy % m, gx % m), columns [3, temporal, patch, patch], the frame repeated in time

Bytes that must move per frame: read 3 H W, write 3 h w temporal values.
Letters of images: N frames of H x W pixels; R = N (h / patch) (w / patch) patches of E = 3 temporal patch**2 values.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..checks import check_one_dtype, check_shapes
from ..declare import declare
from ..registry import resolve
from .device_weights import DevicePass, device_pass
from .reference import Arguments, Step, pack_steps, resize, unpack_steps
from .reference import frames_to_patches as _reference
from .weights import PRECISION_BITS


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
    """Resize frames and cut them into patches.

    Args:
        frames_NHWC: uint8 [N, H, W, 3].
        table_C256: the value of each level, [3, 256] float32, bfloat16 or float16. The patches have its dtype.
        steps: the resizes, one after the other (`pillow_step` makes them).
        patch: pixels on a side of a patch.
        merge: patches on a side of a merged patch, whose patches follow each other.
        temporal: how often the frame is repeated in each patch.
        out: where the patches go, [R, E]; None makes a tensor.
        impl: "auto", "reference", "cpu", "triton" or "cuda".

    Returns:
        `out`.

    Raises:
        ValueError: the last size is not whole merged patches, or shapes, dtypes or devices do not fit together.
        RuntimeError: the named `impl` is not there.
    """
    height, width = steps[-1][:2] if steps else frames_NHWC.shape[1:3]
    if out is None:
        rows = len(frames_NHWC) * (height // patch) * (width // patch)
        out = table_C256.new_empty(rows, 3 * temporal * patch * patch)
    _op(frames_NHWC, table_C256, out, pack_steps(steps), patch, merge, temporal, impl)
    return out


def resize_on_device(frames_NHWC: Tensor, steps: tuple[Step, ...]) -> Tensor:
    """Resize frames where they are, to the same bytes as `resize_frames`. In torch: an addition for each tap.

    Args:
        frames_NHWC: uint8 [N, H, W, 3].
        steps: the resizes, one after the other.

    Returns:
        uint8 [N, h, w, 3].
    """
    for step in steps:
        todo = [(1, step.height), (2, step.width)]
        for axis, size in todo if step.vertical_first else reversed(todo):
            if frames_NHWC.shape[axis] != size:
                weights = device_pass(frames_NHWC.shape[axis], size, step.filter, frames_NHWC.device)
                frames_NHWC = _pass_on_device(frames_NHWC, weights, axis)
    return frames_NHWC


def _pass_on_device(frames_NHWC: Tensor, weights: DevicePass, axis: int) -> Tensor:
    shape = [1, -1, 1, 1] if axis == 1 else [1, 1, -1, 1]
    total = torch.full((), 1 << (PRECISION_BITS - 1), dtype=torch.int32, device=frames_NHWC.device)
    for tap in range(weights.taps):
        source = (weights.first + tap).clamp_(max=weights.in_size - 1)  # taps beyond the edge have weight 0
        total = total + frames_NHWC.index_select(axis, source).to(torch.int32) * weights.weights[:, tap].view(shape)
    return (total >> PRECISION_BITS).clamp_(0, 255).to(torch.uint8)


def resize_frames(frames_NHWC: np.ndarray, steps: tuple[Step, ...], *, impl: str = "auto") -> np.ndarray:
    """Resize frames and do nothing else, for frames that are kept at the model's size. On the CPU.

    Args:
        frames_NHWC: uint8 [N, H, W, 3].
        steps: the resizes, one after the other.
        impl: "auto", "reference" or "cpu".

    Returns:
        uint8 [N, h, w, 3].

    Raises:
        RuntimeError: the named `impl` is not there.
    """
    if resolve("frames_to_patches", impl, "cpu") == "cpu":
        from . import cpu_impl

        return cpu_impl.resize_frames(frames_NHWC, steps)
    for step in steps:
        frames_NHWC = resize(frames_NHWC, step)
    return frames_NHWC


def _check(a: Arguments) -> None:
    sizes = check_shapes(a)
    if a.frames_NHWC.dtype != torch.uint8 or sizes["C"] != 3 or tuple(a.table.shape) != (3, 256):
        raise ValueError(
            f"frames must be uint8 [N, H, W, 3] and table [3, 256], got {a.frames_NHWC.dtype} "
            f"{tuple(a.frames_NHWC.shape)} and {tuple(a.table.shape)}"
        )
    check_one_dtype(table=a.table, out=a.out_RE)
    height, width = unpack_steps(a.steps)[-1][:2] if a.steps else (sizes["H"], sizes["W"])
    if height % (a.patch * a.merge) or width % (a.patch * a.merge):
        raise ValueError(f"{height} x {width} pixels are not whole patches of {a.patch} merged by {a.merge}")
    rows, values = sizes["N"] * (height // a.patch) * (width // a.patch), 3 * a.temporal * a.patch**2
    if tuple(a.out_RE.shape) != (rows, values):
        raise ValueError(f"out must have shape {(rows, values)}, got {tuple(a.out_RE.shape)}")


_op = declare(Arguments, _reference, _check, writes=("out_RE",))
