"""What a video may be: a path, a URL, bytes, an open file, or frames of your own; and what caches know each by."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tempfile
from collections.abc import Hashable
from typing import IO, Any, TypeAlias

from .base import FrameSource, VideoError, VideoReader
from .frame_sequence import FrameSequence
from .packet_source import MediaFile, file_key, local_path

VideoInput: TypeAlias = "str | os.PathLike[str] | bytes | IO[bytes] | FrameSequence | FrameSource"

_IN_MEMORY_BYTES = 64 << 20  # of a pipe; what is longer goes to a temporary file


def video_key(video: VideoInput) -> Hashable:
    """What a cache knows a video by: it changes when the video does.

    A file is known by its path, size and time of change, bytes by their hash, and an object by being that object: the
    reader that a cache keeps holds it, so that no other can take its place meanwhile.

    Raises:
        VideoError: there is no such file.
    """
    if isinstance(video, str | os.PathLike):
        return file_key(video)
    if isinstance(video, bytes):
        return "bytes", len(video), hashlib.blake2b(video, digest_size=16).digest()
    if isinstance(video, FrameSequence):
        return video.key()
    return "object", id(video)


def video_name(video: VideoInput) -> str:
    """What messages, results and reports call it."""
    if isinstance(video, str | os.PathLike):
        return os.fspath(video)
    if isinstance(video, bytes):
        return f"<{len(video)} bytes>"
    if isinstance(video, FrameSequence):
        return video.name
    if isinstance(video, FrameSource):
        return video.info.path
    name = getattr(video, "name", None)
    return name if isinstance(name, str) else f"<{type(video).__name__}>"


def media_file(video: str | os.PathLike[str] | bytes | IO[bytes]) -> MediaFile:
    """What libav opens.

    Raises:
        VideoError: there is no such file, or nothing can be read from it.
    """
    name = video_name(video)
    if isinstance(video, str | os.PathLike):
        key = file_key(video)
        # Absolute, so that libav reads no protocol into a name such as "a:b.mp4".
        return MediaFile(name, local_path(video) or os.fspath(video), key)
    if isinstance(video, bytes):
        if not video:
            raise VideoError("no bytes, not a video")
        digest = hashlib.blake2b(video, digest_size=16).hexdigest()
        return MediaFile(name, io.BytesIO(video), (f"bytes {digest}", len(video), 0))
    if not hasattr(video, "read"):
        raise VideoError(
            f"{type(video).__name__} is not a video: give a path, a URL, bytes, a file opened with 'rb', "
            "a FrameSequence, or an object with info, frames_at and close"
        )
    target = seekable(video)
    return MediaFile(name, target, (name, 0, 0), is_copy=target is not video)


def seekable(file: IO[Any]) -> IO[bytes]:
    """The file itself if it can seek, else all that can be read from it, in memory or in a temporary file.

    Raises:
        VideoError: it is opened as text.
    """
    if hasattr(file, "encoding"):
        raise VideoError(f"{video_name(file)}: opened as text; open it with 'rb'")
    if file.seekable():
        return file
    copy = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY_BYTES)  # noqa: SIM115  the reader closes it
    shutil.copyfileobj(file, copy, 1 << 20)
    return copy


def reader_key(reader: VideoReader) -> Hashable:
    """What frames of an open reader may be kept by. Only files and bytes have a version that another reader shares."""
    name, size, _ = reader.file_key
    return reader.file_key if size else (name, reader.serial)
