"""What is timed of frames_to_patches. (bench/bench_patches.py compares it with transformers.)"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from ..workload import Sizes, Workload
from .op import frames_to_patches
from .reference import Step

_OLD, _NEW, _PATCH, _TEMPORAL = (360, 640), (224, 420), 14, 2


def workloads(device: torch.device, dtype: torch.dtype, sizes: Sizes) -> Iterator[Workload]:
    """Cut 360p frames into patches at the Qwen budget."""
    read, written = 3 * _OLD[0] * _OLD[1], 3 * _NEW[0] * _NEW[1] * _TEMPORAL * dtype.itemsize
    shape = f"{sizes.frames} frames {_OLD[1]} x {_OLD[0]} to {_NEW[1]} x {_NEW[0]}"
    prepare = partial(_prepare, device, dtype, sizes.frames)
    yield Workload("frames_to_patches", dtype, shape, prepare, sizes.frames * (read + written))


def _prepare(device: torch.device, dtype: torch.dtype, count: int) -> Callable[[str], Tensor]:
    frames = torch.randint(0, 256, (count, *_OLD, 3), dtype=torch.uint8, device=device)
    table = torch.randn(3, 256, device=device).to(dtype)
    patches = count * (_NEW[0] // _PATCH) * (_NEW[1] // _PATCH)
    out = torch.empty(patches, 3 * _TEMPORAL * _PATCH**2, dtype=dtype, device=device)
    steps = (Step(*_NEW, "bicubic"),)

    def run(impl: str) -> Tensor:
        sizes = {"patch": _PATCH, "merge": 2, "temporal": _TEMPORAL}
        return frames_to_patches(frames, table, steps=steps, out=out, impl=impl, **sizes)

    return run
