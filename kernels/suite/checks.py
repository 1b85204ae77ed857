"""The checks of the six ops: named functions of a runner. Shapes are small, because an interpreter runs them too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch

from ..gpu import GPU_DTYPES
from .attention import check_attention
from .frames import check_frames
from .moves import check_copy_blocks, check_merge_states, check_mrope_append, check_splice_move
from .runner import Runner

FLOAT, BF16, HALF = GPU_DTYPES
_SHORT = {FLOAT: "fp32", BF16: "bf16", HALF: "fp16"}
HEAD_DIMS = (64, 80, 96, 128, 256, 16, 8)


@dataclass(frozen=True)
class Check:
    """One check of one op; `body` raises AssertionError where the runner's numbers are wrong."""

    op: str
    name: str
    dtype: torch.dtype
    body: Callable[[Runner], None]

    def __str__(self) -> str:
        return f"{self.op}-{self.name}-{_SHORT[self.dtype]}"


def all_checks() -> list[Check]:
    """Every op x dtype x what can go wrong."""
    return [check for make in (_mrope, _attention, _copies, _splices, _merges, _frames) for check in make()]


def _mrope() -> Iterator[Check]:
    for dtype in GPU_DTYPES:
        for dim in HEAD_DIMS:
            body = partial(check_mrope_append, dim=dim, dtype=dtype, heads=6, groups=2)
            yield Check("mrope_append", f"head_dim {dim}", dtype, body)
        many = partial(check_mrope_append, dim=32, dtype=dtype, heads=28, groups=9, block_size=3)
        yield Check("mrope_append", "tiles of heads", dtype, many)
        low = partial(check_mrope_append, dim=64, dtype=dtype, heads=4, groups=2, angle_dtype=dtype)
        yield Check("mrope_append", "angles in the model's dtype", dtype, low)
        odd = partial(check_mrope_append, dim=20, dtype=dtype, heads=3, groups=1)
        yield Check("mrope_append", "unaligned head_dim 20", dtype, odd)
        shifted = partial(check_mrope_append, dim=64, dtype=dtype, heads=4, groups=2, unaligned=True)
        yield Check("mrope_append", "unaligned storage", dtype, shifted)
        none = partial(check_mrope_append, dim=64, dtype=dtype, heads=4, groups=2, tokens=0)
        yield Check("mrope_append", "no tokens", dtype, none)


def _attention() -> Iterator[Check]:
    ragged = [(5, 21), (1, 9), (0, 6), (7, 7)]
    decode = [(1, 70), (1, 1), (1, 33)]
    for dtype in GPU_DTYPES:
        for dim in HEAD_DIMS:
            for name, runs in (("append", ragged), ("decode", decode)):
                body = partial(check_attention, runs, dim=dim, dtype=dtype, heads=6, groups=2)
                yield Check("paged_attention", f"{name} head_dim {dim}", dtype, body)
        for block_size in (1, 7, 256):
            body = partial(check_attention, [(2, 19), (1, 8)], dim=64, dtype=dtype, block_size=block_size)
            yield Check("paged_attention", f"pages of {block_size}", dtype, body)
        for name, runs, more in (
            ("not causal", ragged, {"causal": False}),
            ("no lse", decode, {"with_lse": False}),
            ("shared first page", [(1, 40), (1, 50), (2, 34)], {"share_first_block": True}),
            ("no keys", [(1, 0), (3, 2)], {}),
            ("no keys in decode", [(1, 0), (1, 2)], {}),
            ("no queries", [(0, 5)], {}),
            ("several tiles", [(90, 100), (3, 3)], {}),
            ("7 heads a group", [(1, 65), (1, 40)], {"heads": 14}),
            ("12 heads a group", [(1, 65), (2, 40)], {"heads": 24}),
            ("1 head a group", [(1, 65), (1, 40)], {"heads": 2}),
            ("one group", decode, {"heads": 4, "groups": 1}),
            ("unaligned head_dim 20", [(1, 65), (1, 40)], {"dim": 20}),
            ("unaligned storage", decode, {"unaligned": True}),
            ("long context", [(1, 1500), (1, 3)], {"heads": 2, "groups": 1}),
        ):
            settings = {"dim": 64, "heads": 6, "groups": 2, **more}
            body = partial(check_attention, runs, dtype=dtype, **settings)  # type: ignore[arg-type]
            yield Check("paged_attention", name, dtype, body)


def _copies() -> Iterator[Check]:
    for dtype in GPU_DTYPES:
        for dim, block_size in ((128, 32), (80, 5), (8, 1), (20, 3)):
            body = partial(check_copy_blocks, dim=dim, block_size=block_size, dtype=dtype)
            yield Check("copy_blocks", f"blocks of {block_size} x {dim}", dtype, body)
        shifted = partial(check_copy_blocks, dim=64, dtype=dtype, unaligned=True)
        yield Check("copy_blocks", "unaligned storage", dtype, shifted)
        yield Check("copy_blocks", "no pairs", dtype, partial(check_copy_blocks, dim=64, dtype=dtype, pairs=0))


def _splices() -> Iterator[Check]:
    for dtype in GPU_DTYPES:
        for dim in HEAD_DIMS:
            yield Check("splice_move", f"head_dim {dim}", dtype, partial(check_splice_move, dim=dim, dtype=dtype))
        still = partial(check_splice_move, dim=128, dtype=dtype, rotated=False)
        yield Check("splice_move", "delta 0 is bitwise", dtype, still)
        odd = partial(check_splice_move, dim=20, dtype=dtype)
        yield Check("splice_move", "unaligned head_dim 20", dtype, odd)
        shifted = partial(check_splice_move, dim=64, dtype=dtype, unaligned_angles=True)
        yield Check("splice_move", "unaligned angles", dtype, shifted)
        many = partial(check_splice_move, dim=16, dtype=dtype, groups=9, block_size=3)
        yield Check("splice_move", "tiles of heads", dtype, many)
        same = partial(check_splice_move, dim=64, dtype=dtype, in_place=True)
        yield Check("splice_move", "tokens onto themselves", dtype, same)
        yield Check("splice_move", "no tokens", dtype, partial(check_splice_move, dim=64, dtype=dtype, tokens=0))


def _merges() -> Iterator[Check]:
    for dtype in GPU_DTYPES:
        for dim in (*HEAD_DIMS, 20):
            yield Check("merge_states", f"head_dim {dim}", dtype, partial(check_merge_states, dim=dim, dtype=dtype))
        wider = partial(check_merge_states, dim=20, dtype=dtype, padding=12)
        yield Check("merge_states", "rows wider than head_dim 20", dtype, wider)
        no_lse = partial(check_merge_states, dim=64, dtype=dtype, with_lse=False)
        yield Check("merge_states", "no lse", dtype, no_lse)
        yield Check("merge_states", "no tokens", dtype, partial(check_merge_states, dim=64, dtype=dtype, tokens=0))


def _frames() -> Iterator[Check]:
    for dtype in GPU_DTYPES:
        shrink = partial(check_frames, (41, 37), [(28, 28, "bicubic", False)], dtype=dtype)
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
        body = partial(check_frames, size, steps, dtype=BF16, **more)  # type: ignore[arg-type]
        yield Check("frames_to_patches", name, BF16, body)
