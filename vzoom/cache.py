"""The paged KV cache: a pool of pages for all sessions, and one block table a session.

A page holds `block_size` consecutive tokens of one sequence. A slot is block * block_size + offset in the block.
The layout of a page is a property of the device: see `kernels/layout.py`.
"""

from __future__ import annotations

import numpy as np
import torch

from .kernels.layout import page_shape


class OutOfPages(RuntimeError):
    """The pool has fewer free pages than a run needs. Nothing was taken."""


class PagePool:
    """K and V pages of all layers, and the list of free blocks.

    k_pages, v_pages: [num_layers, *pages] in `dtype` on `device`, one tensor so that one launch can move a clip in all
    layers. Memory is reserved, not touched: on the CPU the system commits a page when it is first written.
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

        page = page_shape(num_blocks, num_kv_heads, block_size, head_dim, device=torch.device(device))
        self.k_pages, self.v_pages = (torch.zeros((num_layers, *page), dtype=dtype, device=device) for _ in range(2))
        self._free = list(range(num_blocks - 1, -1, -1))

    @property
    def num_free(self) -> int:
        return len(self._free)

    def allocate(self, count: int) -> list[int]:
        """`count` blocks, or OutOfPages with the pool unchanged."""
        if count > len(self._free):
            raise OutOfPages(f"{count} blocks needed, {len(self._free)} of {self.num_blocks} free")
        return [self._free.pop() for _ in range(count)]

    def release(self, blocks: list[int]) -> None:
        assert not set(blocks) & set(self._free), "a block was released twice"
        self._free += reversed(blocks)


class BlockTable:
    """The pages of one sequence and how many tokens of them are filled."""

    def __init__(self, pool: PagePool) -> None:
        self.pool = pool
        self.blocks: list[int] = []
        self.length = 0

    def extend(self, count: int) -> np.ndarray:
        """Room for `count` more tokens: their slots, int64 [count]. OutOfPages leaves the table unchanged."""
        size = self.pool.block_size
        missing = -(-(self.length + count) // size) - len(self.blocks)
        self.blocks += self.pool.allocate(max(0, missing))
        at = np.arange(self.length, self.length + count, dtype=np.int64)
        self.length += count
        return np.asarray(self.blocks, dtype=np.int64)[at // size] * size + at % size

    def truncate(self, length: int) -> None:
        """Forget the tokens behind `length` and give back the pages that only they used."""
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot truncate {self.length} tokens to {length}")
        keep = -(-length // self.pool.block_size)
        self.pool.release(self.blocks[keep:])
        del self.blocks[keep:]
        self.length = length
