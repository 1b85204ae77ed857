"""Frames of training videos, drawn once, as the model's processor would make them from a file.

No file is written: the trainer imitates the noise of encoding (`forward.augment`). Evaluations read real files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ...synthetic import Painter, SyntheticConfig, SyntheticVideo, make_training_video


@dataclass(frozen=True)
class StoredVideo:
    """A video with its frames.

    Args:
        number: its place in the store.
        video: what it shows.
        frames: uint8 [T, side, side, 3], one every `step_seconds` from 0.
        step_seconds: between two frames.
    """

    number: int
    video: SyntheticVideo
    frames: np.ndarray
    step_seconds: float

    def index_of(self, seconds: float) -> int:
        """The row of `frames` at this time.

        Raises:
            ValueError: no frame is at this time.
        """
        index = round(seconds / self.step_seconds)
        if abs(index * self.step_seconds - seconds) > 1e-6 or not 0 <= index < len(self.frames):
            raise ValueError(f"{seconds} s is not one of {len(self.frames)} frames every {self.step_seconds} s")
        return index


class FrameStore:
    """Training videos with one frame per length of an event. A video is drawn when it is first used.

    Args:
        config: what videos look like.
        side: of a frame, in pixels.
        first: number of the first training video.
        count: number of videos.
    """

    def __init__(self, config: SyntheticConfig, *, side: int, first: int, count: int) -> None:
        if count < 1:
            raise ValueError(f"count must be 1 or more, got {count}")
        self.config, self.side, self.first, self.count = config, side, first, count
        self._videos: dict[int, StoredVideo] = {}

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> StoredVideo:
        if not 0 <= number < self.count:
            raise IndexError(f"video {number} of {self.count}")
        if number not in self._videos:
            video = make_training_video(self.first + number, self.config)
            step = self.config.event_seconds
            times = np.arange(0, self.config.duration_seconds, step)
            self._videos[number] = StoredVideo(number, video, draw_small(video, times.tolist(), self.side), step)
        return self._videos[number]

    def gather(self, refs: Sequence[tuple[int, int]]) -> np.ndarray:
        """Frames of any videos.

        Args:
            refs: (video number, row) of each.

        Returns:
            uint8 [N, side, side, 3].
        """
        if not refs:
            return np.zeros((0, self.side, self.side, 3), np.uint8)
        return np.stack([self[number].frames[row] for number, row in refs])


def draw_small(video: SyntheticVideo, times_seconds: Sequence[float], side: int) -> np.ndarray:
    """Frames at these times, shrunk with Lanczos as the processor does.

    Returns:
        uint8 [N, side, side, 3].
    """
    painter = Painter(video)
    frames = []
    for seconds in times_seconds:
        image = Image.fromarray(painter.frame(int(seconds * video.config.fps + 1e-6)))
        frames.append(np.asarray(image.resize((side, side), Image.Resampling.LANCZOS)))
    return np.stack(frames)
