"""What is timed of paged_attention."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from ..workload import BLOCK_SIZE, HEAD_DIM, HEADS, KV_HEADS, Sizes, Workload, random_pages
from .op import paged_attention


def workloads(device: torch.device, dtype: torch.dtype, sizes: Sizes) -> Iterator[Workload]:
    """Decode steps, and an append-prefill."""
    for batch, layers in sizes.decode:
        shape = f"decode, batch {batch}, context {sizes.context}" + (f", {layers} layers" if layers > 1 else "")
        read = layers * batch * (sizes.context * 2 * KV_HEADS + 2 * HEADS) * HEAD_DIM * dtype.itemsize
        prepare = partial(_prepare, device, dtype, layers, batch, 1, sizes.context)
        yield Workload("paged_attention", dtype, shape, prepare, read, reads=True, target=0.6)
    queries, keys = sizes.append
    moved = (keys * 2 * KV_HEADS + queries * 2 * HEADS) * HEAD_DIM * dtype.itemsize
    seen = queries * keys - queries * (queries - 1) // 2  # keys of all queries, bottom-right causal
    shape, prepare = f"append, {queries} queries on {keys} keys", partial(_prepare, device, dtype, 1, 1, queries, keys)
    yield Workload("paged_attention", dtype, shape, prepare, moved, 4 * seen * HEADS * HEAD_DIM, target=0.5)


def _prepare(
    device: torch.device, dtype: torch.dtype, layers: int, batch: int, queries: int, keys: int
) -> Callable[[str], Tensor]:
    """Sequences whose pages are anywhere; the layers are read one after the other, so that no cache holds them."""
    blocks = -(-keys // BLOCK_SIZE)
    k_pages, v_pages = random_pages(layers, batch * blocks * BLOCK_SIZE, dtype, device)
    table = torch.randperm(batch * blocks, device=device).to(torch.int32).view(batch, blocks)
    lens = torch.full((batch,), keys, dtype=torch.int32, device=device)
    starts = torch.arange(batch + 1, dtype=torch.int32, device=device) * queries
    q = torch.randn(batch * queries, HEADS, HEAD_DIM, dtype=dtype, device=device)
    out = torch.empty_like(q)

    def run(impl: str) -> Tensor:
        for k, v in zip(k_pages, v_pages, strict=True):
            paged_attention(q, k, v, table, lens, starts, scale=HEAD_DIM**-0.5, out=out, impl=impl)
        return out

    return run
