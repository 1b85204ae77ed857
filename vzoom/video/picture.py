"""A decoded frame -> upright RGB with square pixels, in the colours that the stream says it has.

The colour matrix and the range are those of the stream; one that names no matrix is read as BT.601, as swscale and most
readers do. Pixels that are not square are stretched, so that no line is lost; interlaced frames are shown whole, made
of the lines of their first field; what is transparent is black; HDR is shown as a screen of standard range would.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import cast

import numpy as np
from av.filter import Graph
from av.sidedata.sidedata import SideData, Type
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from .tone_map import DEFAULT_PEAK_NITS, HLG, PQ, tone_mapped

_FULL_RANGE = 2  # AVColorRange
_WHOLE_BYTES = 12 << 20  # smaller pictures are resized faster as a whole
_STRIP_BYTES = 1 << 20  # it stays in the CPU's cache
# libav converts each line of these by itself, if their height is even: then a strip is as good as the whole.
_STRIP_FORMATS = frozenset({"yuv420p", "yuvj420p"})
_MAX_STRETCH = 8  # a file that asks for more is wrong about its pixels


@dataclass(frozen=True)
class Orientation:
    """What to do to a stored picture to see it upright: transpose first, then mirror along the new axes."""

    transpose: bool = False
    mirror_columns: bool = False
    mirror_rows: bool = False

    def upright(self, image: np.ndarray) -> np.ndarray:
        """[H, W, 3] -> a contiguous [H, W, 3] or [W, H, 3]."""
        if self.transpose:
            image = image.transpose(1, 0, 2)
        if self.mirror_columns:
            image = image[:, ::-1]
        if self.mirror_rows:
            image = image[::-1]
        return np.ascontiguousarray(image)

    def size(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) as displayed."""
        return (height, width) if self.transpose else (width, height)


def orientation(frame: VideoFrame) -> Orientation:
    """The rotation or mirroring that the file asks for (its display matrix), to the nearest quarter turn.

    The matrix maps stored (x, y) to displayed (a x + c y, b x + d y), 16.16 fixed point, rows of three.
    """
    matrix = _side_data(frame, Type.DISPLAYMATRIX)
    if matrix is None:
        return Orientation()
    a, b, _, c, d = np.frombuffer(matrix, dtype=np.int32)[:5].tolist()
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return Orientation(mirror_columns=a < 0, mirror_rows=d < 0)
    return Orientation(transpose=True, mirror_columns=c < 0, mirror_rows=b < 0)


