"""What every reader of a video promises, and the errors that it may raise.

Times are seconds from the first displayed frame; ticks are whole steps of the stream's time base from there.
"""

from __future__ import annotations

import itertools
import math
import os
import threading
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar, runtime_checkable

import numpy as np

from ..types import Clip, VideoInfo

if TYPE_CHECKING:
    from torch import Tensor

Picture = TypeVar("Picture", np.ndarray, "Tensor", "np.ndarray | Tensor")


class VideoError(ValueError):
    """This path is not a video that can be read. The text is one line for the user."""


class VideoReadError(VideoError):
    """Frames of an open video cannot be had: nothing can be decoded there, or it took too long."""


@dataclass(frozen=True)
class Frame:
    """One displayed frame. It is the answer to every time from `pts_ticks` to just before `end_ticks`.

    Attributes:
        image: uint8 [H, W, 3] RGB, upright; a torch tensor if it is on a GPU.
        index: how many displayed frames come before it.
        pts_ticks: when it appears.
        end_ticks: when the next frame replaces it.
        is_last: nothing after it can be decoded, so it is also the (clamped) answer to every later time.
        is_damaged: the file is damaged there: what it refers to, or the frame that should be on display, is missing.
    """

    image: np.ndarray | Tensor
    index: int
    pts_ticks: int
    end_ticks: int
    is_last: bool
    is_damaged: bool = False

    def answers(self, ticks: int) -> bool:
        """Whether this is the frame on display at `ticks`."""
        return self.pts_ticks <= ticks and (self.is_last or ticks < self.end_ticks)


class ReadBudget:
    """A limit on time and packets for one call, so that no file can make the caller wait for ever."""

    def __init__(self, path: str, *, deadline_seconds: float, max_packets: int) -> None:
        self._path, self._deadline_seconds, self._max_packets = path, deadline_seconds, max_packets
        self._cancelled = False
        self.restart()

    def restart(self) -> None:
        """A new call begins: time and packets count from 0."""
        self._end = time.monotonic() + self._deadline_seconds
        self._packets = 0

    def cancel(self) -> None:
        """Let the call that is running, perhaps in another thread, end at its next packet."""
        self._cancelled = True

    def spend_packet(self) -> None:
        """Count one packet. VideoReadError if that is one too many, or as `check`."""
        self._packets += 1
        if self._packets > self._max_packets:
            raise VideoReadError(f"{self._path}: gave up after {self._max_packets} packets; raise max_packets")
        self.check()

    def check(self) -> None:
        """VideoReadError if the time is over or the reader is being closed."""
        self.seconds_left()

    def seconds_left(self) -> float:
        """Above 0. Raises as `check`."""
        if self._cancelled:
            raise VideoReadError(f"{self._path}: the reader is closed")
        left = self._end - time.monotonic()
        if left <= 0:
            raise VideoReadError(f"{self._path}: gave up after {self._deadline_seconds:g} s; raise deadline_seconds")
        return left


_serials = itertools.count()
_open_readers: weakref.WeakSet[VideoReader] = weakref.WeakSet()
_COARSE_TICK = Fraction(1, 500)  # seconds
_FRAME_TICK = 0.4  # of a frame's period
_CLOSE_SECONDS = 1e-6  # times that are the same but for their computation in floating point


