"""Checks of frames_to_patches: bitwise against the integer reference."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from ..suite import DTYPES, Check, Runner, poisoned, same_bits
from .reference import Arguments, Step, pack_steps
from .reference import frames_to_patches as reference
from .weights import Filter


def checks() -> Iterator[Check]:
    """List the checks."""
    for dtype in DTYPES:
        shrink = partial(_check, (41, 37), [(28, 28, "bicubic", False)], dtype=dtype)
        yield Check("frames_to_patches", "shrink", dtype, shrink)
    for name, size, steps, more in (
        ("vertical first", (60, 40), [(28, 28, "bicubic", True)], {}),
        ("enlarge", (17, 23), [(28, 28, "bicubic", False)], {}),
        ("no resize", (28, 56), [], {}),
        ("one axis", (28, 61), [(28, 28, "bicubic", False)], {}),
        ("lanczos, then bicubic", (30, 40), [(24, 33, "lanczos", False), (28, 28, "bicubic", True)], {}),
        ("patches of 16", (40, 40), [(32, 32, "bicubic", False)], {"patch": 16}),
        (
            "one temporal copy, no merge",
            (40, 60),
            [(28, 42, "bicubic", False)],
            {"merge": 1, "temporal": 1, "num_frames": 1},
        ),
        ("steep shrink", (140, 40), [(28, 28, "lanczos", False)], {"num_frames": 1}),
        ("several tiles", (56, 130), [(56, 112, "bicubic", False)], {"num_frames": 1}),
        ("no frames", (28, 56), [(28, 28, "bicubic", False)], {"num_frames": 0}),
        ("strided frames", (41, 37), [(28, 28, "bicubic", False)], {"strided": True, "num_frames": 1}),
    ):
        body = partial(_check, size, steps, dtype=torch.bfloat16, **more)  # type: ignore[arg-type]
        yield Check("frames_to_patches", name, torch.bfloat16, body)


def example(device: torch.device) -> Arguments:
    """Make small arguments."""
    frames = torch.zeros(2, 30, 50, 3, dtype=torch.uint8, device=device)
    table = torch.linspace(-1, 1, 3 * 256, device=device).view(3, 256)
    out = torch.randn(2 * 2 * 4, 3 * 2 * 14 * 14, device=device)
    return Arguments(frames, table, out, [28, 56, 0, 0], 14, 2, 2)


def _check(
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
    how = list(pack_steps(made)), patch, merge, temporal
    reference(Arguments(frames, table, wanted, *how))
    # A row of NaN before and one after: nothing may be written there.
    guarded = runner.put(poisoned(rows + 2, wanted.shape[1], dtype=dtype))
    placed = runner.put(noise)[:, :, : size[1]]
    runner.run("frames_to_patches", placed, runner.put(table), guarded[1:-1], *how)
    same_bits("patches", guarded[1:-1], wanted)
    assert guarded[[0, -1]].isnan().all(), "written outside of the output"
