"""The paged KV cache: a pool of pages for all sessions, and one block table per session.

A page holds `block_size` consecutive tokens of one sequence. A slot is block * block_size + offset in the block.
The layout of a page depends on the device: see `kernels/layout.py`. Forked sequences share pages. A sequence that would
write to a shared, half-filled page gets its own copy first (copy-on-write), so no sequence sees another's tokens.
"""

from __future__ import annotations

import numpy as np
import torch

from ..kernels.copy_blocks import copy_blocks
from ..kernels.layout import new_pages


class OutOfPages(RuntimeError):
    """The pool has fewer free pages than a run needs. Nothing was taken."""


class PagePool:
    """K and V pages of all layers, the list of free blocks, and how many sequences hold each of the others.

    Memory is reserved, not touched: on the CPU the system commits a page when it is first written.

    Args:
        num_layers, num_kv_heads, head_dim: shape of the language model's attention.
        num_blocks: pages in the pool.
        block_size: tokens per page.
        dtype: of keys and values.
        device: where they are.

    Attributes:
        k_pages, v_pages: [num_layers, *pages], one tensor each, so that one launch can move a clip in all layers.
    """

    def __init__(
        self,
        *,
        num_layers: int,
        num_kv_heads: int,
        head_dim: int,
        num_blocks: int,
        block_size: int = 32,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.block_size = block_size
        self.num_blocks = num_blocks

        self.k_pages, self.v_pages = (
            new_pages(
                num_layers,
                num_blocks,
                num_kv_heads,
                head_dim,
                dtype=dtype,
                device=torch.device(device),
                block_size=block_size,
            )
            for _ in range(2)
        )
        self._free = list(range(num_blocks - 1, -1, -1))
        self._holders = [0] * num_blocks

    @property
    def num_free(self) -> int:
        """Blocks that nobody holds."""
        return len(self._free)

    def allocate(self, count: int) -> list[int]:
        """Take `count` blocks, with one holder each.

        Raises:
            OutOfPages: fewer are free. The pool is then unchanged.
        """
        if count > len(self._free):
            raise OutOfPages(f"{count} blocks needed, {len(self._free)} of {self.num_blocks} free")
        blocks = [self._free.pop() for _ in range(count)]
        for block in blocks:
            self._holders[block] = 1
        return blocks

    def share(self, blocks: list[int]) -> None:
        """One more holder for each block."""
        for block in blocks:
            assert self._holders[block] > 0, "a free block was shared"
            self._holders[block] += 1

    def release(self, blocks: list[int]) -> None:
        """One holder less for each block; a block without holders is free."""
        for block in reversed(blocks):
            assert self._holders[block] > 0, "a block was released twice"
            self._holders[block] -= 1
            if not self._holders[block]:
                self._free.append(block)

    def is_shared(self, block: int) -> bool:
        """Whether more than one sequence holds the block."""
        return self._holders[block] > 1

    def copy(self, source: int, target: int) -> None:
        """Copy the contents of a block, K and V of all layers."""
        device = self.k_pages.device
        copy_blocks(
            self.k_pages, self.v_pages, torch.tensor([source], device=device), torch.tensor([target], device=device)
        )


class BlockTable:
    """The pages of one sequence and how many tokens of them are filled."""

    def __init__(self, pool: PagePool) -> None:
        self.pool = pool
        self.blocks: list[int] = []
        self.length = 0

    def blocks_for(self, count: int) -> int:
        """How many free blocks `extend(count)` takes."""
        missing = -(-(self.length + count) // self.pool.block_size) - len(self.blocks)
        return max(0, missing) + self.must_copy(count)

    def extend(self, count: int) -> np.ndarray:
        """Make room for `count` more tokens.

        Returns:
            Their slots, int64 [count].

        Raises:
            OutOfPages: too few pages are free. The table is then unchanged.
        """
        size = self.pool.block_size
        fresh = self.pool.allocate(self.blocks_for(count))
        if self.must_copy(count):
            shared, self.blocks[-1] = self.blocks[-1], fresh.pop()
            self.pool.copy(shared, self.blocks[-1])
            self.pool.release([shared])
        self.blocks += fresh
        at = np.arange(self.length, self.length + count, dtype=np.int64)
        self.length += count
        return np.asarray(self.blocks, dtype=np.int64)[at // size] * size + at % size

    def fork(self) -> BlockTable:
        """Another sequence with the same tokens so far. Nothing is copied until one of the two writes."""
        other = BlockTable(self.pool)
        self.pool.share(self.blocks)
        other.blocks, other.length = list(self.blocks), self.length
        return other

    def upto(self, length: int) -> BlockTable:
        """The first `length` tokens, for reading: a view that holds no pages of its own."""
        view = BlockTable(self.pool)
        view.blocks, view.length = self.blocks[: -(-length // self.pool.block_size)], length
        return view

    def truncate(self, length: int) -> None:
        """Forget the tokens from `length` on and give back their pages.

        Raises:
            ValueError: the table does not hold `length` tokens.
        """
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot truncate {self.length} tokens to {length}")
        keep = -(-length // self.pool.block_size)
        self.pool.release(self.blocks[keep:])
        del self.blocks[keep:]
        self.length = length

    def must_copy(self, count: int) -> bool:
        """Whether the next tokens fall into a page that another sequence also holds."""
        return count > 0 and self.length % self.pool.block_size > 0 and self.pool.is_shared(self.blocks[-1])