class VideoReader(ABC):
    """An open video, as `open_video` returns it. A context manager.

    `frames_at` may be called from several threads; they take turns. After a fork the child opens the file anew.

    Attributes:
        info: duration, frame rate and size.
        backend: "pyav", "dali", or "frames" for a `FrameSequence`.
        file_key: the file and its version; see `file_key`.
        tick_seconds: the stream's time base.
        serial: the number of this reader among all of the process.
        stored: how the video is stored, by name: container, stream, codec, pixel_format; empty for frames of your own.
    """

    info: VideoInfo
    backend: str
    file_key: tuple[str, int, int]
    tick_seconds: Fraction

    def __init__(self) -> None:
        self.serial = next(_serials)
        self.stored: dict[str, str | int] = {}
        self._lock = threading.Lock()
        self._closed = False
        self._forked = False
        _open_readers.add(self)
        self._resize: Callable[[Any], Any] | None = None

    def frames_at(self, timestamps: Sequence[float]) -> Clip:
        """The frames on display at some times.

        The frame at t is the last one with pts <= t; where the container rounds times to milliseconds or finer, with
        pts <= t + half a tick. Times at or past the end give the last frame that can be decoded, flagged in
        `Clip.clamped`.

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

    def frames_in(self, segment: tuple[float, float], timestamps: Sequence[float]) -> Clip:
        """Every frame of a segment if there are no more than `timestamps`, else those on display at these times.

        Args:
            segment: (start, end) in seconds from the first displayed frame: frames on display at any moment in
                [start, end) are meant.
            timestamps: as for `frames_at`, sampling the segment.

        Returns, raises: as `frames_at`.
        """
        return self.frames_at(self.sampled(segment, timestamps))

    def sampled(self, segment: tuple[float, float], timestamps: Sequence[float]) -> Sequence[float]:
        """The times that `frames_in` shows: `timestamps`, or one for every frame of the segment."""
        start = self.to_ticks(segment[0])
        end = math.ceil(segment[1] / float(self.tick_seconds) - self._slack_ticks)
        with self._lock:
            self._check_open()
            shown = self._shown_in(start, max(end, start + 1), limit=len(timestamps))
        return timestamps if shown is None else [float(at * self.tick_seconds) for at in shown]

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
            self._check_open()
            return self._keyframe_ticks(ticks)

    def read(self, ticks: Sequence[int], *, resize: Callable[[Any], Any] | None = None) -> list[Frame]:
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
            self._check_open()
            self._resize = resize
            try:
                found = dict(zip(wanted, self._read(wanted), strict=True))
            finally:
                self._resize = None
        return [found[t] for t in ticks]

    def _finish(self, image: Picture) -> Picture:
        """What a picture becomes before it is handed out: resized, and read-only, as caches give it to several."""
        if self._resize is not None:
            image = self._resize(image)
        if isinstance(image, np.ndarray):
            image.setflags(write=False)
        return image

    def to_ticks(self, seconds: float) -> int:
        """The last tick that `seconds` reaches; see `frames_at` for times between two."""
        if not (math.isfinite(seconds) and seconds >= 0):
            raise ValueError(f"a timestamp must be finite and 0 or more, got {seconds!r} s")
        tick = self.tick_seconds
        return math.floor(seconds * tick.denominator / tick.numerator + self._slack_ticks)

    @property
    def _slack_ticks(self) -> float:
        """A time this little before a tick reaches it."""
        # A container's times are whole ticks. Fine ones are rounded times, by half a tick at most. Where a tick is
        # coarse, or the period of a frame (AVI, MXF, Ogg), it is exact.
        if self.tick_seconds < _COARSE_TICK and self.tick_seconds * self.info.fps < _FRAME_TICK:
            return 0.5
        return _CLOSE_SECONDS / float(self.tick_seconds)

    def _check_open(self) -> None:
        if self._closed:
            raise VideoReadError(f"{self.info.path}: the reader is closed")
        if self._forked:
            self._reopen()
            self._forked = False

    def _after_fork(self) -> None:
        """In the child: the lock may have been held by a thread that is not here, the file's position is shared."""
        self._lock = threading.Lock()
        self._forked = True

    @abstractmethod
    def _read(self, ticks: list[int]) -> list[Frame]:
        """`read` for strictly increasing ticks, under the lock."""

    @abstractmethod
    def _shown_in(self, start: int, end: int, *, limit: int) -> list[int] | None:
        """Pts of the frames on display at any tick in [start, end), under the lock; None if more than `limit`."""

    @abstractmethod
    def _reopen(self) -> None:
        """Open the file anew, under the lock, and leave what a fork copied alone."""

    @abstractmethod
    def _keyframe_ticks(self, ticks: list[int]) -> list[int]:
        """`keyframe_ticks` of ticks in any order, under the lock."""

    @abstractmethod
    def _close(self) -> None:
        """Release the file, under the lock."""

    def close(self) -> None:
        """Close the file. May be called twice; reading afterwards, or in another thread now, raises VideoReadError."""
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


