"""Clips that one session has seen, spliced into another without being fed again. Approximate, and off by default.

The keys are turned to their new positions, which is exact (one rotation serves a whole clip: moving it shifts all three
axes by the same amount); what is lost is the context that deeper layers took in where the clip was first seen.
"rotate+first16" feeds the first 16 tokens of the clip afresh, which wins back part of it. How far results are from
exact ones: `python bench/bench_reuse.py`.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal

import numpy as np

from .kv_cache import BlockTable, PagePool
from .session import Feed

Reuse = Literal["off", "rotate", "rotate+first16"]
_FED_AFRESH = {"rotate": 0, "rotate+first16": 16}  # tokens
_SHARE = 4  # at most 1 / _SHARE of the pool is held for clips


@dataclass(frozen=True)
class Move:
    """Tokens first to end of a run come from slots `sources`, int64 [end - first], `delta` positions away.

    It holds `blocks`, where they are, so that they cannot be given away before it is carried out: release them then.
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
    """The pages of clips as they were first fed, least recently used out first. Never of clips that were moved."""

    def __init__(self, pool: PagePool, mode: Reuse, merge: int) -> None:
        if mode != "off" and mode not in _FED_AFRESH:
            raise ValueError(f"reuse must be off, {' or '.join(_FED_AFRESH)}, got {mode!r}")
        self.mode = mode
        self._pool, self._merge = pool, merge
        self._held: OrderedDict[bytes, _Stored] = OrderedDict()
        self._num_blocks = 0

    def find(self, feed: Feed) -> Move | None:
        """Where the clip of `feed` can be had from, if it has one and was seen."""
        if self.mode == "off" or feed.clip is None:
            return None
        first, end = self._span(feed)
        key = self._key(feed, first, end)
        stored = self._held.get(key)
        if stored is None:
            return None
        self._held.move_to_end(key)
        self._pool.share(stored.blocks)
        afresh = min(_FED_AFRESH[self.mode], end - first)
        delta = int(feed.positions[0, first]) - stored.position
        return Move(first + afresh, end, stored.slots[afresh:], delta, stored.blocks)

    def keep(self, feed: Feed, table: BlockTable) -> None:
        """Hold the clip of a feed that was carried out in full, its run at the end of `table`."""
        if self.mode == "off" or feed.clip is None or not feed.run.images:
            return
        first, end = self._span(feed)
        key = self._key(feed, first, end)
        if key in self._held:
            self._held.move_to_end(key)
            return
        size = self._pool.block_size
        begin = table.length - len(feed.run.ids)
        at = np.arange(begin + first, begin + end)
        blocks = table.blocks[at[0] // size : at[-1] // size + 1]
        if len(blocks) * _SHARE > self._pool.num_blocks:
            return
        while (self._num_blocks + len(blocks)) * _SHARE > self._pool.num_blocks:
            self.evict()
        self._pool.share(blocks)
        slots = np.asarray(table.blocks, dtype=np.int64)[at // size] * size + at % size
        self._held[key] = _Stored(blocks, slots, int(feed.positions[0, first]))
        self._num_blocks += len(blocks)

    def evict(self) -> bool:
        """Let the clip go that was not used for longest; False where none is held."""
        if not self._held:
            return False
        _, stored = self._held.popitem(last=False)
        self._pool.release(stored.blocks)
        self._num_blocks -= len(stored.blocks)
        return True

    def clear(self) -> None:
        while self.evict():
            pass

    def _span(self, feed: Feed) -> tuple[int, int]:
        """The tokens from the start of the first image's block to the end of the last one's: pictures and labels."""
        (_, first, _), (_, last, (h, w)) = feed.run.images[0], feed.run.images[-1]
        return first - 1, last + (h // self._merge) * (w // self._merge) + 1

    @staticmethod
    def _key(feed: Feed, first: int, end: int) -> bytes:
        """A digest of the pixels and of every token of the clip, labels with their times among them."""
        assert feed.clip is not None
        digest = hashlib.blake2b(np.ascontiguousarray(feed.clip.frames).data, digest_size=16)
        digest.update(repr((feed.clip.frames.shape, [grid for _, _, grid in feed.run.images])).encode())
        digest.update(np.array(feed.run.ids[first:end], dtype=np.int64).data)
        return digest.digest()
