"""Random inputs of the kernels' tests: pages full of NaN where nothing was written, tables that share pages."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vzoom.kernels.layout import heads_first, page_shape

CPU = torch.device("cpu")


def poisoned(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.full(shape, torch.nan, dtype=dtype)


@dataclass
class Paged:
    """q [T, H, D] of ragged sequences and their keys and values in pages; unused slots hold NaN."""

    q: Tensor
    k_pages: Tensor
    v_pages: Tensor
    block_table: Tensor
    kv_lens: Tensor
    cu_seqlens_q: Tensor

    @property
    def args(self) -> tuple[Tensor, ...]:
        return self.q, self.k_pages, self.v_pages, self.block_table, self.kv_lens, self.cu_seqlens_q

    def as_float64(self) -> Paged:
        return Paged(self.q.double(), self.k_pages.double(), self.v_pages.double(), *self.args[3:])


def paged(
    runs: list[tuple[int, int]],
    *,
    heads: int = 4,
    kv_heads: int = 2,
    dim: int = 64,
    block_size: int = 16,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    share_first_block: bool = False,
) -> Paged:
    """runs: (queries, keys) of each sequence. Blocks are dealt in random order; block 0 stays NaN throughout."""
    rng = torch.Generator().manual_seed(seed)
    needed = [-(-keys // block_size) for _, keys in runs]
    total = sum(needed) + 1
    order = (torch.randperm(total - 1, generator=rng) + 1).tolist()
    table = torch.zeros(len(runs), max(needed, default=0) + 1, dtype=torch.int32)
    pages = [poisoned(*page_shape(total, kv_heads, block_size, dim, device=CPU), dtype=dtype) for _ in range(2)]
    for s, (_, keys) in enumerate(runs):
        for b in range(needed[s]):
            block = int(table[0, 0]) if share_first_block and b == 0 and s > 0 else order.pop()
            table[s, b] = block
            filled = min(block_size, keys - b * block_size)
            for p in pages:
                fresh = torch.randn(kv_heads, filled, dim, generator=rng).to(dtype)
                view = heads_first(p)[block, :, :filled]
                view.copy_(torch.where(view.isnan(), fresh, view))
    cu = torch.tensor([0, *(n for n, _ in runs)]).cumsum(0).to(torch.int32)
    q = torch.randn(int(cu[-1]), heads, dim, generator=rng).to(dtype)
    lens = torch.tensor([keys for _, keys in runs], dtype=torch.int32)
    return Paged(q, pages[0], pages[1], table, lens, cu)
