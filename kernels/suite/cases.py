"""Inputs of the checks: pages full of NaN where nothing was written, slots in random order, ragged sequences."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def poisoned(*shape: int, dtype: torch.dtype) -> Tensor:
    """Make a tensor of NaN: what is not written shows."""
    return torch.full(shape, torch.nan, dtype=dtype)


def random(*shape: int, dtype: torch.dtype, seed: int) -> Tensor:
    """Make normally distributed values, the same for the same seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def new_pages(*lead: int, kv_heads: int, block_size: int, dim: int, dtype: torch.dtype) -> Tensor:
    """Make NaN pages [*lead, G, P, D]: a view of memory in which one token's heads follow each other."""
    return poisoned(*lead, block_size, kv_heads, dim, dtype=dtype).transpose(-3, -2)


def copied(tensor: Tensor) -> Tensor:
    """Copy; the strides stay."""
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype).copy_(tensor)


def placed(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy to `device`. Strides stay, and so does the distance from 16 bytes that the storage offset says."""
    span = 1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True)) if tensor.numel() else 0
    shift = tensor.storage_offset() % 8
    memory = torch.empty(span + shift, dtype=tensor.dtype, device=device)
    return memory.as_strided(tensor.shape, tensor.stride(), shift).copy_(tensor)


def shifted(tensor: Tensor) -> Tensor:
    """Copy to memory that starts one element after a multiple of 16 bytes."""
    memory = torch.empty(tensor.numel() + 1, dtype=tensor.dtype)
    return memory[1:].view(tensor.shape).copy_(tensor)


def at_slots(pages: Tensor, slots: Tensor) -> Tensor:
    """Gather tokens [.., T, G, D] at slots [T] of heads-first pages [.., N, G, P, D]."""
    rows = pages.transpose(-3, -2)
    return rows.flatten(-4, -3)[..., slots, :, :]


@dataclass(frozen=True)
class AttentionCase:
    """What paged_attention reads."""

    q: Tensor
    k_pages: Tensor
    v_pages: Tensor
    block_table: Tensor
    kv_lens: Tensor
    cu_seqlens_q: Tensor

    def to(self, dtype: torch.dtype) -> AttentionCase:
        """The same with queries and pages in another dtype."""
        tensors = (self.q.to(dtype), self.k_pages.to(dtype), self.v_pages.to(dtype))
        return AttentionCase(*tensors, self.block_table, self.kv_lens, self.cu_seqlens_q)

    @property
    def args(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The tensors in the order of the op's arguments."""
        return self.q, self.k_pages, self.v_pages, self.block_table, self.kv_lens, self.cu_seqlens_q


def attention_case(
    runs: list[tuple[int, int]],
    *,
    heads: int,
    kv_heads: int,
    dim: int,
    block_size: int,
    dtype: torch.dtype,
    share_first_block: bool = False,
) -> AttentionCase:
    """Make queries, pages and tables of ragged sequences.

    Block 0, and what is after a sequence's keys, stay NaN. Entries of the table after a sequence's blocks are -1: they
    must not be followed.

    Args:
        runs: (queries, keys) of each sequence.
        heads: query heads.
        kv_heads: key/value heads.
        dim: head_dim.
        block_size: tokens per page.
        dtype: of queries and pages.
        share_first_block: whether all sequences start with one block.

    Returns:
        The case.
    """
    rng = torch.Generator().manual_seed(len(runs) * 1000 + dim)
    needed = [-(-keys // block_size) for _, keys in runs]
    order = (torch.randperm(sum(needed), generator=rng) + 1).tolist()
    table = torch.full((len(runs), max(needed) + 1), -1, dtype=torch.int32)
    k_pages, v_pages = (
        new_pages(sum(needed) + 1, kv_heads=kv_heads, block_size=block_size, dim=dim, dtype=dtype) for _ in range(2)
    )
    for s, (_, keys) in enumerate(runs):
        for b in range(needed[s]):
            shared = share_first_block and b == 0 and s > 0
            table[s, b] = table[0, 0] if shared else order.pop()
            filled = min(block_size, keys - b * block_size)
            if not shared:
                for p in (k_pages, v_pages):
                    p[table[s, b], :, :filled] = torch.randn(kv_heads, filled, dim, generator=rng).to(dtype)
    cu = torch.tensor([0, *(n for n, _ in runs)]).cumsum(0).to(torch.int32)
    q = torch.randn(int(cu[-1]), heads, dim, generator=rng).to(dtype)
    lens = torch.tensor([keys for _, keys in runs], dtype=torch.int32)
    return AttentionCase(q, k_pages, v_pages, table, lens, cu)
