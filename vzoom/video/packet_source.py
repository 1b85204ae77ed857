"""A path or URL -> an open container and its video stream, or one clear line about why not.

Whoever names a file may not be whoever made it: a file opens no other file, and no more pixels are decoded at once than
the caller allows.
"""

from __future__ import annotations

import io
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import IO
from urllib.parse import unquote, urlsplit

import av
import av.container
import av.error
import av.video.stream
from av.packet import Packet
from av.stream import Disposition

from ..config import VideoOptions
from .base import ReadBudget, VideoError, VideoReadError
from .http_file import HttpFile

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://|file:", re.IGNORECASE)

# What libav may take a file for. Left out are all that open further files (playlists, patterns of file names, discs in
# several files), devices, text that is rendered as pictures of a terminal, and sound.
_CONTAINERS = (
    "3dostr,4xm,apng,asf,asf_o,av1,avi,bink,cavsvideo,dhav,dirac,dnxhd,dv,evc,film_cpk,filmstrip,flic,flv,gif,gxf,h261,"
    "h263,h264,hevc,hnm,ipu,ivf,ivr,jpegxl_anim,kux,live_flv,lmlm4,lvf,lxf,m4v,matroska,webm,mgsts,mjpeg,mjpeg_2000,mov,"
    "mp4,m4a,3gp,3g2,mj2,mpeg,mpegts,mpegvideo,mpjpeg,mtv,mv,mvi,mxf,mxg,nsv,nut,nuv,obu,ogg,pva,r3d,rm,roq,smjpeg,smk,"
    "smush,swf,thp,ty,vc1,vc1test,vividas,vivo,vvc,wtv,xmv,yop,yuv4mpegpipe,aac,ac3,aiff,flac,mp3,wav,"
    "bmp_pipe,dpx_pipe,exr_pipe,gif_pipe,hdr_pipe,ico,j2k_pipe,jpeg_pipe,jpegls_pipe,jpegxl_pipe,pam_pipe,pbm_pipe,"
    "pgm_pipe,png_pipe,ppm_pipe,qoi_pipe,tiff_pipe,webp_pipe"
)
_PLAYLISTS = "hls,dash,concat"
_PLAYLIST_PROTOCOLS = "file,http,https,tcp,tls,crypto,data"
_PLAYLIST_STARTS = re.compile(rb"\s*(#EXTM3U|ffconcat version|<\?xml[^>]*>\s*(<!--.*?-->\s*)*<MPD|<MPD)", re.DOTALL)
_NOT_TEXT = re.compile(rb"[^\t\n\r\x1b -~\x80-\xff]")

# Every packet of these calls itself a keyframe, but its picture is painted over the one before.
_FRONT_ONLY_FORMATS = frozenset({"gif", "apng"})

_MAX_DAMAGED = 1000  # in a row, without one good packet between: the rest of the file is taken for lost


def is_url(path: str | os.PathLike[str]) -> bool:
    """Whether `path` names something on a server, not a local file."""
    return isinstance(path, str) and _URL.match(path) is not None and _local(path) is None


