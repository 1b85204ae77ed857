"""A decoded frame -> upright RGB, in the colours that the stream says it has.

Not promised: HDR. PQ and HLG pictures (10 bit, BT.2020) come out with the right matrix but without tone mapping, so
they look flat; wide-gamut primaries are not converted, non-square pixels are not stretched, fields not interleaved
away. A stream that names no matrix is read as BT.601, as swscale and most readers do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np
from av.sidedata.sidedata import SideData, Type
from av.video.frame import VideoFrame


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
    matrix = cast("Mapping[str, SideData]", frame.side_data).get(Type.DISPLAYMATRIX.name)
    if matrix is None:
        return Orientation()
    a, b, _, c, d = np.frombuffer(bytes(matrix), dtype=np.int32)[:5].tolist()
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return Orientation(mirror_columns=a < 0, mirror_rows=d < 0)
    return Orientation(transpose=True, mirror_columns=c < 0, mirror_rows=b < 0)


def to_rgb(frame: VideoFrame, *, width: int, height: int, turned: Orientation) -> np.ndarray:
    """uint8 [H, W, 3]. `width`, `height`: the stored size; a frame of another size (the stream changed) is scaled."""
    image = frame.to_ndarray(format="rgb24", width=width, height=height, threads=1)
    return turned.upright(np.asarray(image, dtype=np.uint8))
