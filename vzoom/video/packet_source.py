"""A path or URL -> an open container and its video stream, or one clear line about why not."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import av
import av.container
import av.error
import av.video.stream
from av.packet import Packet
from av.stream import Disposition

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


class PacketSource:
    """An open container and the stream to decode. `reopen` starts again from the file's first byte."""

    container: av.container.InputContainer
    stream: av.video.stream.VideoStream

    def __init__(self, path: str | os.PathLike[str], *, num_threads: int, timeout_seconds: float) -> None:
        self.path = os.fspath(path)
        self.num_threads = num_threads
        # Absolute, so that libav reads no protocol into a name such as "a:b.mp4".
        self._name = self.path if is_url(path) else os.path.abspath(_checked(path))
        self._timeout_seconds = timeout_seconds if is_url(path) else None
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
        try:
            self.container = av.open(self._name, timeout=self._timeout_seconds)
        except av.error.FFmpegError as error:
            raise VideoError(f"{self.path}: not a video that can be opened ({error.strerror})") from error
        try:
            self.stream = _video_stream(self.container, self.path)
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
        raise VideoError(f"{local}: a directory, not a video file")
    if local.stat().st_size == 0:
        raise VideoError(f"{local}: an empty file, not a video")
    return local


def _video_stream(container: av.container.InputContainer, path: str) -> av.video.stream.VideoStream:
    if container.format.name in _NOT_VIDEO_FORMATS:
        raise VideoError(f"{path}: a text file, not a video")
    # The cover picture of a song is a video stream too, of one frame.
    moving = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not moving:
        kinds = ", ".join(sorted({s.type for s in container.streams})) or "nothing"
        raise VideoError(f"{path}: no video stream in it (it holds: {kinds})")
    default = [s for s in moving if s.disposition & Disposition.default]
    stream = (default or moving)[0]
    if stream.codec_context is None:
        raise VideoError(f"{path}: no decoder for its video stream")
    if stream.time_base is None:
        raise VideoError(f"{path}: its video stream has no time base")
    return stream