def file_key(path: str | os.PathLike[str]) -> tuple[str, int, int]:
    """What changes when a file does.

    Returns:
        (real path, bytes, mtime in ns); (url, 0, 0) for a URL, which has no such version.

    Raises:
        VideoError: there is no such file, or it is no regular file, or empty.
    """
    if is_url(path):
        return os.fspath(path), 0, 0
    checked, found = _checked(path)
    return os.path.realpath(checked), found.st_size, found.st_mtime_ns


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
    """An open container and the stream to decode. `reopen` starts again from the file's first byte.

    `moves` counts how often the position was lost, by a seek or by opening anew; `num_damaged` counts packets.

    Args:
        file: what to open.
        options: which stream, how many threads, and what is allowed.
        budget: what opening and reading may cost.

    Raises:
        VideoError: it cannot be opened, or holds no video, or one of larger frames than allowed.
    """

    container: av.container.InputContainer
    stream: av.video.stream.VideoStream

    def __init__(self, file: MediaFile, options: VideoOptions, budget: ReadBudget) -> None:
        self.path = file.name
        self.budget = budget
        self.num_threads = options.num_threads
        self.moves = 0
        self.num_damaged = 0
        self._target, self._options = file.target, options
        self._remote: HttpFile | None = None
        self._open()

    @property
    def format_name(self) -> str:
        """libav's name of the container."""
        return self.container.format.name

    @property
    def tick_seconds(self) -> Fraction:
        """The stream's time base."""
        assert self.stream.time_base is not None  # `_video_stream` takes no other
        return self.stream.time_base

    @property
    def front_only(self) -> bool:
        """Whether pictures are right only if all those before them were decoded, from the first on."""
        return self.format_name in _FRONT_ONLY_FORMATS

    @property
    def num_bytes(self) -> int:
        """The size of the file; 0 or less if it is not known."""
        return int(self.container.size)

    def seek(self, offset: int, *, to_byte: bool = False, any_frame: bool = False) -> bool:
        """Go to a time in ticks of the stream, or to a byte. False if libav cannot."""
        self.moves += 1
        try:
            self.container.seek(
                offset, stream=None if to_byte else self.stream, any_frame=any_frame, unsupported_byte_offset=to_byte
            )
        except av.error.FFmpegError:
            self.budget.check()
            return False
        return True

    def packets(self) -> Iterator[Packet[av.video.stream.VideoStream]]:
        """The stream's packets from the current position on; a damaged one is skipped. A seek needs a new iterator."""
        damaged = 0
        demuxed = self.container.demux(self.stream)
        while damaged < _MAX_DAMAGED:
            # No handler stands around the yield: a generator that is left unfinished ends there, at the interpreter's
            # exit perhaps, when names such as av.error are gone.
            try:
                packet = next(demuxed, None)
            except av.error.InvalidDataError:
                self.budget.spend_packet()
                damaged += 1
                self.num_damaged += 1
                demuxed = self.container.demux(self.stream)
                continue
            except (av.error.EOFError, IndexError):
                # IndexError: damage made libav find a stream that was not there at the opening, and PyAV, which flushes
                # every stream at the end of the file, does not know it.
                return
            except (av.error.FFmpegError, OSError) as error:  # OSError: from a file object of the caller's
                self.budget.check()
                raise VideoReadError(f"{self.path}: reading failed ({error.strerror})") from error
            if packet is None:
                return
            if packet.size:  # the last one is empty: libav's sign to drain
                self.budget.spend_packet()
                damaged = 0
                self.num_damaged += packet.is_corrupt
                # Elsewhere than in a transport stream the mark means that the file ends in the middle of the packet.
                if not packet.is_corrupt or self.format_name == "mpegts":
                    yield packet

    def check_size(self, width: int, height: int) -> None:
        """VideoError if frames of this size are more than the caller allows."""
        limit = self._options.max_frame_pixels
        if width * height > limit:
            raise VideoError(f"{self.path}: its frames have {width}x{height} pixels, and max_frame_pixels is {limit}")

    def leave(self) -> None:
        """Give up the position: whoever was reading has to seek before reading on."""
        self.moves += 1

    def no_frame(self) -> str:
        """Why no frame comes out of the decoder, as far as that is known."""
        codec = self.stream.codec_context
        if codec.width == 0:  # libav forgets a size that is above the limit
            return f"its frames are larger than max_frame_pixels, {self._options.max_frame_pixels}, or damaged"
        return f"no frame of its {codec.name} stream can be decoded"

    def reopen(self) -> None:
        """Go back to the first byte."""
        self.close()
        self._open()

    def abandon(self) -> None:
        """Open anew and leave the old container as it is: after a fork its threads and file are the parent's."""
        if not isinstance(self._target, str | io.BytesIO):
            raise VideoReadError(f"{self.path}: the open file is shared with the parent process; open it in the child")
        _abandoned.append((self.container, self._remote))
        self._open()

    def interrupt(self) -> None:
        """Let whoever reads, in another thread, end soon."""
        self.budget.cancel()
        if self._remote is not None:
            self._remote.interrupt()

    def close(self) -> None:
        """Release the file."""
        self.container.close()
        if self._remote is not None:
            self._remote.close()

    def _open(self) -> None:
        self.moves += 1
        self.container = self._opened()
        try:
            self.stream = _video_stream(self.container, self.path, self._options.stream)
            self.check_size(self.stream.codec_context.width, self.stream.codec_context.height)
        except VideoError:
            self.close()
            raise
        self.stream.codec_context.options = {"max_pixels": str(self._options.max_frame_pixels)}
        self.stream.codec_context.thread_count = self.num_threads
        self.stream.thread_type = "AUTO" if self.num_threads > 1 else "NONE"

    def _opened(self) -> av.container.InputContainer:
        playlists = self._options.follow_playlists
        options = {
            "format_whitelist": _CONTAINERS + ("," + _PLAYLISTS if playlists else ""),
            "protocol_whitelist": _PLAYLIST_PROTOCOLS if playlists else "file",
            "max_pixels": str(self._options.max_frame_pixels),
        }
        target: str | IO[bytes] | HttpFile = self._target
        timeout = None
        if not isinstance(target, str):
            target.seek(0)
        elif is_url(target):
            if playlists:
                # PyAV grants the time twice, for the container and for its streams; then for each packet.
                timeout = self.budget.seconds_left() / 2
            elif urlsplit(target).scheme.lower() in ("http", "https"):
                target = self._remote = HttpFile(target, self.budget)
            else:
                raise VideoError(f"{self.path}: URLs of http, https and files can be opened, not of others")
        try:
            return av.open(target, "r", metadata_errors="replace", options=options, timeout=timeout)
        except (av.error.FFmpegError, OSError) as error:
            self.budget.check()
            raise VideoError(self._why_not(error)) from error

    def _why_not(self, error: OSError | av.error.FFmpegError) -> str:
        """One line about a file that libav does not open."""
        head = self._head()
        if _PLAYLIST_STARTS.match(head) and not self._options.follow_playlists:
            return f"{self.path}: a playlist, which opens other files; follow_playlists=True allows it"
        # An argument error: libav knows the container, but it is not among `_CONTAINERS`.
        if isinstance(error, av.error.ArgumentError) and head and not _NOT_TEXT.search(head):
            return f"{self.path}: a text file, not a video"
        return f"{self.path}: not a video that can be opened ({error.strerror})"

    def _head(self) -> bytes:
        """The first bytes; none if nothing can be read."""
        opened = self._remote or self._target
        try:
            if not isinstance(opened, str):
                opened.seek(0)
                return opened.read(4096)
            if is_url(opened):
                return b""
            with open(opened, "rb") as file:
                return file.read(4096)
        except OSError:
            return b""


