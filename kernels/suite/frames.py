"""Checks of frames_to_patches: bitwise against the integer reference."""

from __future__ import annotations

import torch

from ..frames_to_patches.reference import Step
from ..frames_to_patches.reference import frames_to_patches as reference
from ..frames_to_patches.weights import Filter
from .cases import poisoned
from .compare import same_bits
from .runner import Runner


def check_frames(
    size: tuple[int, int],
    steps: list[tuple[int, int, Filter, bool]],
    runner: Runner,
    *,
    dtype: torch.dtype,
    patch: int = 14,
    merge: int = 2,
    temporal: int = 2,
    num_frames: int = 2,
    strided: bool = False,
) -> None:
    """Noise with full contrast, so that sums leave 0 .. 255 and the clip between the passes matters."""
    rng = torch.Generator().manual_seed(9)
    shape = (num_frames, size[0], size[1] + (5 if strided else 0), 3)
    noise = torch.randint(0, 256, shape, generator=rng, dtype=torch.uint8)
    noise = torch.where(torch.rand(shape, generator=rng) < 0.5, (noise // 128) * 255, noise)
    frames = noise[:, :, : size[1]]
    table = torch.randn(3, 256, generator=rng).to(dtype)
    made = tuple(Step(*step) for step in steps)
    height, width = made[-1][:2] if made else size
    rows = num_frames * (height // patch) * (width // patch)
    wanted = poisoned(rows, 3 * temporal * patch * patch, dtype=dtype)
    sizes = {"patch": patch, "merge": merge, "temporal": temporal}
    reference(frames, table, wanted, steps=made, **sizes)
    # A row of NaN in front and behind: nothing may be written there.
    guarded = runner.put(poisoned(rows + 2, wanted.shape[1], dtype=dtype))
    placed = runner.put(noise)[:, :, : size[1]]
    runner.run("frames_to_patches", placed, runner.put(table), steps=made, out=guarded[1:-1], **sizes)
    same_bits("patches", guarded[1:-1], wanted)
    assert guarded[[0, -1]].isnan().all(), "written outside of the output"
