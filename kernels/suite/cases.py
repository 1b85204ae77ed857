"""Inputs of the checks: pages full of NaN where nothing was written, slots in random order, ragged sequences."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def poisoned(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.full(shape, torch.nan, dtype=dtype)


def random(*shape: int, dtype: torch.dtype, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def new_pages(*lead: int, groups: int, block_size: int, dim: int, dtype: torch.dtype) -> Tensor:
    """NaN pages [*lead, groups, block_size, dim]: a view of memory in which one token's heads lie together."""
    return poisoned(*lead, block_size, groups, dim, dtype=dtype).transpose(-3, -2)


def copied(tensor: Tensor) -> Tensor:
    """A copy with the same strides."""
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype).copy_(tensor)


def placed(tensor: Tensor, device: torch.device) -> Tensor:
    """A copy on `device` with the same strides, and as far from 16 bytes as the tensor's storage offset says."""
    span = 1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True)) if tensor.numel() else 0
    shift = tensor.storage_offset() % 8
    memory = torch.empty(span + shift, dtype=tensor.dtype, device=device)
    return memory.as_strided(tensor.shape, tensor.stride(), shift).copy_(tensor)


def shifted(tensor: Tensor) -> Tensor:
    """The same in memory that starts one element behind 16 bytes."""
    memory = torch.empty(tensor.numel() + 1, dtype=tensor.dtype)
    return memory[1:].view(tensor.shape).copy_(tensor)


def at_slots(pages: Tensor, slots: Tensor) -> Tensor:
    """[.., N, groups, dim] at slots [N] of heads-first pages [.., blocks, groups, block_size, dim]."""
    rows = pages.transpose(-3, -2)
    return rows.flatten(-4, -3)[..., slots, :, :]


@dataclass(frozen=True)
class AttentionCase:
    q: Tensor
    k_pages: Tensor
    v_pages: Tensor
    block_table: Tensor
    kv_lens: Tensor
    cu_seqlens_q: Tensor

    def to(self, dtype: torch.dtype) -> AttentionCase:
        tensors = (self.q.to(dtype), self.k_pages.to(dtype), self.v_pages.to(dtype))
        return AttentionCase(*tensors, self.block_table, self.kv_lens, self.cu_seqlens_q)

    @property
    def args(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        return self.q, self.k_pages, self.v_pages, self.block_table, self.kv_lens, self.cu_seqlens_q


def attention_case(
    runs: list[tuple[int, int]],
    *,
    heads: int,
    groups: int,
    dim: int,
    block_size: int,
    dtype: torch.dtype,
    share_first_block: bool = False,
) -> AttentionCase:
    """runs: (queries, keys) of each sequence. Block 0 and what lies behind a sequence's keys stay NaN.

    Entries of the table behind a sequence's blocks are -1: they must not be followed.
    """
    rng = torch.Generator().manual_seed(len(runs) * 1000 + dim)
    needed = [-(-keys // block_size) for _, keys in runs]
    order = (torch.randperm(sum(needed), generator=rng) + 1).tolist()
    table = torch.full((len(runs), max(needed) + 1), -1, dtype=torch.int32)
    k_pages, v_pages = (
        new_pages(sum(needed) + 1, groups=groups, block_size=block_size, dim=dim, dtype=dtype) for _ in range(2)
    )
    for s, (_, keys) in enumerate(runs):
        for b in range(needed[s]):
            shared = share_first_block and b == 0 and s > 0
            table[s, b] = table[0, 0] if shared else order.pop()
            filled = min(block_size, keys - b * block_size)
            if not shared:
                for p in (k_pages, v_pages):
                    p[table[s, b], :, :filled] = torch.randn(groups, filled, dim, generator=rng).to(dtype)
    cu = torch.tensor([0, *(n for n, _ in runs)]).cumsum(0).to(torch.int32)
    q = torch.randn(int(cu[-1]), heads, dim, generator=rng).to(dtype)
    lens = torch.tensor([keys for _, keys in runs], dtype=torch.int32)
    return AttentionCase(q, k_pages, v_pages, table, lens, cu)
