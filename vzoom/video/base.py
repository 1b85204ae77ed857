"""What every reader of a video promises, and the errors that it may raise.

Times are seconds from the first displayed frame; ticks are whole steps of the stream's time base from there.
"""

from __future__ import annotations

import itertools
import math
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

import numpy as np

from ..types import Clip, VideoInfo


class VideoError(ValueError):
    """This path is not a video that can be read. The text is one line for the user."""


class VideoReadError(VideoError):
    """Frames of an open video cannot be had: nothing can be decoded there, or it took too long."""


@dataclass(frozen=True)
class Frame:
    """One displayed frame. It is the answer to every time from `pts_ticks` to just before `end_ticks`.

    Attributes:
        image: uint8 [H, W, 3] RGB, upright.
        index: how many displayed frames come before it.
        pts_ticks: when it appears.
        end_ticks: when the next frame replaces it.
        is_last: nothing after it can be decoded, so it is also the (clamped) answer to every later time.
    """

    image: np.ndarray
    index: int
    pts_ticks: int
    end_ticks: int
    is_last: bool

    def answers(self, ticks: int) -> bool:
        """Whether this is the frame on display at `ticks`."""
        return self.pts_ticks <= ticks and (self.is_last or ticks < self.end_ticks)


class ReadBudget:
    """A limit on time and packets for one call, so that no file can make the caller wait for ever."""

    def __init__(self, path: str, *, deadline_seconds: float, max_packets: int) -> None:
        self._path, self._deadline_seconds, self._max_packets = path, deadline_seconds, max_packets
        self.restart()

    def restart(self) -> None:
        """A new call begins: time and packets count from 0."""
        self._end = time.monotonic() + self._deadline_seconds
        self._packets = 0

    def spend_packet(self) -> None:
        """Count one packet. VideoReadError if that is one too many, or the time is over."""
        self._packets += 1
        if self._packets > self._max_packets:
            raise VideoReadError(f"{self._path}: gave up after {self._max_packets} packets; raise max_packets")
        if time.monotonic() > self._end:
            raise VideoReadError(f"{self._path}: gave up after {self._deadline_seconds:g} s; raise deadline_seconds")


_serials = itertools.count()


