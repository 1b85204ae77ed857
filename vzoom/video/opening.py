"""A path or URL -> a reader of the video: `with open_video("match.mp4") as video: clip = video.frames_at([12.0])`."""

from __future__ import annotations

import os
from typing import Literal

from .base import VideoReader

Backend = Literal["auto", "pyav", "dali"]


def open_video(
    path: str | os.PathLike[str],
    *,
    backend: Backend = "auto",
    num_threads: int = 1,
    deadline_seconds: float = 300.0,
    max_packets: int = 5_000_000,
) -> VideoReader:
    """Open a video.

    mp4 and mov open at once. Other containers are read through once without decoding, to learn where frames are.

    Args:
        path: a video file, or a URL that libav understands.
        backend: "auto" is PyAV; "dali" decodes with NVIDIA DALI (extra `dali`).
        num_threads: threads that decode.
        deadline_seconds: the longest that the opening, or one call of `frames_at`, may take.
        max_packets: the most packets that the opening, or one call of `frames_at`, may read.

    Returns:
        An open reader; close it, or use it in a `with` statement.

    Raises:
        VideoError: there is no such file, it is not a video, or the backend cannot decode it.
        VideoReadError: the opening ran into `deadline_seconds` or `max_packets`.
        ValueError: an unknown backend, or a limit that is not above 0.
    """
    for name, value in (
        ("num_threads", num_threads), ("deadline_seconds", deadline_seconds), ("max_packets", max_packets),
    ):  # fmt: skip
        if not value > 0:
            raise ValueError(f"{name} must be above 0, got {value!r}")
    if backend not in ("auto", "pyav", "dali"):
        raise ValueError(f"backend must be auto, pyav or dali, got {backend!r}")
    if backend == "dali":
        from .dali import DaliReader

        return DaliReader(path, num_threads=num_threads, deadline_seconds=deadline_seconds, max_packets=max_packets)
    from .pyav import PyAVReader

    return PyAVReader(path, num_threads=num_threads, deadline_seconds=deadline_seconds, max_packets=max_packets)
