"""Calls of the Triton implementations with the shapes of real models, for `aot` to compile. Nothing is computed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from vzoom.kernels.frames_to_patches.reference import Arguments, Step, pack_steps

BF16, FLOAT, HALF = torch.bfloat16, torch.float32, torch.float16


def _pages(*lead: int, groups: int, dim: int, dtype: torch.dtype, block_size: int = 32) -> Tensor:
    """Heads-first view of pages in a GPU's memory order."""
    return torch.empty(*lead, block_size, groups, dim, dtype=dtype).transpose(-3, -2)


def _mrope(architecture: int, *, dim: int, dtype: torch.dtype, heads: int = 28, groups: int = 4) -> None:
    from vzoom.kernels.mrope_append.reference import Arguments
    from vzoom.kernels.mrope_append.triton_impl import mrope_append

    tokens = 16
    q, k, v = torch.empty(tokens, heads + 2 * groups, dim, dtype=dtype).split([heads, groups, groups], dim=1)
    angles, pages = torch.empty(tokens, dim // 2), _pages(4, groups=groups, dim=dim, dtype=dtype)
    mrope_append(Arguments(q, k, v, angles, angles, pages, pages, torch.empty(tokens, dtype=torch.int64)))


def _attention(
    architecture: int, *, dim: int, dtype: torch.dtype, tokens: int, splits: int = 1, heads: int = 28, groups: int = 4
) -> None:
    from vzoom.kernels.paged_attention.reference import Arguments
    from vzoom.kernels.paged_attention.triton_impl import paged_attention

    q, pages = torch.empty(tokens, heads, dim, dtype=dtype), _pages(4, groups=groups, dim=dim, dtype=dtype)
    table, numbers = torch.empty(8, 256, dtype=torch.int32), torch.empty(9, dtype=torch.int32)
    lse = torch.empty(tokens, heads)
    a = Arguments(q, pages, pages, table, numbers[:8], numbers, q, lse, 0.1, True)
    paged_attention(a, splits=splits, architecture=architecture)


def _copy(architecture: int) -> None:
    from vzoom.kernels.copy_blocks.reference import Arguments
    from vzoom.kernels.copy_blocks.triton_impl import copy_blocks

    pages, numbers = _pages(2, 4, groups=4, dim=128, dtype=BF16), torch.empty(16, dtype=torch.int64)
    copy_blocks(Arguments(pages, pages, numbers, numbers))


def _splice(architecture: int, *, dim: int, rotate: bool) -> None:
    from vzoom.kernels.splice_move.reference import Arguments
    from vzoom.kernels.splice_move.triton_impl import splice_move

    pages, slots = _pages(2, 4, groups=4, dim=dim, dtype=BF16), torch.empty(16, dtype=torch.int64)
    angles = torch.empty(dim // 2) if rotate else None
    splice_move(Arguments(pages, pages, slots, slots, angles, angles))


def _merge(architecture: int) -> None:
    from vzoom.kernels.merge_states.reference import Arguments
    from vzoom.kernels.merge_states.triton_impl import merge_states

    out, lse = torch.empty(16, 28, 128, dtype=BF16), torch.empty(16, 28)
    merge_states(Arguments(out, lse, out, lse, out, lse))


def _frames(architecture: int, *, patch: int) -> None:
    from vzoom.kernels.frames_to_patches.triton_impl import frames_to_patches

    frames, table = torch.empty(2, 360, 640, 3, dtype=torch.uint8), torch.empty(3, 256, dtype=BF16)
    height, width = 8 * 2 * patch, 15 * 2 * patch
    out = torch.empty(2 * 16 * 30, 3 * 2 * patch * patch, dtype=BF16)
    steps = (Step(270, 480, "lanczos"), Step(height, width, "bicubic", True))
    frames_to_patches(Arguments(frames, table, out, list(pack_steps(steps)), patch, 2, 2))


def triton_specimens() -> dict[str, Callable[[int], None]]:
    """name -> call for an architecture (90 for sm_90)."""
    calls: dict[str, Callable[[int], None]] = {}
    for dim, dtype in ((128, BF16), (64, HALF), (80, BF16), (128, FLOAT)):
        calls[f"mrope_append {_short(dtype)} {dim}"] = partial(_mrope, dim=dim, dtype=dtype)
    for dim, dtype in ((64, BF16), (80, BF16), (96, BF16), (128, BF16), (256, BF16), (128, HALF), (128, FLOAT)):
        name = f"paged_attention {_short(dtype)} {dim}"
        calls[f"{name} append"] = partial(_attention, dim=dim, dtype=dtype, tokens=600)
        calls[f"{name} decode"] = partial(_attention, dim=dim, dtype=dtype, tokens=8, splits=8)
    calls["paged_attention fp32 256 append"] = partial(_attention, dim=256, dtype=FLOAT, tokens=600)
    calls["copy_blocks bf16 128"] = _copy
    calls["splice_move bf16 128"] = partial(_splice, dim=128, rotate=True)
    calls["splice_move bf16 128 delta 0"] = partial(_splice, dim=128, rotate=False)
    calls["splice_move bf16 80"] = partial(_splice, dim=80, rotate=True)
    calls["merge_states bf16 128"] = _merge
    calls["frames_to_patches bf16 14"] = partial(_frames, patch=14)
    calls["frames_to_patches bf16 16"] = partial(_frames, patch=16)
    return calls


def _short(dtype: torch.dtype) -> str:
    return {BF16: "bf16", FLOAT: "fp32", HALF: "fp16"}[dtype]
