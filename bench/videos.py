"""The files of `bench_video.py`: long H.264 videos whose every frame carries its number.

`python bench/videos.py DIR` writes them all; what is there already is kept.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

FPS, BITS = 30, 17
GROUP = 250  # x264's own distance between keyframes


@dataclass(frozen=True)
class Kind:
    """One size and length. Its files are NAME.mp4 and NAME.mkv, of the same packets."""

    name: str
    width: int
    height: int
    seconds: int


KINDS = {
    kind.name: kind
    for kind in (
        Kind("360p-60min", 640, 360, 3600),
        Kind("1080p-30min", 1920, 1080, 1800),
        Kind("360p-1min", 640, 360, 60),
        Kind("1080p-1min", 1920, 1080, 60),
    )
}


def _blocks(kind: Kind) -> list[tuple[slice, slice]]:
    """Where each bit of a frame's number is painted."""
    side, gap = kind.height // 12, kind.width // (BITS + 1)
    return [(slice(side, 2 * side), slice(gap // 2 + bit * gap, gap // 2 + bit * gap + side)) for bit in range(BITS)]


def read_number(image_HWC: np.ndarray, kind: Kind) -> int:
    """The number that is painted into a frame, of any size: its blocks scale with it."""
    height, width = image_HWC.shape[:2]
    number = 0
    for bit, (rows, columns) in enumerate(_blocks(kind)):
        y = (rows.start + rows.stop) / 2 * height / kind.height
        x = (columns.start + columns.stop) / 2 * width / kind.width
        number |= int(image_HWC[int(y), int(x)].mean() > 127) << bit
    return number


def _picture(number: int, kind: Kind, ramp: np.ndarray) -> av.VideoFrame:
    """A moving ramp with some texture, and the number on it. Painted as YUV: a conversion would double the time."""
    luma = np.roll(ramp, (number, -3 * number), (0, 1))
    for bit, block in enumerate(_blocks(kind)):
        luma[block] = 235 if number >> bit & 1 else 16
    chroma = np.full((kind.height // 2, kind.width), 108 + number // 8 % 40, np.uint8)
    frame = av.VideoFrame.from_ndarray(np.concatenate([luma, chroma]), format="yuv420p")
    frame.pts, frame.time_base = number, Fraction(1, FPS)
    return frame


def _ramp(kind: Kind) -> np.ndarray:
    x, y = np.arange(kind.width)[None, :], np.arange(kind.height)[:, None]
    waves = 60 * np.sin(x * 2 * np.pi * 8 / kind.width) + 40 * np.sin(y * 2 * np.pi * 5 / kind.height)
    noise = np.random.default_rng(0).normal(0, 6, size=(kind.height, kind.width))
    return np.clip(126 + waves + noise, 16, 235).astype(np.uint8)


def make(kind: Kind, folder: Path) -> dict[str, Path]:
    """Render what is missing of a kind.

    Returns:
        The files by container: "mp4" and "mkv".
    """
    made = {suffix: folder / f"{kind.name}.{suffix}" for suffix in ("mp4", "mkv")}
    if not made["mp4"].exists():
        part, ramp = folder / f"{kind.name}.part.mp4", _ramp(kind)
        with av.open(str(part), "w") as out:
            options = {"preset": "veryfast", "g": str(GROUP), "crf": "28"}
            stream = out.add_stream("libx264", rate=FPS, options=options)
            stream.width, stream.height, stream.pix_fmt = kind.width, kind.height, "yuv420p"
            stream.codec_context.thread_count = 1
            for number in range(kind.seconds * FPS):
                out.mux(stream.encode(_picture(number, kind, ramp)))
            out.mux(stream.encode(None))
        part.rename(made["mp4"])
    if not made["mkv"].exists():
        part = folder / f"{kind.name}.part.mkv"
        with av.open(str(made["mp4"])) as source, av.open(str(part), "w") as out:
            copy = out.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(source.streams.video[0]):
                if packet.dts is not None:
                    packet.stream = copy
                    out.mux(packet)
        part.rename(made["mkv"])
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=["360p-60min", "1080p-30min"])
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    for name in args.kinds:
        print(*make(KINDS[name], args.folder).values(), sep="\n")


if __name__ == "__main__":
    main()