@dataclass(frozen=True)
class PictureRules:
    """How the frames of a stream become pictures. `rules_of` makes it.

    Attributes:
        width, height: of a picture before it is turned, in pixels; a frame of another size is scaled to it.
        turned: what makes it upright.
        colorspace: AVColorSpace, the stream's matrix.
        transfer: `PQ` or `HLG` of an HDR stream, else 0.
        peak_nits: the brightest light of an HDR stream, in cd/m².
        notes: what is changed in the pictures, one line each.
        stored_size: (width, height) of a frame as it is decoded.
        pixel_format: libav's name of how it is stored.
        full_range: whether its levels go from 0 to 255, not from 16 to 235.
        special: what is done to its pictures beyond the matrix and turns, in a few words each.
    """

    width: int
    height: int
    turned: Orientation
    colorspace: int
    transfer: int
    peak_nits: float
    notes: tuple[str, ...]
    stored_size: tuple[int, int]
    pixel_format: str
    full_range: bool
    special: tuple[str, ...]

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) as displayed."""
        return self.turned.size(self.width, self.height)

    def rgb(self, frame: VideoFrame) -> np.ndarray:
        """uint8 [H, W, 3], upright."""
        if frame.interlaced_frame:
            frame = _deinterlaced(frame)
        has_alpha = _has_alpha(frame)
        layout = "rgb48" if self.transfer else "rgba" if has_alpha else "rgb24"
        stretched = (frame.width, frame.height) != (self.width, self.height)
        converted = frame.reformat(
            format=_NATIVE.get(layout, layout),
            width=self.width,
            height=self.height,
            interpolation="BICUBIC" if stretched else None,
            threads=1,
        )
        image = _pixels(converted, np.uint16 if self.transfer else np.uint8, channels=4 if layout == "rgba" else 3)
        if self.transfer:
            image = tone_mapped(image, transfer=self.transfer, peak_nits=self.peak_nits)
        elif has_alpha:
            image = _on_black(image)
        return self.turned.upright(np.asarray(image, dtype=np.uint8))

    def strips(self, frame: VideoFrame) -> Iterator[np.ndarray]:
        """`rgb` in strips from its top to its bottom, each used before the next; in one if small or not to be cut.

        A picture of 4K takes 25 MB as RGB.
        """
        rows = _STRIP_BYTES // (3 * frame.width) // 2 * 2
        whole = frame.interlaced_frame or self.transfer or (frame.width, frame.height) != (self.width, self.height)
        if (
            whole
            or self.turned != Orientation()
            or frame.format.name not in _STRIP_FORMATS
            or frame.height % 2
            or 3 * frame.width * frame.height < _WHOLE_BYTES
            or not 0 < rows < frame.height
        ):
            yield self.rgb(frame)
            return
        graph = Graph()
        source = graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base or Fraction(1)
        )
        crop = graph.add("crop", f"w=iw:h={rows}:x=0:y=n*{rows}")  # the last strip reaches into the one before
        sink = graph.add("buffersink")
        source.link_to(crop)
        crop.link_to(sink)
        graph.configure()
        for top in range(0, frame.height, rows):
            source.push(frame)
            strip = cast("VideoFrame", sink.pull()).reformat(format="rgb24", threads=1)
            yield _pixels(strip, np.uint8, channels=3)[-min(rows, frame.height - top) :]


_NATIVE = {"rgb48": "rgb48" + ("le" if sys.byteorder == "little" else "be")}


def rules_of(stream: VideoStream, frame: VideoFrame) -> PictureRules:
    """The rules of a stream, from its header and its first frame."""
    notes: list[str] = []
    aspect = stream.sample_aspect_ratio or Fraction(1)
    width, height = frame.width, frame.height
    if not 1 / _MAX_STRETCH <= aspect <= _MAX_STRETCH:
        notes.append(f"the file says that its pixels are {aspect} times as wide as high; they are taken for square")
    elif aspect > 1:
        width = round(width * aspect)
    elif aspect < 1:
        height = round(height / aspect)
    if (width, height) != (frame.width, frame.height):
        notes.append(f"its pixels are not square: {frame.width}x{frame.height} is stretched to {width}x{height}")
    transfer = int(frame.color_trc)
    if transfer in (PQ, HLG):
        notes.append(f"HDR ({'PQ' if transfer == PQ else 'HLG'}) is shown as a screen of standard range would")
    else:
        transfer = 0
    if frame.interlaced_frame:
        notes.append("it is interlaced: each frame is made of the lines of its first field")
    peak = _peak_nits(frame) if transfer == PQ else DEFAULT_PEAK_NITS
    stretched = (width, height) != (frame.width, frame.height)
    special = {
        "pixels that are not square": stretched,
        "HDR": transfer != 0,
        "interlaced": bool(frame.interlaced_frame),
        "transparent": _has_alpha(frame),
    }
    return PictureRules(
        width,
        height,
        orientation(frame),
        int(frame.colorspace),
        transfer,
        peak,
        tuple(notes),
        stored_size=(frame.width, frame.height),
        pixel_format=frame.format.name,
        full_range=int(frame.color_range) == _FULL_RANGE or frame.format.name.startswith("yuvj"),
        special=tuple(name for name, is_so in special.items() if is_so),
    )


def _pixels(frame: VideoFrame, dtype: type[np.generic], *, channels: int) -> np.ndarray:
    """[H, W, channels] of a packed frame, without a copy: a picture of 4K has 25 MB. The frame lives as long as it."""
    plane = frame.planes[0]
    rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)[: frame.height]
    used = rows[:, : frame.width * channels * np.dtype(dtype).itemsize]
    return np.ascontiguousarray(used).view(dtype).reshape(frame.height, frame.width, channels)


def _has_alpha(frame: VideoFrame) -> bool:
    return any(component.is_alpha for component in frame.format.components)


def _peak_nits(frame: VideoFrame) -> float:
    """The brightest light that the file says it has: of its content, else of the screen that it was made on."""
    level = _side_data(frame, Type.CONTENT_LIGHT_LEVEL)
    if level is not None and 100 <= (most := struct.unpack_from("=I", level)[0]) <= 10000:
        return float(most)
    mastering = _side_data(frame, Type.MASTERING_DISPLAY_METADATA)
    if mastering is not None:
        # Ten rationals before it: primaries, white point, darkest. Flags follow: has_primaries, has_luminance.
        numerator, denominator, _, has_luminance = struct.unpack_from("=iiii", mastering, 72)
        if has_luminance and denominator and 100 <= numerator / denominator <= 10000:
            return float(numerator / denominator)
    return DEFAULT_PEAK_NITS


def _side_data(frame: VideoFrame, kind: Type) -> bytes | None:
    found = cast("Mapping[str, SideData]", frame.side_data).get(kind.name)
    return None if found is None else bytes(found)


def _deinterlaced(frame: VideoFrame) -> VideoFrame:
    """The first field, its missing lines drawn along the edges of those around them. It needs no other frame."""
    graph = Graph()
    time_base = frame.time_base or Fraction(1)
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=time_base)
    filter_ = graph.add("estdif", "mode=frame:deint=all")
    sink = graph.add("buffersink")
    source.link_to(filter_)
    filter_.link_to(sink)
    graph.configure()
    source.push(frame)
    source.push(None)
    return cast("VideoFrame", sink.pull())


def _on_black(image_HW4: np.ndarray) -> np.ndarray:
    """RGBA -> RGB over black, rounded to the nearest level."""
    colour, alpha = image_HW4[:, :, :3].astype(np.uint16), image_HW4[:, :, 3:]
    return ((colour * alpha + 127) // 255).astype(np.uint8)
