"""Frames are decoded once and kept, so that zooms that overlap and rollouts that share a video decode once.

`ClipCache.open` is the one way to a video that is read through the cache: `CachedVideo`, whose frames are already at
the model's size, a few hundred KB each instead of megabytes.

A frame is found by (file and its version, backend, size it was resized to, frame index). Which frame a time falls on
is known from the frames themselves, so that a hit touches no file.
"""

from __future__ import annotations

import os
import threading
import weakref
from bisect import bisect_left, bisect_right, insort
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ..config import VideoOptions, ZoomConfig
from ..types import Clip, VideoInfo
from .base import Frame, FrameSource, VideoReader, look, make_clip
from .opening import open_video
from .patches import PatchSpec, resize_frames
from .sources import VideoInput, reader_key, video_key

_caches: weakref.WeakSet[ClipCache] = weakref.WeakSet()

FramesKey = tuple[Hashable, ...]  # (file and its version, backend, resize): frames that can stand for each other


@dataclass(frozen=True)
class Resize:
    """What is done to a frame before it is kept.

    Attributes:
        name: tells it from every other resize that uses the same cache (rule and target size).
        function: uint8 [H, W, 3] -> uint8 [h, w, 3], an array or a tensor as it is given.
    """

    name: Hashable
    function: Callable[[Any], Any] = field(compare=False)


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
        options: how videos are read.

    Raises:
        ValueError: max_bytes is below 0 or max_readers below 1.
    """

    def __init__(
        self, max_bytes: int = 512 << 20, *, max_readers: int = 8, options: VideoOptions | None = None
    ) -> None:
        if max_bytes < 0 or max_readers < 1:
            raise ValueError(f"max_bytes must be 0 or more and max_readers 1 or more, got {max_bytes}, {max_readers}")
        self.max_bytes, self.max_readers = max_bytes, max_readers
        self.options = options or VideoOptions()
        self._start_afresh()
        _caches.add(self)

    def _start_afresh(self) -> None:
        """As after fork(): readers share their place in a file with the parent, another thread may hold the lock."""
        self._lock = threading.Lock()
        self._frames: OrderedDict[tuple[FramesKey, int], Frame] = OrderedDict()
        self._starts: dict[FramesKey, list[int]] = {}  # sorted pts_ticks of what is held
        self._readers: OrderedDict[Hashable, tuple[VideoInput, VideoReader]] = OrderedDict()
        self._num_bytes = self._hits = self._misses = self._evictions = 0

    def open(self, video: VideoInput, *, config: ZoomConfig, spec: PatchSpec) -> FrameSource:
        """Open a video through this cache.

        Args:
            video: as for `open_video`; or an open video of your own, which is asked for each frame as it is needed, and
                stays yours to close.
            config: its encoding, resize rule and pixel limits decide the size of the frames.
            spec: the patch geometry of the model that will see them.

        Returns:
            The video. Its frames come at the model's size, those of an open video of your own as it gives them.

        Raises:
            VideoError: there is no such file, or it is not a video.
        """

        if isinstance(video, FrameSource) and not isinstance(video, VideoReader):
            return BorrowedVideo(video)
        reader = self.reader(video)
        config = config.for_video(reader.info.duration_seconds)
        looks = config.protocol

        def resized(frame_HWC: Any) -> Any:
            return resize_frames(frame_HWC[None], config=config, spec=spec)[0]

        name = (looks.frame.encoding, looks.pixels, config.min_pixels, config.max_pixels, spec)
        return CachedVideo(self, reader, Resize(name, resized))

    def reader(self, video: VideoInput) -> VideoReader:
        """An open reader of a video, the same one as long as the file does not change. An open reader is that reader.

        It is shared: do not close it. One that is pushed out stays open for those who still hold it.

        Args:
            video: as for `open_video`.

        Raises:
            VideoError: there is no such file, or it is not a video.
        """
        if isinstance(video, VideoReader):
            return video
        key = video_key(video)
        with self._lock:
            if key in self._readers:
                self._readers.move_to_end(key)
                return self._readers[key][1]
        opened = open_video(video, self.options)
        with self._lock:
            # The object is held too: as long as it is here, no other can have its id.
            _, kept = self._readers.setdefault(key, (video, opened))
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
        return make_clip(timestamps, self._frames_of(reader, ticks, resize), reader.tick_seconds)

    def keyframes_at(self, reader: VideoReader, timestamps: Sequence[float], *, resize: Resize | None = None) -> Clip:
        """`reader.keyframes_at(timestamps)`, resized; only frames that are not held are decoded. As `frames_at`."""
        ticks = reader.keyframe_ticks(timestamps)
        times = [float(at * reader.tick_seconds) for at in ticks]
        return make_clip(times, self._frames_of(reader, ticks, resize), reader.tick_seconds)

    def _frames_of(self, reader: VideoReader, ticks: list[int], resize: Resize | None) -> list[Frame]:
        frames_key = self._key_of(reader, resize)
        with self._lock:
            found = {at: frame for at in set(ticks) if (frame := self._lookup(frames_key, at)) is not None}
            self._hits += len({frame.pts_ticks for frame in found.values()})
        missing = sorted(set(ticks) - found.keys())
        if not ticks:
            reader.read([])  # says what is wrong with that
        if missing:
            found |= self._decode(reader, missing, frames_key, resize)
        return [found[at] for at in ticks]

    def _decode(
        self, reader: VideoReader, ticks: list[int], frames_key: FramesKey, resize: Resize | None
    ) -> dict[int, Frame]:
        """Decode, resize and keep what is on display at `ticks` (increasing)."""
        decoded = reader.read(ticks, resize=None if resize is None else lambda image: _resized(image, resize))
        fresh = {frame.pts_ticks: frame for frame in decoded}
        with self._lock:
            self._misses += len(fresh)
            for frame in fresh.values():
                self._insert(frames_key, frame)
        return {at: fresh[frame.pts_ticks] for at, frame in zip(ticks, decoded, strict=True)}

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
        return reader_key(reader), reader.backend, resize.name if resize is not None else None

    def _lookup(self, frames_key: FramesKey, ticks: int) -> Frame | None:
        starts = self._starts.get(frames_key, [])
        at = bisect_right(starts, ticks) - 1
        if at < 0:
            return None
        key = (frames_key, starts[at])
        if not self._frames[key].answers(ticks):
            return None
        self._frames.move_to_end(key)
        return self._frames[key]

    def _insert(self, frames_key: FramesKey, frame: Frame) -> None:
        key = (frames_key, frame.pts_ticks)
        if key in self._frames:
            self._drop(key)
        if frame.image.nbytes > self.max_bytes:
            return
        while self._num_bytes + frame.image.nbytes > self.max_bytes:
            self._drop(next(iter(self._frames)))
            self._evictions += 1
        self._frames[key] = frame
        self._num_bytes += frame.image.nbytes
        insort(self._starts.setdefault(frames_key, []), frame.pts_ticks)

    def _drop(self, key: tuple[FramesKey, int]) -> None:
        frame = self._frames.pop(key)
        self._num_bytes -= frame.image.nbytes
        starts = self._starts[key[0]]
        del starts[bisect_left(starts, frame.pts_ticks)]
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

    def frames_in(self, segment: tuple[float, float], timestamps: Sequence[float]) -> Clip:
        """Every frame of a segment if there are no more than `timestamps`. As `VideoReader.frames_in`."""
        return self.frames_at(self._reader.sampled(segment, timestamps))

    def keyframes_at(self, timestamps: Sequence[float]) -> Clip:
        """The keyframes at or before `timestamps` (seconds). Errors as those of `VideoReader.frames_at`."""
        return self._cache.keyframes_at(self._reader, timestamps, resize=self._resize)

    def close(self) -> None:
        """Does nothing: the reader belongs to the cache, which other sessions share."""


class BorrowedVideo:
    """An open video of the caller's own, which the engine does not close."""

    def __init__(self, video: FrameSource) -> None:
        self._video = video
        self.info: VideoInfo = video.info

    def frames_at(self, timestamps: Sequence[float]) -> Clip:
        """What the caller's video gives."""
        return self._video.frames_at(timestamps)

    def frames_in(self, segment: tuple[float, float], timestamps: Sequence[float]) -> Clip:
        """What the caller's video gives; the frames at `timestamps` if it knows no segments."""
        return look(self._video, timestamps, keyframes=False, segment=segment)

    def keyframes_at(self, timestamps: Sequence[float]) -> Clip:
        """What the caller's video gives. VideoReadError if it cannot show its keyframes alone."""
        return look(self._video, timestamps, keyframes=True)

    def close(self) -> None:
        """Does nothing: the video belongs to the caller."""


def _resized(image: Any, resize: Resize) -> Any:
    small = resize.function(image)
    if str(small.dtype) not in ("uint8", "torch.uint8") or small.ndim != 3 or small.shape[2] != 3:
        raise ValueError(f"resize {resize.name!r} gave {small.dtype} {small.shape}, not uint8 [h, w, 3]")
    return np.ascontiguousarray(small) if isinstance(small, np.ndarray) else small.contiguous()


def _after_fork() -> None:
    for cache in _caches:
        cache._start_afresh()


os.register_at_fork(after_in_child=_after_fork)