@runtime_checkable
class SegmentSource(FrameSource, Protocol):
    """A video that can also show every frame of a segment, however unevenly they follow each other."""

    def frames_in(self, segment: tuple[float, float], timestamps: Sequence[float]) -> Clip: ...


def look(
    video: FrameSource, timestamps: Sequence[float], *, keyframes: bool, segment: tuple[float, float] | None = None
) -> Clip:
    """The frames on display at some times, or with `keyframes` the keyframes at or before them.

    Args:
        video: an open video.
        timestamps: seconds from the first displayed frame.
        keyframes: whether keyframes will do.
        segment: what the times sample, if all frames of it are wanted where they are no more than the times; see
            `VideoReader.frames_in`. A video that has no `frames_in` shows those at the times.

    Raises:
        VideoReadError: the video cannot show its keyframes alone; and as `VideoReader.frames_at`.
    """
    if not keyframes:
        if segment is not None and isinstance(video, SegmentSource):
            return video.frames_in(segment, timestamps)
        return video.frames_at(timestamps)
    if not isinstance(video, KeyframeSource):
        raise VideoReadError(f"{video.info.path}: it has no keyframes_at; use the exact glance")
    return video.keyframes_at(timestamps)


def look_each(
    video: FrameSource,
    timestamps: Sequence[float],
    per_clip: Sequence[int],
    *,
    keyframes: bool,
    segments: Sequence[tuple[float, float]] = (),
) -> tuple[Clip, tuple[int, ...]]:
    """`look` at several clips of a video.

    Args:
        video: the video.
        timestamps: seconds, those of the second clip after those of the first.
        per_clip: how many of them each clip has.
        keyframes: as for `look`.
        segments: as for `look`, one for each clip; none if the times are meant as they are.

    Returns:
        All frames, and how many each clip has: a frame that answers several times of a clip comes once in it.
    """
    clips, first = [], 0
    for number, count in enumerate(per_clip):
        segment = segments[number] if segments else None
        clips.append(look(video, timestamps[first : first + count], keyframes=keyframes, segment=segment))
        first += count
    if len(clips) == 1:
        return clips[0], (len(clips[0]),)
    together = Clip(
        stack_frames([frame for clip in clips for frame in clip.frames]),
        tuple(t for clip in clips for t in clip.pts_seconds),
        tuple(i for clip in clips for i in clip.frame_indices),
        tuple(c for clip in clips for c in clip.clamped),
        tuple(d for clip in clips for d in clip.damaged or (False,) * len(clip)),
    )
    return together, tuple(map(len, clips))


def make_clip(timestamps: Sequence[float], frames: Sequence[Frame], tick_seconds: Fraction) -> Clip:
    """The clip of `frames[i]`, the answer to `timestamps[i]`; a frame that answers several times is given once."""
    chosen: dict[int, Frame] = {}  # by pts: no two frames appear at once
    clamped: dict[int, bool] = {}
    for seconds, frame in zip(timestamps, frames, strict=True):
        beyond = frame.is_last and seconds >= float(frame.end_ticks * tick_seconds)
        chosen.setdefault(frame.pts_ticks, frame)
        clamped[frame.pts_ticks] = clamped.get(frame.pts_ticks, False) or beyond
    return Clip(
        frames=stack_frames([frame.image for frame in chosen.values()]),
        pts_seconds=tuple(float(frame.pts_ticks * tick_seconds) for frame in chosen.values()),
        frame_indices=tuple(frame.index for frame in chosen.values()),
        clamped=tuple(clamped.values()),
        damaged=tuple(frame.is_damaged for frame in chosen.values()),
    )


def _forget_parents_state() -> None:
    for reader in _open_readers:
        reader._after_fork()


os.register_at_fork(after_in_child=_forget_parents_state)


def stack_frames(images: Sequence[np.ndarray | Tensor]) -> np.ndarray | Tensor:
    """[H, W, 3] each -> [N, H, W, 3]: where they are, or on the GPU if any of them is there."""
    arrays = [image for image in images if isinstance(image, np.ndarray)]
    if len(arrays) == len(images):
        return np.stack(arrays)
    import torch

    device = next(image.device for image in images if not isinstance(image, np.ndarray))
    return torch.stack([torch.as_tensor(image, device=device) for image in images])
