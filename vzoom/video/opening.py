"""Any video -> a reader of it: `with open_video("match.mp4") as video: clip = video.frames_at([12.0])`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..config import VideoOptions
from .base import FrameSource, VideoError, VideoReader
from .frame_sequence import FrameSequence, SequenceReader
from .sources import VideoInput, media_file, video_name


def open_video(video: VideoInput, options: VideoOptions | None = None, **changes: Any) -> VideoReader:
    """Open a video.

    mp4 and mov open at once; so do Matroska files with cues and large MPEG-TS files, if samples all over the file show
    a constant rate. Other containers are read through once without decoding, to learn where frames are.

    Args:
        video: a path, a URL of http, https or a file, the bytes of a file, a file opened with "rb" (one that cannot
            seek, such as a pipe, is copied first), or a `FrameSequence`.
        options: how it is read; see `VideoOptions` for the defaults.
        changes: fields of `VideoOptions` that replace those of `options`.

    Returns:
        An open reader; close it, or use it in a `with` statement. A file that you opened stays yours to close.

    Raises:
        VideoError: there is no such file, it is not a video, its frames are too large, or the backend cannot decode it.
        VideoReadError: the opening ran into `deadline_seconds` or `max_packets`.
        ValueError: an option is out of range.
        TypeError: an option is unknown.
    """
    chosen = replace(options or VideoOptions(), **changes)
    if isinstance(video, FrameSequence):
        return SequenceReader(video, chosen)
    if isinstance(video, FrameSource):
        raise VideoError(f"{video_name(video)}: this {type(video).__name__} is open already: use it as it is")
    file = media_file(video)
    if chosen.backend == "dali" or (chosen.backend == "auto" and chosen.device != "cpu"):
        from .dali import DaliReader

        return DaliReader(file, chosen)
    from .pyav import PyAVReader

    return PyAVReader(file, chosen)
