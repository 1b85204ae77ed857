"""A synthetic video as a real H.264 MP4 file."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

from .draw import Painter
from .spec import SyntheticVideo

_KEYFRAME_SECONDS = 4


def render(video: SyntheticVideo, path: str | Path) -> Path:
    """Draw and encode a video: H.264 4:2:0 in MP4, constant frame rate, first frame at 0 s.

    The file appears when it is whole: later runs trust a file that is there, so a stop must not leave a part of one.

    Args:
        video: what to draw.
        path: of the file, .mp4.

    Returns:
        `path`.
    """
    import av

    config, path = video.config, Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    painter = Painter(video)
    try:
        with av.open(str(part), "w", format="mp4") as container:
            # The same spec gives the same bytes: one thread, and no macroblock tree, whose sums vary between runs.
            options = {"crf": "18", "preset": "veryfast", "threads": "1", "bf": "2", "x264-params": "mbtree=0"}
            stream = container.add_stream("libx264", rate=Fraction(config.fps), options=options)
            stream.width = stream.height = config.frame_size
            stream.pix_fmt = "yuv420p"
            stream.codec_context.gop_size = _KEYFRAME_SECONDS * config.fps
            for index in range(video.num_frames):
                frame = av.VideoFrame.from_ndarray(painter.frame(index), format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path
