"""A path or URL -> a reader of the video: `with open_video("match.mp4") as video: clip = video.frames_at([12.0])`."""

from __future__ import annotations

import os
from typing import Any, Literal

from .base import ReadLimits, VideoReader

Backend = Literal["auto", "pyav", "dali"]
SeekMode = Literal["exact", "approximate"]


def open_video(
    path: str | os.PathLike[str],
    *,
    backend: Backend = "auto",
    seek_mode: SeekMode = "exact",
    **limits: Any,
) -> VideoReader:
    """Open a video.

    mp4 and mov open at once; so do Matroska files with cues and large MPEG-TS files, if samples all over the file show
    a constant rate. Other containers are read through once without decoding, to learn where frames are.

    Args:
        path: a video file, or a URL of http, https or a file.
        backend: "auto" is PyAV; "dali" decodes with NVIDIA DALI (extra `dali`).
        seek_mode: "exact" knows every frame's time. "approximate" believes what the header says about length and rate,
            so that any container opens at once; frames are still those on display.
        limits: fields of `ReadLimits`: num_threads, deadline_seconds, max_packets, max_frame_pixels, follow_playlists.

    Returns:
        An open reader; close it, or use it in a `with` statement.

    Raises:
        VideoError: there is no such file, it is not a video, its frames are too large, or the backend cannot decode it.
        VideoReadError: the opening ran into `deadline_seconds` or `max_packets`.
        ValueError: an unknown backend or mode, or a limit that is not above 0.
    """
    checked = ReadLimits(**limits)
    if backend not in ("auto", "pyav", "dali"):
        raise ValueError(f"backend must be auto, pyav or dali, got {backend!r}")
    if seek_mode not in ("exact", "approximate"):
        raise ValueError(f"seek_mode must be exact or approximate, got {seek_mode!r}")
    if backend == "dali":
        from .dali import DaliReader

        return DaliReader(path, checked, approximate=seek_mode == "approximate")
    from .pyav import PyAVReader

    return PyAVReader(path, checked, approximate=seek_mode == "approximate")
