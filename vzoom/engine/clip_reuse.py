"""Clips that one session has seen, spliced into another without being fed again. Approximate, and off by default.

The keys are rotated to their new positions, which is exact: moving a clip shifts all three axes by the same amount, so
one rotation serves all of it. Values and deeper keys are approximate: they hold the context in which the clip was first
seen. "rotate+first16" feeds the first 16 tokens of the clip afresh, which mends part of that. How far results are from
exact ones: `python bench/bench_reuse.py`.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal

import numpy as np

from .kv_cache import BlockTable, PagePool
from .session import NeedTokens

Reuse = Literal["off", "rotate", "rotate+first16"]
_FED_AFRESH = {"rotate": 0, "rotate+first16": 16}  # tokens
_SHARE = 4  # at most 1 / _SHARE of the pool is held for clips


@dataclass(frozen=True)
class Move:
    """Tokens [first, end) of a span are moved, not fed.

    Attributes:
        sources: int64 [end - first], the slots they come from.
        delta: how many positions they move.
        blocks: the pages they come from, held so that nobody else gets them; release them after the move.
    """

    first: int
    end: int
    sources: np.ndarray
    delta: int
    blocks: list[int]


@dataclass(frozen=True)
class _Stored:
    blocks: list[int]
    slots: np.ndarray
    position: int  # of the first token


class ClipStore:
    """The pages of clips as they were first fed; the least recently used is evicted first. No clip is moved twice.

    Raises:
        ValueError: `mode` is unknown.
    """

    def __init__(self, pool: PagePool, mode: Reuse, merge: int) -> None:
        if mode != "off" and mode not in _FED_AFRESH:
            raise ValueError(f"reuse must be off, {' or '.join(_FED_AFRESH)}, got {mode!r}")
        self.mode = mode
        self._pool, self._merge = pool, merge
        self._held: OrderedDict[bytes, _Stored] = OrderedDict()
        self._num_blocks = 0

    def find(self, need: NeedTokens) -> Move | None:
        """How the clip of `need` can be moved here; None if it has no clip or the clip was never fed."""
        if self.mode == "off" or need.clip is None:
            return None
        first, end = self._span(need)
        key = self._key(need, first, end)
        stored = self._held.get(key)
        if stored is None:
            return None
        self._held.move_to_end(key)
        self._pool.share(stored.blocks)
        afresh = min(_FED_AFRESH[self.mode], end - first)
        delta = int(need.positions[0, first]) - stored.position
        return Move(first + afresh, end, stored.slots[afresh:], delta, stored.blocks)

    def keep(self, need: NeedTokens, table: BlockTable) -> None:
        """Keep the clip of `need`, whose span was fed in full and is at the end of `table`."""
        if self.mode == "off" or need.clip is None or not need.span.blocks:
            return
        first, end = self._span(need)
        key = self._key(need, first, end)
        if key in self._held:
            self._held.move_to_end(key)
            return
        size = self._pool.block_size
        begin = table.length - len(need.span.ids)
        at = np.arange(begin + first, begin + end)
        blocks = table.blocks[at[0] // size : at[-1] // size + 1]
        if len(blocks) * _SHARE > self._pool.num_blocks:
            return
        while (self._num_blocks + len(blocks)) * _SHARE > self._pool.num_blocks:
            self.evict()
        self._pool.share(blocks)
        slots = np.asarray(table.blocks, dtype=np.int64)[at // size] * size + at % size
        self._held[key] = _Stored(blocks, slots, int(need.positions[0, first]))
        self._num_blocks += len(blocks)

    def evict(self) -> bool:
        """Give back the pages of the clip that was not used for longest. False if none is held."""
        if not self._held:
            return False
        _, stored = self._held.popitem(last=False)
        self._pool.release(stored.blocks)
        self._num_blocks -= len(stored.blocks)
        return True

    def clear(self) -> None:
        """Give back the pages of all clips."""
        while self.evict():
            pass

    def _span(self, need: NeedTokens) -> tuple[int, int]:
        """The tokens from the start of the first vision block to the end of the last, and the labels between them."""
        first, last = need.span.blocks[0], need.span.blocks[-1]
        return first.offset - 1, last.offset + last.num_tokens(self._merge) + 1

    @staticmethod
    def _key(need: NeedTokens, first: int, end: int) -> bytes:
        """A digest of the pixels, of every token of the clip, the labels with their times included, and of where its
        tokens are to each other: a video's time axis depends on its rate."""
        assert need.clip is not None
        digest = hashlib.blake2b(np.ascontiguousarray(need.clip.images).data, digest_size=16)
        digest.update(repr((need.clip.frames.shape, [block.grid_thw for block in need.span.blocks])).encode())
        digest.update(np.array(need.span.ids[first:end], dtype=np.int64).data)
        digest.update(np.ascontiguousarray(need.positions[:, first:end] - need.positions[:, first : first + 1]).data)
        return digest.digest()