_abandoned: list[tuple[av.container.InputContainer, HttpFile | None]] = []


def local_path(path: str | os.PathLike[str]) -> str | None:
    """The absolute path of a local file, which a `file:` URL may name; None for any other URL."""
    name = os.fspath(path)
    if isinstance(path, str) and (unquoted := _local(path)) is not None:
        name = unquoted
    elif is_url(path):
        return None
    return os.path.abspath(name)


def _local(url: str) -> str | None:
    """The path of a `file:` URL; None for any other."""
    if url[:5].lower() != "file:":
        return None
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost"):
        raise VideoError(f"{url}: it names a file of another machine, {parts.netloc}")
    return unquote(parts.path)


def _checked(path: str | os.PathLike[str]) -> tuple[Path, os.stat_result]:
    """A local file and what the file system says of it. VideoError: it is none that can be read."""
    named = os.fspath(path)
    local = Path((_local(named) if isinstance(path, str) else None) or named)
    try:
        found = local.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise VideoError(f"{local}: no such file") from error
    except OSError as error:
        shown = str(local) if len(str(local)) < 300 else f"{str(local)[:100]}… ({len(str(local))} characters)"
        raise VideoError(f"{shown}: cannot be opened ({error.strerror})") from error
    except ValueError as error:  # a zero byte
        raise VideoError(f"{str(local)!r}: no file has such a name ({error})") from error
    if stat.S_ISDIR(found.st_mode):
        raise VideoError(
            f"{local}: a directory, not a video file; for a folder of images give FrameSequence(folder, fps=…)"
        )
    if not stat.S_ISREG(found.st_mode):
        raise VideoError(f"{local}: not a regular file (a pipe, socket or device)")
    if found.st_size == 0:
        raise VideoError(f"{local}: an empty file, not a video")
    return local, found


def _video_stream(container: av.container.InputContainer, path: str, number: int | None) -> av.video.stream.VideoStream:
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
