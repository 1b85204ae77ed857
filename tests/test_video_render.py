"""Small real video files whose every frame carries its own number, and a check that the number survives encoding.

The other video tests import the helpers: a frame that comes back can say which one it is, so that no decoder has to
be believed about times.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

BITS = 12


def painted(number: int, *, width: int = 128, height: int = 96) -> np.ndarray:
    """A frame [height, width, 3] with `number` in binary: two rows of six black or white blocks, over a moving ramp."""
    ramp = (np.arange(width)[None, :] * 2 + np.arange(height)[:, None] + number * 3) % 256
    frame = np.repeat(ramp[:, :, None], 3, axis=2).astype(np.uint8)
    for bit in range(BITS):
        frame[_block(bit, height=height, width=width)] = 235 if number >> bit & 1 else 20
    return frame


def read_number(frame: np.ndarray) -> int:
    """The number painted into a decoded frame [height, width, 3]."""
    height, width = frame.shape[:2]
    return sum(
        int(frame[_block(bit, height=height, width=width, margin=0.25)].mean() > 127) << bit for bit in range(BITS)
    )


def _block(bit: int, *, height: int, width: int, margin: float = 0.0) -> tuple[slice, slice]:
    """Block `bit` of a frame; `margin` shrinks it on every side by that fraction of a block."""
    row, column = divmod(bit, 6)
    block_height, block_width = height / 4, width / 6
    top, left = (row + margin) * block_height, (column + margin) * block_width
    return (
        slice(int(top), int(top + block_height * (1 - 2 * margin))),
        slice(int(left), int(left + block_width * (1 - 2 * margin))),
    )


def render(
    path: Path,
    *,
    pts: Sequence[int],
    time_base: Fraction = Fraction(1, 30),
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    width: int = 128,
    height: int = 96,
    options: dict[str, str] | None = None,
    rate: int | Fraction = 30,
    audio: bool = False,
    container_options: dict[str, str] | None = None,
    metadata: dict[str, str] | None = None,
) -> Path:
    """Write frames numbered 0, 1, … at `pts` (in `time_base`); the container follows the file's suffix."""
    with av.open(str(path), "w", container_options=container_options or {}) as out:
        out.metadata.update(metadata or {})
        stream = out.add_stream(codec, rate=rate, options=options or {})
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.codec_context.time_base = time_base
        stream.codec_context.thread_count = 1
        sound = out.add_stream("aac", rate=16000, layout="mono") if audio else None
        for number, at in enumerate(pts):
            frame = av.VideoFrame.from_ndarray(painted(number, width=width, height=height), format="rgb24")
            frame.pts, frame.time_base = at, time_base
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
        if sound is not None:  # a second longer than the pictures: its end must not become the video's end
            seconds = float((max(pts) - min(pts)) * time_base) + 1
            for k in range(int(seconds * 16000 / 1024)):
                silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
                silence.sample_rate, silence.pts, silence.time_base = 16000, k * 1024, Fraction(1, 16000)
                out.mux(sound.encode(silence))
            out.mux(sound.encode(None))
    return path


def decode_all(path: Path) -> list[tuple[float, np.ndarray]]:
    """Every frame in display order as (seconds from the first one, rgb [H, W, 3]): the truth of the tests."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        frames = list(container.decode(stream))
    first = frames[0].pts
    return [(float((f.pts - first) * f.time_base), f.to_ndarray(format="rgb24", threads=1)) for f in frames]


@pytest.mark.parametrize("number", [0, 1, 2, 1365, 2730, 4095])
def test_number_survives_painting(number: int) -> None:
    assert read_number(painted(number)) == number


def test_number_survives_h264(tmp_path: Path) -> None:
    path = render(tmp_path / "a.mp4", pts=range(70), options={"crf": "30"})
    assert [read_number(image) for _, image in decode_all(path)] == list(range(70))
