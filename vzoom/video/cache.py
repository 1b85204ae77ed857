"""Frames are decoded once and kept, so that zooms that overlap and rollouts that share a video decode once.

`ClipCache.open` is the one way to a video that is read through the cache: `CachedVideo`, whose frames are already at
the model's size, a few hundred KB each instead of megabytes.

A frame is found by (file and its version, backend, size it was resized to, frame index). Which frame a time falls on
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

from ..config import ZoomConfig
from ..types import Clip
from .base import Frame, VideoReader, make_clip
from .opening import open_video
from .packet_source import file_key
from .patches import PatchSpec, resize_frames

# Decoded at once before they are resized: a glance of 64 frames of 4K would be 1.6 GB.
_CHUNK_FRAMES = 16

FileKey = tuple[str, int, int]
FramesKey = tuple[Hashable, ...]  # (file and its version, backend, resize): frames that can stand for each other


@dataclass(frozen=True)
class Resize:
    """What is done to a frame before it is kept.

    Attributes:
        name: tells it from every other resize that uses the same cache (rule and target size).
        function: uint8 [H, W, 3] -> uint8 [h, w, 3].
    """

    name: Hashable
    function: Callable[[np.ndarray], np.ndarray] = field(compare=False)


@dataclass(frozen=True)
class CacheStats:
    """What a cache of frames did and holds.

    Attributes:
        hits: frames that were found.
        misses: frames that had to be made (decoded, or encoded).
        evictions: frames that were dropped to make room.
        num_frames: frames held now.
        num_bytes: their memory.
    """

    hits: int
    misses: int
    evictions: int
    num_frames: int
    num_bytes: int

    @property
    def hit_rate(self) -> float:
        """The share of hits among all frames that were asked for; 0 if none was."""
        return self.hits / max(1, self.hits + self.misses)

    def to_json(self) -> dict[str, float]:
        """All figures by name, `hit_rate` among them."""
        return {**asdict(self), "hit_rate": round(self.hit_rate, 4)}


class ClipCache:
    """Frames of any number of videos, the least recently used dropped first. Thread safe.

    Args:
        max_bytes: the most memory that the frames take.
        max_readers: the most files that stay open, with their keyframe index.

    Raises:
        ValueError: max_bytes is below 0 or max_readers below 1.
    """

    def __init__(self, max_bytes: int = 512 << 20, *, max_readers: int = 8) -> None:
        if max_bytes < 0 or max_readers < 1:
            raise ValueError(f"max_bytes must be 0 or more and max_readers 1 or more, got {max_bytes}, {max_readers}")
        self.max_bytes, self.max_readers = max_bytes, max_readers
        self._lock = threading.Lock()
        self._frames: OrderedDict[tuple[FramesKey, int], Frame] = OrderedDict()
        self._starts: dict[FramesKey, list[tuple[int, int]]] = {}  # sorted (pts_ticks, index) of what is held
        self._readers: OrderedDict[tuple[FileKey, Hashable], VideoReader] = OrderedDict()
        self._num_bytes = self._hits = self._misses = self._evictions = 0

    def open(self, path: str | os.PathLike[str], *, config: ZoomConfig, spec: PatchSpec) -> CachedVideo:
        """Open a video through this cache.

        Args:
            path: a video file, or a URL that libav understands.
            config: its encoding, resize rule and pixel limits decide the size of the frames.
            spec: the patch geometry of the model that will see them.

        Returns:
            The video; its frames come at the model's size.

        Raises:
            VideoError: there is no such file, or it is not a video.
        """

        def resized(frame_HWC: np.ndarray) -> np.ndarray:
            return resize_frames(frame_HWC[None], config=config, spec=spec)[0]

        name = (config.encoding, config.resize, config.min_pixels, config.max_pixels, spec.factor, spec.enlarges_videos)
        return CachedVideo(self, self.reader(path), Resize(name, resized))

    def reader(self, path: str | os.PathLike[str], **options: object) -> VideoReader:
        """An open reader of a file, the same one as long as the file does not change.

        It is shared: do not close it. One that is pushed out stays open for those who still hold it.

        Args:
            path: as for `open_video`.
            options: as for `open_video`.

        Raises:
            VideoError: there is no such file, or it is not a video.
        """
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
        """`reader.frames_at(timestamps)`, resized; only frames that are not held are decoded.

        Args:
            reader: an open video.
            timestamps: seconds from the first displayed frame.
            resize: what is done to each frame; None for nothing.

        Returns:
            The clip, uint8 [N, h, w, 3].

        Raises:
            ValueError, VideoReadError: as `VideoReader.frames_at`.
        """
        ticks = [reader.to_ticks(t) for t in timestamps]
        frames_key = self._key_of(reader, resize)
        with self._lock:
            found = {at: frame for at in set(ticks) if (frame := self._lookup(frames_key, at)) is not None}
            self._hits += len({frame.index for frame in found.values()})
        missing = sorted(set(ticks) - found.keys())
        if not ticks:
            reader.read([])  # says what is wrong with that
        for begin in range(0, len(missing), _CHUNK_FRAMES):
            found |= self._decode(reader, missing[begin : begin + _CHUNK_FRAMES], frames_key, resize)
        return make_clip(timestamps, [found[at] for at in ticks], reader.tick_seconds)

    def _decode(
        self, reader: VideoReader, ticks: list[int], frames_key: FramesKey, resize: Resize | None
    ) -> dict[int, Frame]:
        """Decode, resize and keep what is on display at `ticks` (increasing)."""
        decoded = reader.read(ticks)
        fresh = {frame.index: frame for frame in decoded}
        if resize is not None:
            fresh = {i: replace(frame, image=_resized(frame.image, resize)) for i, frame in fresh.items()}
        with self._lock:
            self._misses += len(fresh)
            for frame in fresh.values():
                self._insert(frames_key, frame)
        return {at: fresh[frame.index] for at, frame in zip(ticks, decoded, strict=True)}

    def stats(self) -> CacheStats:
        """What the cache did so far and holds now."""
        with self._lock:
            return CacheStats(self._hits, self._misses, self._evictions, len(self._frames), self._num_bytes)

    def clear(self) -> None:
        """Drop all frames and readers; the counters keep counting."""
        with self._lock:
            self._frames.clear()
            self._starts.clear()
            self._readers.clear()
            self._num_bytes = 0

    @staticmethod
    def _key_of(reader: VideoReader, resize: Resize | None) -> FramesKey:
        name, size, _ = reader.file_key
        # A URL has no version: what one reader saw holds for that reader only.
        version: Hashable = reader.file_key if size else (name, reader.serial)
        return version, reader.backend, resize.name if resize is not None else None

    def _lookup(self, frames_key: FramesKey, ticks: int) -> Frame | None:
        starts = self._starts.get(frames_key, [])
        at = bisect_right(starts, ticks, key=lambda start: start[0]) - 1
        if at < 0:
            return None
        key = (frames_key, starts[at][1])
        if not self._frames[key].answers(ticks):
            return None
        self._frames.move_to_end(key)
        return self._frames[key]

    def _insert(self, frames_key: FramesKey, frame: Frame) -> None:
        key = (frames_key, frame.index)
        if key in self._frames:
            self._drop(key)
        if frame.image.nbytes > self.max_bytes:
            return
        while self._num_bytes + frame.image.nbytes > self.max_bytes:
            self._drop(next(iter(self._frames)))
            self._evictions += 1
        self._frames[key] = frame
        self._num_bytes += frame.image.nbytes
        insort(self._starts.setdefault(frames_key, []), (frame.pts_ticks, frame.index))

    def _drop(self, key: tuple[FramesKey, int]) -> None:
        frame = self._frames.pop(key)
        self._num_bytes -= frame.image.nbytes
        starts = self._starts[key[0]]
        del starts[bisect_left(starts, (frame.pts_ticks, frame.index))]
        if not starts:
            del self._starts[key[0]]


class CachedVideo:
    """A video that is read through a `ClipCache`, its frames at the model's size. `ClipCache.open` makes one."""

    def __init__(self, cache: ClipCache, reader: VideoReader, resize: Resize) -> None:
        self._cache, self._reader, self._resize = cache, reader, resize
        self.info = reader.info

    def frames_at(self, timestamps: Sequence[float]) -> Clip:
        """The frames on display at `timestamps` (seconds). Errors as those of `VideoReader.frames_at`."""
        return self._cache.frames_at(self._reader, timestamps, resize=self._resize)

    def close(self) -> None:
        """Does nothing: the reader belongs to the cache, which other sessions share."""


def _resized(image: np.ndarray, resize: Resize) -> np.ndarray:
    small = np.ascontiguousarray(resize.function(image))
    if small.dtype != np.uint8 or small.ndim != 3 or small.shape[2] != 3:
        raise ValueError(f"resize {resize.name!r} gave {small.dtype} {small.shape}, not uint8 [h, w, 3]")
    small.setflags(write=False)
    return small
