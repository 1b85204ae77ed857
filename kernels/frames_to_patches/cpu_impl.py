"""frames_to_patches in C++: what is known of a size of frames is packed once, into a plan."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from .. import extension
from .reference import Arguments, Step, pack_steps, unpack_steps
from .weights import make_pass

if TYPE_CHECKING:
    from vzoom._vzoom import FramePlan


def frames_to_patches(a: Arguments) -> None:
    """Run the op."""
    plan = _plan(a.frames_NHWC.shape[1], a.frames_NHWC.shape[2], tuple(a.steps))
    extension.module.frames_to_patches(plan, a.frames_NHWC, a.table, a.out_RE, a.patch, a.merge, a.temporal)


def resize_frames(frames_NHWC: np.ndarray, steps: tuple[Step, ...]) -> np.ndarray:
    """Resize uint8 frames [N, H, W, 3] to [N, h, w, 3]."""
    height, width = steps[-1][:2] if steps else frames_NHWC.shape[1:3]
    out = np.empty((len(frames_NHWC), height, width, 3), np.uint8)
    plan = _plan(frames_NHWC.shape[1], frames_NHWC.shape[2], pack_steps(steps))
    extension.module.resize_frames(plan, np.ascontiguousarray(frames_NHWC), out)
    return out


@lru_cache(maxsize=64)
def _plan(height: int, width: int, steps: tuple[int, ...]) -> FramePlan:
    """The C++ plan of frames of one size: weights packed for this CPU."""
    arrays = []
    in_height, in_width = height, width
    for step in unpack_steps(steps):
        h, v = make_pass(in_width, step.width, step.filter), make_pass(in_height, step.height, step.filter)
        arrays.append((h.first, h.weights, v.first, v.weights, step.vertical_first))
        in_height, in_width = step.height, step.width
    return extension.module.FramePlan(height, width, arrays)
