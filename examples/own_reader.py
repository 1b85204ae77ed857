"""Let the model look at frames of your own: a camera, a simulator, an archive, anything that has frames at times.

    python examples/own_reader.py
    python examples/own_reader.py --video match.mp4 --question "Who scored first?" --model zsgvivo/videozoomer

The engine asks two things of a video: `info`, what is known of it, and `frames_at(seconds)`, a `Clip` of the frames on
display then. Nothing else in vzoom needs to know what is behind it. Here it is an array in memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from inputs import arguments

import vzoom
from vzoom.types import VideoInfo


class ArrayVideo:
    """A video in memory. frames_NHWC: uint8 [N, H, W, 3] RGB, `fps` of them per second."""

    def __init__(self, frames_NHWC: np.ndarray, fps: float) -> None:
        num_frames, height, width, _ = frames_NHWC.shape
        self.frames_NHWC = frames_NHWC
        self.info = VideoInfo("an array", num_frames / fps, fps, width, height)

    def frames_at(self, timestamps: Sequence[float]) -> vzoom.Clip:
        """The frames on display at these seconds, each once, in the order in which they were asked for."""
        last = len(self.frames_NHWC) - 1
        clamped: dict[int, bool] = {}
        for seconds in timestamps:
            index = int(seconds * self.info.fps + 1e-3)  # the small number forgives rounding
            clamped[min(index, last)] = index > last  # asked for after the end: the last frame answers, and says so
        indices = list(clamped)
        return vzoom.Clip(
            frames=self.frames_NHWC[indices],
            pts_seconds=tuple(index / self.info.fps for index in indices),
            frame_indices=tuple(indices),
            clamped=tuple(clamped.values()),
        )

    def close(self) -> None:
        """Nothing to close: the array belongs to the caller."""


def main() -> None:
    args = arguments(__doc__)
    with vzoom.open_video(args.video) as reader:  # where this program's array comes from; yours comes from elsewhere
        seconds = np.arange(0, reader.info.duration_seconds, 1 / 8)
        video = ArrayVideo(reader.frames_at(seconds.tolist()).frames, fps=8.0)

    result = vzoom.load(args.model).ask(video, args.question)
    seen = result.trajectory
    print(args.question)
    print(f"answer: {result.answer} after {len(seen.calls)} zooms, {seen.num_frames} frames seen")


if __name__ == "__main__":
    main()
