"""Frames that are pictures already: an array, a list of image files, a folder of them. No container, no codec."""

from __future__ import annotations

import hashlib
import itertools
import math
import os
import re
from bisect import bisect_left, bisect_right
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from ..config import VideoOptions
from ..types import VideoInfo
from .base import Frame, VideoError, VideoReader, VideoReadError

_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
_TICK = Fraction(1, 1_000_000)  # times of the caller's own are kept to a microsecond


@dataclass(frozen=True, eq=False)
class FrameSequence:
    """Frames and when each appears: a video without a file.

    Give exactly one of `fps` and `times`.

    Attributes:
        frames: uint8 [N, H, W, 3] RGB, a numpy array or a torch tensor; or N image files, in order; or a folder of
            image files, which are taken in the order of their names, numbers in them as numbers.
        fps: frames per second. The last frame is on display as long as every other.
        times: N increasing times in seconds, the first of which becomes 0. The last frame is on display as long as the
            one before it, or a second if it is the only one.

    Raises:
        ValueError: no frames, frames of another shape or type, not one of `fps` and `times`, or times that do not
            increase.
        VideoError: a file is not there, or the folder holds no image.
    """

    frames: Any
    fps: float | None = None
    times: Sequence[float] | None = None

    def __post_init__(self) -> None:
        if (self.fps is None) == (self.times is None):
            raise ValueError("a FrameSequence needs fps, its frames per second, or times, one for each frame")
        if isinstance(self.frames, str | os.PathLike):
            object.__setattr__(self, "frames", _images_in(Path(self.frames)))
        if not hasattr(self.frames, "shape"):
            object.__setattr__(self, "frames", [Path(file) for file in self.frames])
            missing = [file for file in self.frames if not file.is_file()]
            if missing:
                raise VideoError(f"{missing[0]}: no such file")
        elif len(self.frames.shape) != 4 or self.frames.shape[3] != 3 or "uint8" not in str(self.frames.dtype):
            raise ValueError(f"frames must be uint8 [N, H, W, 3], got {self.frames.dtype} {tuple(self.frames.shape)}")
        if len(self.frames) == 0:
            raise ValueError("no frames")
        if self.fps is not None and not 0 < self.fps < math.inf:
            raise ValueError(f"fps must be above 0, got {self.fps}")
        if self.times is not None:
            times = [float(t) for t in self.times]
            object.__setattr__(self, "times", times)
            if len(times) != len(self.frames):
                raise ValueError(f"{len(self.frames)} frames and {len(times)} times")
            if not all(map(math.isfinite, times)) or any(b - a < _TICK for a, b in itertools.pairwise(times)):
                raise ValueError("times must be finite and increase by at least a microsecond")

    @property
    def is_files(self) -> bool:
        """Whether the frames are image files."""
        return isinstance(self.frames, list)

    @property
    def name(self) -> str:
        """What messages, results and reports call it."""
        if self.is_files:
            return f"{self.frames[0].parent} ({len(self.frames)} images)"
        return f"<{len(self.frames)} frames>"

    def key(self) -> Hashable:
        """What a cache knows it by: the files and their versions and the times; an array by being that object."""
        if not self.is_files:
            return "object", id(self)
        return self.file_key()

    def file_key(self) -> tuple[str, int, int]:
        """(name and hash of names, versions and times, bytes, newest mtime in ns); (name, 0, 0) of an array.

        Raises:
            VideoError: a file is gone.
        """
        if not self.is_files:
            return self.name, 0, 0
        try:
            stats = [file.stat() for file in self.frames]
        except OSError as error:
            raise VideoError(f"{error.filename}: {error.strerror}") from error
        digest = hashlib.blake2b(repr((self.fps, self.times)).encode(), digest_size=16)
        for file, stat in zip(self.frames, stats, strict=True):
            digest.update(f"{file.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode(errors="surrogateescape"))
        size, newest = sum(stat.st_size for stat in stats), max(stat.st_mtime_ns for stat in stats)
        return f"{self.name} {digest.hexdigest()}", size, newest

    def image(self, index: int) -> np.ndarray:
        """Frame `index`, uint8 [H, W, 3], upright, transparent parts on black.

        Raises:
            VideoReadError: it is a file that is no image.
        """
        if not self.is_files:
            frame = self.frames[index]
            return np.array(frame.cpu().numpy() if hasattr(frame, "cpu") else frame)
        try:
            with Image.open(self.frames[index]) as opened:
                return _rgb(ImageOps.exif_transpose(opened))
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            raise VideoReadError(f"{self.frames[index]}: not an image that can be read ({error})") from error


class SequenceReader(VideoReader):
    """The reader of a `FrameSequence`. Every frame of it is a keyframe."""

    backend = "frames"

    def __init__(self, sequence: FrameSequence, options: VideoOptions) -> None:
        super().__init__()
        if options.stream is not None:
            raise VideoError(f"{sequence.name}: frames have no streams to choose from")
        self._sequence = sequence
        self.file_key = sequence.file_key()
        count = len(sequence.frames)
        if sequence.fps is not None:
            self.tick_seconds = 1 / Fraction(sequence.fps).limit_denominator(1_000_000)
            self._starts = list(range(count + 1))
        else:
            assert sequence.times is not None
            self.tick_seconds = _TICK
            starts = [round((t - sequence.times[0]) / _TICK) for t in sequence.times]
            self._starts = [*starts, starts[-1] + (starts[-1] - starts[-2] if count > 1 else round(1 / _TICK))]
        height, width, _ = self._image(0).shape
        duration = float(self._starts[-1] * self.tick_seconds)
        gaps = np.diff(self._starts)
        self.info = VideoInfo(
            path=sequence.name,
            duration_seconds=duration,
            fps=sequence.fps or count / duration,
            width=width,
            height=height,
            backend=self.backend,
            max_fps=None if np.ptp(gaps) <= 1 else float(1 / (int(gaps.min()) * self.tick_seconds)),
        )

    def _read(self, ticks: list[int]) -> list[Frame]:
        last, made = len(self._starts) - 2, dict[int, Frame]()
        found: list[Frame] = []
        for at in ticks:
            index = min(bisect_right(self._starts, at) - 1, last)
            if index not in made:
                start, end = self._starts[index : index + 2]
                made[index] = Frame(self._finish(self._image(index)), index, start, end, index == last)
            found.append(made[index])
        return found

    def _keyframe_ticks(self, ticks: list[int]) -> list[int]:
        last = len(self._starts) - 2
        return [self._starts[min(bisect_right(self._starts, at) - 1, last)] for at in ticks]

    def _shown_in(self, start: int, end: int, *, limit: int) -> list[int] | None:
        last = len(self._starts) - 2
        first = min(bisect_right(self._starts, start) - 1, last)
        shown = self._starts[first : max(first + 1, min(bisect_left(self._starts, end), last + 1))]
        return shown if len(shown) <= limit else None

    def _reopen(self) -> None:
        """There is no file that a fork could share."""

    def _image(self, index: int) -> np.ndarray:
        image = self._sequence.image(index)
        size = (self.info.height, self.info.width) if hasattr(self, "info") else image.shape[:2]
        if image.shape[:2] != size:
            name = self._sequence.frames[index]
            raise VideoReadError(
                f"{name}: {image.shape[1]} x {image.shape[0]} pixels, the first has {size[1]} x {size[0]}"
            )
        return image

    def _close(self) -> None:
        """The frames belong to the caller."""


def _images_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise VideoError(f"{folder}: no such folder")
    images = [file for file in folder.iterdir() if file.suffix.lower() in _SUFFIXES and not file.name.startswith(".")]
    if not images:
        raise VideoError(f"{folder}: no image in it ({', '.join(sorted(_SUFFIXES))})")
    return sorted(images, key=_natural)


def _natural(file: Path) -> list[tuple[int, str]]:
    """frame2 comes before frame10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", file.name)]


def _rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I;16"):  # 16 bits of gray
        return np.repeat((np.asarray(image) >> 8).astype(np.uint8)[:, :, None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode}")
    if image.has_transparency_data:
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image.convert("RGBA"))
    return np.array(image.convert("RGB"))
