"""What `gpu_check` times: each op at the shapes of a 7B model (28 layers, 28 query and 4 key/value heads of 128), and
the bytes or floating-point operations that it cannot do without.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .copy_blocks.op import copy_blocks
from .frames_to_patches.op import frames_to_patches
from .frames_to_patches.reference import Step
from .layout import page_shape
from .merge_states.op import merge_states
from .mrope_append.op import mrope_append
from .paged_attention.op import paged_attention
from .splice_move.op import splice_move

HEADS, GROUPS, DIM, BLOCK = 28, 4, 128, 32
DTYPE = torch.bfloat16
BYTES = 2  # of an element


@dataclass(frozen=True)
class Workload:
    """One timed call. Its floor is `bytes` to move, or `flops` where that is not 0."""

    op: str
    shape: str
    call: Callable[[], object]
    bytes: int
    flops: int = 0


@dataclass(frozen=True)
class Sizes:
    """How large the workloads are; the tests take small ones."""

    context: int = 8192  # tokens
    appended: int = 600
    layers: int = 28
    moved: int = 2048
    merged: int = 4096
    frames: int = 64


def workloads(impl: str, device: torch.device, sizes: Sizes) -> Iterator[Workload]:
    """Fresh tensors for each, freed with it."""
    for tokens in (1, sizes.appended):
        yield _mrope(impl, device, tokens)
    for batch in (1, 8):
        yield _attention(impl, device, batch=batch, queries=1, context=sizes.context)
    yield _attention(impl, device, batch=1, queries=sizes.appended, context=sizes.context)
    yield _copy(impl, device, sizes.layers, 16)
    for rotated in (False, True):
        yield _splice(impl, device, sizes.layers, sizes.moved, rotated)
    yield _merge(impl, device, sizes.merged)
    yield _frames(impl, device, sizes.frames)


def _random(*shape: int, device: torch.device) -> Tensor:
    return torch.randn(shape, dtype=DTYPE, device=device)


def _pages(blocks: int, device: torch.device, *layers: int) -> Tensor:
    return _random(*layers, *page_shape(blocks, GROUPS, BLOCK, DIM, device=device), device=device)


def _mrope(impl: str, device: torch.device, tokens: int) -> Workload:
    q, k, v = _random(tokens, HEADS + 2 * GROUPS, DIM, device=device).split([HEADS, GROUPS, GROUPS], dim=1)
    angles = torch.randn(tokens, DIM // 2, device=device)
    cos, sin = angles.cos(), angles.sin()
    blocks = -(-tokens // BLOCK)
    k_pages, v_pages = _pages(blocks, device), _pages(blocks, device)
    slots = torch.randperm(blocks * BLOCK, device=device)[:tokens]
    moved = tokens * (2 * (HEADS + 2 * GROUPS) * DIM * BYTES + DIM * 4)
    return Workload(
        "mrope_append",
        f"{tokens} tokens",
        lambda: mrope_append(q, k, v, cos, sin, k_pages, v_pages, slots, impl=impl),
        moved,
    )


def _attention(impl: str, device: torch.device, *, batch: int, queries: int, context: int) -> Workload:
    blocks = -(-context // BLOCK)
    k_pages, v_pages = _pages(batch * blocks, device), _pages(batch * blocks, device)
    table = torch.randperm(batch * blocks, device=device).to(torch.int32).view(batch, blocks)
    lens = torch.full((batch,), context, dtype=torch.int32, device=device)
    starts = torch.arange(batch + 1, dtype=torch.int32, device=device) * queries
    q = _random(batch * queries, HEADS, DIM, device=device)
    out = torch.empty_like(q)
    kv_bytes = batch * context * 2 * GROUPS * DIM * BYTES
    seen = queries * context - queries * (queries - 1) // 2  # keys of all queries, bottom-right causal
    flops = batch * 4 * seen * HEADS * DIM if queries > 1 else 0
    return Workload(
        "paged_attention",
        f"batch {batch}, {queries} queries on {context} keys",
        lambda: paged_attention(q, k_pages, v_pages, table, lens, starts, scale=DIM**-0.5, out=out, impl=impl),
        kv_bytes + 2 * q.numel() * BYTES,
        flops,
    )


def _copy(impl: str, device: torch.device, layers: int, pairs: int) -> Workload:
    k_pages, v_pages = _pages(2 * pairs, device, layers), _pages(2 * pairs, device, layers)
    order = torch.randperm(2 * pairs, device=device)
    sources, targets = order[:pairs].contiguous(), order[pairs:].contiguous()
    return Workload(
        "copy_blocks",
        f"{pairs} blocks of {BLOCK} tokens, {layers} layers",
        lambda: copy_blocks(k_pages, v_pages, sources, targets, impl=impl),
        pairs * layers * 4 * BLOCK * GROUPS * DIM * BYTES,
    )


def _splice(impl: str, device: torch.device, layers: int, tokens: int, rotated: bool) -> Workload:
    blocks = -(-2 * tokens // BLOCK)
    k_pages, v_pages = _pages(blocks, device, layers), _pages(blocks, device, layers)
    sources = torch.arange(tokens, device=device)
    targets = torch.arange(tokens, 2 * tokens, device=device)
    angles = torch.randn(DIM // 2, device=device)
    turn = (angles.cos(), angles.sin()) if rotated else (None, None)
    return Workload(
        "splice_move",
        f"{tokens} tokens, {layers} layers, {'rotated' if rotated else 'delta 0'}",
        lambda: splice_move(k_pages, v_pages, sources, targets, *turn, impl=impl),
        tokens * layers * 4 * GROUPS * DIM * BYTES,
    )


def _merge(impl: str, device: torch.device, tokens: int) -> Workload:
    a, b = _random(tokens, HEADS, DIM, device=device), _random(tokens, HEADS, DIM, device=device)
    lse_a, lse_b = torch.randn(tokens, HEADS, device=device), torch.randn(tokens, HEADS, device=device)
    out, lse = torch.empty_like(a), torch.empty_like(lse_a)
    return Workload(
        "merge_states",
        f"{tokens} tokens",
        lambda: merge_states(a, lse_a, b, lse_b, out=out, lse=lse, impl=impl),
        3 * a.numel() * BYTES + 3 * lse.numel() * 4,
    )


def _frames(impl: str, device: torch.device, count: int) -> Workload:
    height, width, new_height, new_width, patch = 360, 640, 224, 420, 14
    frames = torch.randint(0, 256, (count, height, width, 3), dtype=torch.uint8, device=device)
    table = torch.randn(3, 256, dtype=DTYPE, device=device)
    out = torch.empty(count * (new_height // patch) * (new_width // patch), 6 * patch**2, dtype=DTYPE, device=device)
    steps = (Step(new_height, new_width, "bicubic"),)
    return Workload(
        "frames_to_patches",
        f"{count} frames {width}x{height} to {new_width}x{new_height}",
        lambda: frames_to_patches(frames, table, steps=steps, patch=patch, merge=2, temporal=2, out=out, impl=impl),
        frames.numel() + out.numel() * BYTES,
    )
