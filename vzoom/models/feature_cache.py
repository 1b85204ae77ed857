"""Visual tokens that were computed once and are found again by the pixels of their frame."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable

from ..video import CacheStats
from .features import Features


class FeatureCache:
    """Visual tokens of frames, the least recently used dropped first. Thread safe.

    Valid for one model: call `clear` when its vision weights change.

    Args:
        max_bytes: the most memory of the model's device that they take.

    Raises:
        ValueError: max_bytes is below 0.
    """

    def __init__(self, max_bytes: int = 512 << 20) -> None:
        if max_bytes < 0:
            raise ValueError(f"max_bytes must be 0 or more, got {max_bytes}")
        self.max_bytes = max_bytes
        self._lock = threading.Lock()
        self._held: OrderedDict[Hashable, Features] = OrderedDict()
        self._num_bytes = self._hits = self._misses = self._evictions = 0

    def lookup(self, key: Hashable) -> Features | None:
        """The visual tokens of a frame, or None if they are not held. A hit is counted."""
        with self._lock:
            features = self._held.get(key)
            if features is not None:
                self._held.move_to_end(key)
                self._hits += 1
            return features

    def keep(self, key: Hashable, features: Features) -> None:
        """Enter a frame that `lookup` did not find. A miss is counted."""
        with self._lock:
            self._misses += 1
            if features.num_bytes > self.max_bytes:
                return
            if (known := self._held.pop(key, None)) is not None:  # another thread was quicker
                self._num_bytes -= known.num_bytes
            while self._num_bytes + features.num_bytes > self.max_bytes:
                self._num_bytes -= self._held.popitem(last=False)[1].num_bytes
                self._evictions += 1
            self._held[key] = features
            self._num_bytes += features.num_bytes

    def clear(self) -> None:
        """Drop what is held; the counters keep counting."""
        with self._lock:
            self._held.clear()
            self._num_bytes = 0

    def stats(self) -> CacheStats:
        """What the cache did so far and holds now, in frames."""
        with self._lock:
            return CacheStats(self._hits, self._misses, self._evictions, len(self._held), self._num_bytes)
