"""Frames that were decoded once and are kept, so that zooms that overlap and rollouts that share a video decode once.

A frame is found by (file and its version, backend, size it was resized to, frame index); which frame a time falls on
is known from the frames themselves, so that a hit touches no file.
"""

from __future__ import annotations

import os
import threading
from bisect import bisect_left, bisect_right, insort
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np

from ..types import Clip
from .base import Frame, VideoReader, make_clip

# Decoded at once before they are resized: a glance of 64 frames of 4K would be 1.6 GB.
_CHUNK_FRAMES = 16

FileKey = tuple[str, int, int]
Group = tuple[Hashable, ...]


@dataclass(frozen=True)
class Resize:
    """What is done to a frame before it is kept: `function`, uint8 [H, W, 3] -> uint8 [h, w, 3].

    `name` must tell it from every other resize that uses the same cache (rule and target size).
    """

    name: Hashable
    function: Callable[[np.ndarray], np.ndarray] = field(compare=False)


@dataclass(frozen=True)
class CacheStats:
    """Counted in frames: found, made anew (decoded, or encoded), dropped to make room; and what is held now."""

    hits: int
    misses: int
    evictions: int
    num_frames: int
    num_bytes: int

    @property
    def hit_rate(self) -> float:
        """Of all frames that were asked for, 0 where none was."""
        return self.hits / max(1, self.hits + self.misses)

    def to_json(self) -> dict[str, float]:
        return {**asdict(self), "hit_rate": round(self.hit_rate, 4)}


class ClipCache:
    """Frames of any number of videos in at most `max_bytes`, least recently used out first. Thread safe.

    Keeps at most `max_readers` files open as well (`reader`), with their keyframe index.
    """

    def __init__(self, max_bytes: int = 512 << 20, *, max_readers: int = 8) -> None:
        if max_bytes < 0 or max_readers < 1:
            raise ValueError(f"max_bytes must be 0 or more and max_readers 1 or more, got {max_bytes}, {max_readers}")
        self.max_bytes, self.max_readers = max_bytes, max_readers
        self._lock = threading.Lock()
        self._frames: OrderedDict[tuple[Group, int], Frame] = OrderedDict()
        self._starts: dict[Group, list[tuple[int, int]]] = {}  # sorted (pts_ticks, index) of what is held
        self._readers: OrderedDict[tuple[FileKey, Hashable], VideoReader] = OrderedDict()
        self._num_bytes = self._hits = self._misses = self._evictions = 0

    def reader(self, path: str | os.PathLike[str], **options: object) -> VideoReader:
        """An open reader of `path`, the same one as long as the file does not change; `options` as for `open_video`.

        It is shared: do not close it. One that is pushed out stays open for those who still hold it.
        """
        from . import open_video
        from .source import file_key

        key = (file_key(path), tuple(sorted(options.items())))
        with self._lock:
            if key in self._readers:
                self._readers.move_to_end(key)
                return self._readers[key]
        opened = open_video(path, **options)  # type: ignore[arg-type]  # checked there
        with self._lock:
            kept = self._readers.setdefault(key, opened)
            while len(self._readers) > self.max_readers:
                self._readers.popitem(last=False)
        if kept is not opened:
            opened.close()
        return kept

    def frames_at(self, reader: VideoReader, timestamps: Sequence[float], *, resize: Resize | None = None) -> Clip:
        """`reader.frames_at(timestamps)`, resized, decoding only frames that are not held. Errors as there."""
        ticks = [reader.to_ticks(t) for t in timestamps]
        group = self._group(reader, resize)
        with self._lock:
            found = {at: frame for at in set(ticks) if (frame := self._lookup(group, at)) is not None}
            self._hits += len({frame.index for frame in found.values()})
        missing = sorted(set(ticks) - found.keys())
        if not ticks:
            reader.read([])  # says what is wrong with that
        for begin in range(0, len(missing), _CHUNK_FRAMES):
            found |= self._decode(reader, missing[begin : begin + _CHUNK_FRAMES], group, resize)
        return make_clip(timestamps, [found[at] for at in ticks], reader.tick_seconds)

    def _decode(self, reader: VideoReader, ticks: list[int], group: Group, resize: Resize | None) -> dict[int, Frame]:
        """Decode, resize and keep what is on display at `ticks` (increasing)."""
        decoded = reader.read(ticks)
        fresh = {frame.index: frame for frame in decoded}
        if resize is not None:
            fresh = {i: replace(frame, image=_resized(frame.image, resize)) for i, frame in fresh.items()}
        with self._lock:
            self._misses += len(fresh)
            for frame in fresh.values():
                self._insert(group, frame)
        return {at: fresh[frame.index] for at, frame in zip(ticks, decoded, strict=True)}

    def stats(self) -> CacheStats:
        with self._lock:
            return CacheStats(self._hits, self._misses, self._evictions, len(self._frames), self._num_bytes)

    def clear(self) -> None:
        """Drop all frames and readers; the counters go on."""
        with self._lock:
            self._frames.clear()
            self._starts.clear()
            self._readers.clear()
            self._num_bytes = 0

    @staticmethod
    def _group(reader: VideoReader, resize: Resize | None) -> Group:
        name, size, _ = reader.file_key
        # A URL has no version: what one reader saw holds for that reader only.
        version: Hashable = reader.file_key if size else (name, reader.serial)
        return version, reader.backend, resize.name if resize is not None else None

    def _lookup(self, group: Group, ticks: int) -> Frame | None:
        starts = self._starts.get(group, [])
        at = bisect_right(starts, ticks, key=lambda start: start[0]) - 1
        if at < 0:
            return None
        key = (group, starts[at][1])
        if not self._frames[key].answers(ticks):
            return None
        self._frames.move_to_end(key)
        return self._frames[key]

    def _insert(self, group: Group, frame: Frame) -> None:
        key = (group, frame.index)
        if key in self._frames:
            self._drop(key)
        if frame.image.nbytes > self.max_bytes:
            return
        while self._num_bytes + frame.image.nbytes > self.max_bytes:
            self._drop(next(iter(self._frames)))
            self._evictions += 1
        self._frames[key] = frame
        self._num_bytes += frame.image.nbytes
        insort(self._starts.setdefault(group, []), (frame.pts_ticks, frame.index))

    def _drop(self, key: tuple[Group, int]) -> None:
        frame = self._frames.pop(key)
        self._num_bytes -= frame.image.nbytes
        starts = self._starts[key[0]]
        del starts[bisect_left(starts, (frame.pts_ticks, frame.index))]
        if not starts:
            del self._starts[key[0]]


def _resized(image: np.ndarray, resize: Resize) -> np.ndarray:
    small = np.ascontiguousarray(resize.function(image))
    if small.dtype != np.uint8 or small.ndim != 3 or small.shape[2] != 3:
        raise ValueError(f"resize {resize.name!r} gave {small.dtype} {small.shape}, not uint8 [h, w, 3]")
    small.setflags(write=False)
    return small
