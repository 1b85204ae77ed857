"""A path or URL -> an open container and its video stream, or one clear line about why not."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import av
import av.container
import av.error
import av.video.stream
from av.packet import Packet
from av.stream import Disposition

from ..config import VideoOptions
from .base import ReadBudget, VideoError, VideoReadError

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://|file:")
# libav renders plain text as pictures of a terminal: a text file would open as a video.
_NOT_VIDEO_FORMATS = frozenset({"tty", "bin", "idf", "xbin", "adf"})

_MAX_DAMAGED = 1000  # in a row, without one good packet between: the rest of the file is taken for lost


def is_url(path: str | os.PathLike[str]) -> bool:
    """Whether libav opens `path` as it is, not as a local file."""
    return isinstance(path, str) and _URL.match(path) is not None


def file_key(path: str | os.PathLike[str]) -> tuple[str, int, int]:
    """What changes when a file does.

    Returns:
        (real path, bytes, mtime in ns); (url, 0, 0) for a URL, which has no such version.

    Raises:
        VideoError: there is no such file, or it is a directory or empty.
    """
    if is_url(path):
        return os.fspath(path), 0, 0
    checked = _checked(path)
    stat = checked.stat()
    return os.path.realpath(checked), stat.st_size, stat.st_mtime_ns


@dataclass(frozen=True)
class MediaFile:
    """What libav opens.

    Attributes:
        name: in messages and results.
        target: an absolute path, a URL, or an open file that can seek.
        key: as `file_key`.
        is_copy: whether `target` is a copy that nobody else holds, to be closed with the reader.
    """

    name: str
    target: str | IO[bytes]
    key: tuple[str, int, int]
    is_copy: bool = False

    def close(self) -> None:
        """Release a copy; a file of the caller's own stays open."""
        if self.is_copy and not isinstance(self.target, str):
            self.target.close()


class PacketSource:
    """An open container and the stream to decode. `reopen` starts again from the file's first byte."""

    container: av.container.InputContainer
    stream: av.video.stream.VideoStream

    def __init__(self, file: MediaFile, options: VideoOptions) -> None:
        self.path = file.name
        self.num_threads = options.num_threads
        self._target, self._number = file.target, options.stream
        is_remote = isinstance(file.target, str) and is_url(file.target)
        self._timeout_seconds = options.deadline_seconds if is_remote else None
        self._open()

    def packets(self, budget: ReadBudget) -> Iterator[Packet[av.video.stream.VideoStream]]:
        """The stream's packets from the current position on; a damaged one is skipped. A seek needs a new iterator."""
        damaged = 0
        demuxed = self.container.demux(self.stream)
        while damaged < _MAX_DAMAGED:
            # No handler stands around the yield: a generator that is left unfinished ends there, at the interpreter's
            # exit perhaps, when names such as av.error are gone.
            try:
                packet = next(demuxed, None)
            except av.error.InvalidDataError:
                budget.spend_packet()
                damaged += 1
                demuxed = self.container.demux(self.stream)
                continue
            except av.error.EOFError:
                return
            except av.error.FFmpegError as error:
                raise VideoReadError(f"{self.path}: reading failed ({error.strerror})") from error
            if packet is None:
                return
            if packet.size:  # the last one is empty: libav's sign to drain
                budget.spend_packet()
                damaged = 0
                yield packet

    def reopen(self) -> None:
        self.close()
        self._open()

    def close(self) -> None:
        self.container.close()

    def _open(self) -> None:
        if not isinstance(self._target, str):
            self._target.seek(0)
        try:
            self.container = av.open(self._target, "r", timeout=self._timeout_seconds)
        except av.error.FFmpegError as error:
            raise VideoError(f"{self.path}: not a video that can be opened ({error.strerror})") from error
        try:
            self.stream = _video_stream(self.container, self.path, self._number)
        except VideoError:
            self.container.close()
            raise
        self.stream.codec_context.thread_count = self.num_threads
        self.stream.thread_type = "AUTO" if self.num_threads > 1 else "NONE"


def _checked(path: str | os.PathLike[str]) -> Path:
    local = Path(path)
    if not local.exists():
        raise VideoError(f"{local}: no such file")
    if local.is_dir():
        raise VideoError(
            f"{local}: a directory, not a video file; for a folder of images give FrameSequence(folder, fps=…)"
        )
    if local.stat().st_size == 0:
        raise VideoError(f"{local}: an empty file, not a video")
    return local


def _video_stream(container: av.container.InputContainer, path: str, number: int | None) -> av.video.stream.VideoStream:
    if container.format.name in _NOT_VIDEO_FORMATS:
        raise VideoError(f"{path}: a text file, not a video")
    # The cover picture of a song is a video stream too, of one frame.
    moving = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not moving:
        kinds = ", ".join(sorted({s.type for s in container.streams})) or "nothing"
        raise VideoError(f"{path}: no video stream in it (it holds: {kinds})")
    if number is None:
        # The largest; among equals the one that the file calls the default, else the first.
        stream = max(moving, key=lambda s: (_pixels(s), bool(s.disposition & Disposition.default), -s.index))
    elif number not in [s.index for s in moving]:
        there = ", ".join(f"{s.index} ({_size(s)})" for s in moving)
        raise VideoError(f"{path}: no video stream {number} in it; there are {there}")
    else:
        stream = next(s for s in moving if s.index == number)
    if stream.codec_context is None:
        raise VideoError(f"{path}: no decoder for its video stream")
    if stream.time_base is None:
        raise VideoError(f"{path}: its video stream has no time base")
    return stream


def _pixels(stream: av.video.stream.VideoStream) -> int:
    return stream.codec_context.width * stream.codec_context.height if stream.codec_context is not None else 0


def _size(stream: av.video.stream.VideoStream) -> str:
    codec = stream.codec_context
    return f"{codec.name} {codec.width}x{codec.height}" if codec is not None else "no decoder"