class VideoReader(ABC):
    """An open video, as `open_video` returns it. A context manager.

    `frames_at` may be called from several threads; they take turns.

    Attributes:
        info: duration, frame rate and size.
        backend: "pyav", "dali", or "frames" for a `FrameSequence`.
        file_key: the file and its version; see `file_key`.
        tick_seconds: the stream's time base.
        serial: the number of this reader among all of the process.
    """

    info: VideoInfo
    backend: str
    file_key: tuple[str, int, int]
    tick_seconds: Fraction

    def __init__(self) -> None:
        self.serial = next(_serials)
        self._lock = threading.Lock()
        self._closed = False
        self._resize: Callable[[np.ndarray], np.ndarray] | None = None

    def frames_at(self, timestamps: Sequence[float]) -> Clip:
        """The frames on display at some times.

        The frame at t is the last one with pts <= t + half a tick. Times at or past the end give the last frame that
        can be decoded, flagged in `Clip.clamped`.

        Args:
            timestamps: seconds from the first displayed frame, in any order.

        Returns:
            Each frame once, in the order in which the frames were first asked for.

        Raises:
            ValueError: no times, or one that is negative or not finite.
            VideoReadError: no frame can be decoded there, the call ran into its limits, or the reader is closed.
        """
        ticks = [self.to_ticks(t) for t in timestamps]
        return make_clip(timestamps, self.read(ticks), self.tick_seconds)

    def keyframes_at(self, timestamps: Sequence[float]) -> Clip:
        """The keyframe at or before each of some times, with its own time: little is decoded to show it.

        Args, returns and raises as `frames_at`. Times between two keyframes give one frame.
        """
        ticks = self.keyframe_ticks(timestamps)
        return make_clip([float(at * self.tick_seconds) for at in ticks], self.read(ticks), self.tick_seconds)

    def keyframe_ticks(self, timestamps: Sequence[float]) -> list[int]:
        """When the keyframe at or before each of some times is displayed. Nothing is decoded. Raises as `frames_at`."""
        ticks = [self.to_ticks(t) for t in timestamps]
        with self._lock:
            if self._closed:
                raise VideoReadError(f"{self.info.path}: the reader is closed")
            return self._keyframe_ticks(ticks)

    def read(self, ticks: Sequence[int], *, resize: Callable[[np.ndarray], np.ndarray] | None = None) -> list[Frame]:
        """The frame on display at each of `ticks`, which may be in any order.

        Args:
            ticks: whole steps of the time base from the first displayed frame.
            resize: what is done to each picture as it is decoded, uint8 [H, W, 3] -> [h, w, 3], so that no more than
                one is held at its full size.

        Returns:
            A frame for each; ticks that fall on one frame get the same object. Raises as `frames_at`.
        """
        if not ticks:
            raise ValueError("no timestamps: ask for at least one frame")
        wanted = sorted(set(ticks))
        with self._lock:
            if self._closed:
                raise VideoReadError(f"{self.info.path}: the reader is closed")
            self._resize = resize
            try:
                found = dict(zip(wanted, self._read(wanted), strict=True))
            finally:
                self._resize = None
        return [found[t] for t in ticks]

    def _finish(self, image: np.ndarray) -> np.ndarray:
        """What a picture becomes before it is handed out: resized, and read-only, as caches give it to several."""
        if self._resize is not None:
            image = self._resize(image)
        image.setflags(write=False)
        return image

    def to_ticks(self, seconds: float) -> int:
        """The tick nearest to `seconds`, halves up, so that pts <= t + half a tick is pts_ticks <= result."""
        if not (math.isfinite(seconds) and seconds >= 0):
            raise ValueError(f"a timestamp must be finite and 0 or more, got {seconds!r} s")
        return math.floor(seconds * self.tick_seconds.denominator / self.tick_seconds.numerator + 0.5)

    @abstractmethod
    def _read(self, ticks: list[int]) -> list[Frame]:
        """`read` for strictly increasing ticks, under the lock."""

    @abstractmethod
    def _keyframe_ticks(self, ticks: list[int]) -> list[int]:
        """`keyframe_ticks` of ticks in any order, under the lock."""

    @abstractmethod
    def _close(self) -> None:
        """Release the file, under the lock."""

    def close(self) -> None:
        """Close the file. May be called twice; reading afterwards raises VideoReadError."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@runtime_checkable
class FrameSource(Protocol):
    """What the engine asks of a video: `CachedVideo` and every `VideoReader` have it, and a reader of your own."""

    info: VideoInfo

    def frames_at(self, timestamps: Sequence[float]) -> Clip: ...
    def close(self) -> None: ...


@runtime_checkable
class KeyframeSource(FrameSource, Protocol):
    """A video that can also show its keyframes alone, for `ZoomConfig.glance` = "keyframe"."""

    def keyframes_at(self, timestamps: Sequence[float]) -> Clip: ...


def look(video: FrameSource, timestamps: Sequence[float], *, keyframes: bool) -> Clip:
    """The frames on display at some times, or with `keyframes` the keyframes at or before them.

    Raises:
        VideoReadError: the video cannot show its keyframes alone; and as `VideoReader.frames_at`.
    """
    if not keyframes:
        return video.frames_at(timestamps)
    if not isinstance(video, KeyframeSource):
        raise VideoReadError(f"{video.info.path}: it has no keyframes_at; use the exact glance")
    return video.keyframes_at(timestamps)


def make_clip(timestamps: Sequence[float], frames: Sequence[Frame], tick_seconds: Fraction) -> Clip:
    """The clip of `frames[i]`, the answer to `timestamps[i]`; a frame that answers several times is given once."""
    chosen: dict[int, Frame] = {}
    clamped: dict[int, bool] = {}
    for seconds, frame in zip(timestamps, frames, strict=True):
        beyond = frame.is_last and seconds >= float(frame.end_ticks * tick_seconds)
        chosen.setdefault(frame.index, frame)
        clamped[frame.index] = clamped.get(frame.index, False) or beyond
    return Clip(
        frames=np.stack([frame.image for frame in chosen.values()]),
        pts_seconds=tuple(float(frame.pts_ticks * tick_seconds) for frame in chosen.values()),
        frame_indices=tuple(chosen),
        clamped=tuple(clamped.values()),
    )
