"""Videos of every kind that gave a reader trouble, each a second to render; every frame has its number painted in.

`FILES` are good ones: what libav shows when it decodes one from the front is the truth about it. `REFUSED` are those
that nobody can read rightly, with what the error says. `tests/test_video_torture.py` reads them, `tests/fuzz/videos.py`
damages them.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from test_video_render import painted, read_number, render

_GAPS = random.Random(0)
UNEVEN = list(itertools.accumulate((_GAPS.choice([1, 1, 2, 5, 17, 1]) for _ in range(99)), initial=0))
# A screen is recorded when it changes: 3 frames in one second, then nothing for long. 0.54 frames a second on average.
RECORDING = [0, 4000, 9000, 9200, 9700, 17000, 21000, 30000, 30033, 30066, 41000, 55000, 55500]
_MS = Fraction(1, 1000)
_VP9 = {"codec": "libvpx-vp9", "options": {"g": "25", "deadline": "realtime", "cpu-used": "8"}}
_VP8 = {"codec": "libvpx", "options": {"g": "25", "deadline": "realtime", "cpu-used": "8"}}
_HIDDEN = {"auto-alt-ref": "1", "lag-in-frames": "16", "g": "50", "cpu-used": "5", "deadline": "good"}
_OPEN_GOP = {"x264-params": "keyint=24:open-gop=1:bframes=3"}
_REFRESH = {"x264-params": "intra-refresh=1:keyint=25:bframes=0"}
_HEVC = "keyint=24:log-level=none"

Maker = Callable[[Path], object]


def _made(**how: Any) -> Maker:
    return lambda path: render(path, **how)


def _with_gap(seconds: int) -> list[int]:
    """30 frames a second with a gap, in thirtieths."""
    return [*range(45), *range(45 + 30 * seconds, 90 + 30 * seconds)]


def _cut(fraction: float, **how: Any) -> Maker:
    """A file that ends too early."""

    def make(path: Path) -> None:
        whole = render(path.with_name(f"whole_{path.name}"), **how)
        path.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * fraction)])

    return make


def remux(source: Path, path: Path, keep: Callable[[int, Any], bool] = lambda number, packet: True) -> Path:
    """Copy the packets of a video that `keep(number, packet)` likes into another container."""
    with av.open(str(source)) as container, av.open(str(path), "w") as out:
        video = container.streams.video[0]
        stream = out.add_stream_from_template(video)
        for number, packet in enumerate(p for p in container.demux(video) if p.size):
            if keep(number, packet):
                packet.stream = stream
                out.mux(packet)
    return path


def repeated(source: Path, path: Path, *, times: int) -> Path:
    """A long video from a short one at 30 frames a second: its packets again and again, as one recording."""
    with av.open(str(path), "w") as out:
        stream = None
        for turn in range(times):
            with av.open(str(source)) as container:
                video = container.streams.video[0]
                packets = [packet for packet in container.demux(video) if packet.size]
                if stream is None:
                    stream = out.add_stream_from_template(video)
                assert video.time_base is not None
                shift = round(turn * Fraction(len(packets), 30) / video.time_base)
                for packet in packets:
                    assert packet.pts is not None
                    packet.pts += shift
                    packet.dts = None if packet.dts is None else packet.dts + shift
                    packet.stream = stream
                    out.mux(packet)
    return path


def _late_start(path: Path) -> None:
    """A broadcast that is joined in an open group of pictures."""
    whole = render(path.with_name("whole_open_gop.ts"), pts=range(100), options=_OPEN_GOP)
    keys = itertools.count()
    seen = 0

    def keep(number: int, packet: Any) -> bool:
        nonlocal seen
        if packet.is_keyframe:
            seen = next(keys)
        return seen > 0

    remux(whole, path, keep)


def _lossy(path: Path) -> None:
    """A transport stream that lost a stretch of its packets at the end of a group of pictures."""
    whole = render(path.with_name("whole_lossy.ts"), pts=range(120), options={"g": "20", "bf": "0"})
    remux(whole, path, lambda number, packet: not 35 <= number < 40 and not 77 <= number < 80)


def _joined(path: Path) -> None:
    """Two recordings end to end, each of which counts from 0."""
    first = render(path.with_name("first.ts"), pts=range(100), options={"g": "25"})
    second = render(path.with_name("second.ts"), pts=range(100), options={"g": "25"})
    path.write_bytes(first.read_bytes() + second.read_bytes())


def _two_streams(path: Path) -> None:
    """A small picture first, then the large one that is the video; and sound, and a cover."""
    with av.open(str(path), "w") as out:
        streams = []
        for width, height in ((64, 48), (128, 96)):
            stream = out.add_stream("libx264", rate=30, options={"g": "20"})
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            streams.append(stream)
        for number in range(60):
            for stream in streams:
                # The small stream counts from 1000: read, it would be noticed.
                shown = number if stream.width == 128 else 1000 + number
                picture = painted(shown, width=stream.width, height=stream.height)
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, 30)
                out.mux(stream.encode(frame))
        for stream in streams:
            out.mux(stream.encode(None))


def _with_cover(path: Path) -> None:
    """A film whose cover, larger than its frames, is a video stream too."""
    film = render(path.with_name("film.mp4"), pts=range(60), options={"g": "20"})
    with av.open(str(film)) as source, av.open(str(path), "w") as out:
        cover = out.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 256, 192, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic.value
        stream = out.add_stream_from_template(source.streams.video[0])
        frame = av.VideoFrame.from_ndarray(np.zeros((192, 256, 3), np.uint8), format="rgb24")
        frame.pts, frame.time_base = 0, Fraction(1, 1)
        out.mux([*cover.encode(frame), *cover.encode(None)])
        for packet in source.demux(source.streams.video[0]):
            if packet.size:
                packet.stream = stream
                out.mux(packet)


def _titled(title: bytes, **how: Any) -> Maker:
    """A good file whose title is not UTF-8."""

    def make(path: Path) -> None:
        placeholder = b"Z" * len(title)
        how["metadata"] = {"title": placeholder.decode()}
        data = render(path, **how).read_bytes()
        assert placeholder in data
        path.write_bytes(data.replace(placeholder, title))

    return make


def _subtitles_only(path: Path) -> None:
    path.write_bytes(b"1\n00:00:00,000 --> 00:00:02,000\nHello\n\n2\n00:00:03,000 --> 00:00:04,000\nGood bye\n")


def _huge(path: Path) -> None:
    with av.open(str(path), "w") as out:
        codec, pix_fmt = ("mjpeg", "yuvj420p") if path.suffix == ".avi" else ("libx264", "yuv420p")
        stream = out.add_stream(codec, rate=30, options={"preset": "ultrafast"} if codec == "libx264" else {})
        stream.width, stream.height, stream.pix_fmt = 8192, 8192, pix_fmt
        frame = av.VideoFrame(8192, 8192, pix_fmt)
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        frame.pts, frame.time_base = 0, Fraction(1, 30)
        out.mux([*stream.encode(frame), *stream.encode(None)])


def _text(text: str) -> Maker:
    return lambda path: path.write_text(text)


def _latin(name: str) -> bytes:
    return name.encode("latin-1")


FILES: dict[str, Maker] = {
    # constant rate, by codec and container
    "cfr.mp4": _made(pts=range(100), options={"g": "30"}),
    "one_gop.mp4": _made(pts=range(150), options={"g": "999"}),
    "pyramid.mp4": _made(pts=range(150), options={"x264-params": "keyint=60:bframes=8:b-adapt=0:ref=4"}),
    "open_gop.mp4": _made(pts=range(100), options=_OPEN_GOP),
    "open_gop.mkv": _made(pts=range(300), options=_OPEN_GOP),
    "open_gop.ts": _made(pts=range(300), options=_OPEN_GOP),
    "refresh.mp4": _made(pts=range(100), options=_REFRESH),
    "refresh.ts": _made(pts=range(100), options=_REFRESH),
    "short_gops.mkv": _made(pts=range(400), options={"g": "12", "bf": "2"}),
    "short_gops.ts": _made(pts=range(400), options={"g": "12", "bf": "2"}),
    "short_gops.webm": _made(pts=range(300), **{**_VP9, "options": {**_VP9["options"], "g": "10"}}),
    "intra.mov": _made(pts=range(60), codec="mjpeg", pix_fmt="yuvj420p"),
    "prores.mov": _made(pts=range(40), codec="prores", pix_fmt="yuv422p10le"),
    "ffv1.mkv": _made(pts=range(40), codec="ffv1", pix_fmt="yuv420p"),
    "huffyuv.avi": _made(pts=range(40), codec="huffyuv", pix_fmt="yuv422p"),
    "qtrle.mov": _made(pts=range(40), codec="qtrle", pix_fmt="rgb24", options={"g": "10"}),
    "raw.nut": _made(pts=range(30), codec="rawvideo", pix_fmt="yuv420p"),
    "hevc.mp4": _made(pts=range(75), codec="libx265", options={"x265-params": f"{_HEVC}:open-gop=1"}),
    "hevc10.mkv": _made(
        pts=range(75), codec="libx265", pix_fmt="yuv420p10le", options={"x265-params": f"{_HEVC}:temporal-layers=3"}
    ),
    "av1.mp4": _made(pts=range(60), codec="libsvtav1", options={"g": "20", "preset": "12", "svtav1-params": "lp=1"}),
    "vp9.webm": _made(pts=range(100), width=131, height=97, **_VP9),
    "vp8_hidden.webm": _made(pts=range(100), codec="libvpx", options=_HIDDEN),
    "vp9_hidden.mkv": _made(pts=range(100), codec="libvpx-vp9", options=_HIDDEN),
    "vp8.ogv": _made(pts=range(90), **_VP8),
    "mpeg4.avi": _made(pts=range(60), codec="mpeg4", options={"g": "12", "bf": "2"}),
    "mjpeg.avi": _made(pts=range(40), codec="mjpeg", pix_fmt="yuvj420p"),
    "mpeg2.mpg": _made(pts=range(60), codec="mpeg2video", options={"bf": "2", "g": "12"}),
    "mpeg2.mxf": _made(pts=range(60), codec="mpeg2video", rate=25, time_base=Fraction(1, 25), options={"g": "12"}),
    "mpeg1.mpg": _made(pts=range(60), codec="mpeg1video", options={"bf": "2", "g": "12"}),
    "h263.3gp": _made(pts=range(60), codec="h263", width=176, height=144),
    "flv1.flv": _made(pts=range(60), codec="flv", options={"g": "12"}),
    "h264.flv": _made(pts=range(60), options={"g": "12"}),
    "wmv2.asf": _made(pts=range(60), codec="wmv2", options={"g": "12"}),
    "animated.gif": _made(pts=range(40), codec="gif", pix_fmt="rgb8", rate=10, time_base=Fraction(1, 10)),
    "animated.apng": _made(pts=range(40), codec="apng", pix_fmt="rgb24", rate=10, time_base=Fraction(1, 10)),
    # how time is written
    "ntsc.mkv": _made(pts=range(90), time_base=Fraction(1001, 30000), rate=Fraction(30000, 1001)),
    "film.mp4": _made(pts=range(90), time_base=Fraction(1001, 24000), rate=Fraction(24000, 1001)),
    "tick_is_frame.mp4": _made(pts=range(60), container_options={"video_track_timescale": "30"}),
    "slow.avi": _made(pts=range(12), codec="mpeg4", rate=Fraction(1, 10), time_base=Fraction(10, 1)),
    "fast.mkv": _made(pts=range(120), rate=240, time_base=Fraction(1, 240), options={"g": "30"}),
    "offset.mp4": _made(pts=range(45, 145), options={"g": "30"}),
    "offset.ts": _made(pts=range(3000, 3100), options={"g": "30"}),
    "cut.mp4": _made(
        pts=range(-20, 80),
        options={"g": "50"},
        container_options={"avoid_negative_ts": "disabled", "use_editlist": "1"},
    ),
    "fragments.mp4": _made(
        pts=range(100), options={"g": "30"}, container_options={"movflags": "frag_keyframe+empty_moov"}
    ),
    "time_lapse.mp4": _made(pts=range(0, 3600, 60), time_base=Fraction(1, 1), rate=1, options={"g": "10"}),
    "six_hours.mp4": _made(pts=range(0, 21600, 30), time_base=Fraction(1, 1), rate=1, options={"g": "20"}),
    "six_hours.mkv": _made(pts=range(0, 21600, 30), time_base=Fraction(1, 1), rate=1, options={"g": "20"}),
    "one.mkv": _made(pts=[7]),
    # variable rate
    "uneven.mp4": _made(pts=UNEVEN, options={"g": "40"}),
    "uneven.mkv": _made(pts=UNEVEN, options={"g": "40"}),
    "uneven.ts": _made(pts=UNEVEN, options={"g": "40"}),
    "recording.mp4": _made(pts=RECORDING, time_base=_MS, rate=1000),
    "recording.mkv": _made(pts=RECORDING, time_base=_MS, rate=1000),
    "recording.webm": _made(pts=RECORDING, time_base=_MS, rate=1000, **_VP8),
    "gap.mp4": _made(pts=_with_gap(20), options={"g": "15"}),
    "gap.mkv": _made(pts=_with_gap(20), options={"g": "15"}),
    "gap.ts": _made(pts=_with_gap(20), options={"g": "15"}),
    # what else is in a file
    "sound.mkv": _made(pts=range(60), options={"g": "30"}, audio=True),
    "two_streams.mkv": _two_streams,
    "cover.mp4": _with_cover,
    "odd_size.mp4": _made(pts=range(40), width=131, height=97, pix_fmt="yuv444p"),
    "flat.mkv": _made(pts=range(20), width=480, height=32, codec="ffv1"),
    "latin1.avi": _titled(_latin("Café"), pts=range(30), codec="mpeg4"),
    "latin1.mkv": _titled(_latin("Café"), pts=range(30)),
    "latin1.mp4": _titled(_latin("Café"), pts=range(30)),
    "latin1.flv": _titled(_latin("Café"), pts=range(30)),
    # incomplete
    "late_start.ts": _late_start,
    "lossy.ts": _lossy,
    "cut_off.mp4": _cut(0.6, pts=range(200), options={"g": "20"}, container_options={"movflags": "faststart"}),
    "cut_off.mov": _cut(
        0.6, pts=range(60), codec="mjpeg", pix_fmt="yuvj420p", container_options={"movflags": "faststart"}
    ),
    "cut_off.mkv": _cut(0.6, pts=range(200), options={"g": "20"}),
    "cut_off.ts": _cut(0.6, pts=range(200), options={"g": "20"}),
    "cut_off.avi": _cut(0.6, pts=range(200), codec="mpeg4", options={"g": "20"}),
    "cut_off.webm": _cut(0.6, pts=range(200), **_VP9),
    "cut_off.flv": _cut(0.6, pts=range(200), options={"g": "20"}),
}

_PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nsecret.ts\n#EXT-X-ENDLIST\n"
REFUSED: dict[str, tuple[Maker, str]] = {
    "joined.ts": (_joined, "its clock falls from 3.30 s back to 0.00 s"),
    "subtitles.srt": (_subtitles_only, "a text file"),
    "list.m3u8": (_text(_PLAYLIST), "a playlist"),
    "list.mp4": (_text(_PLAYLIST), "a playlist"),
    "list.ffconcat": (_text("ffconcat version 1.0\nfile secret.mp4\n"), "a playlist"),
    "list.mpd": (_text('<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011"></MPD>\n'), "a playlist"),
    "huge.avi": (_huge, "its frames are larger than max_frame_pixels"),
    "huge.mp4": (_huge, "its frames have 8192x8192 pixels"),
}


@dataclass(frozen=True)
class Truth:
    """What decoding a file from the front shows: when each frame appears, in seconds, and the number in its picture."""

    times: list[float]
    numbers: list[int]

    def __len__(self) -> int:
        return len(self.times)


def truth_of(path: Path) -> Truth:
    """Decode a good file whole: its largest moving stream."""
    times, numbers = [], []
    with av.open(str(path), metadata_errors="replace") as container:
        moving = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
        stream = max(moving, key=lambda s: s.codec_context.width)
        stream.codec_context.thread_count = 1
        for packet in container.demux(stream):
            if packet.is_corrupt and path.suffix != ".ts":
                continue  # half a packet: the file is cut off in it
            try:
                frames = packet.decode()
            except av.error.InvalidDataError:
                continue  # what was lost in a transport stream
            for frame in frames:
                if not frame.is_corrupt:
                    assert frame.pts is not None
                    times.append(float(frame.pts * stream.time_base))
                    numbers.append(read_number(frame.to_ndarray(format="rgb24", threads=1)))
    return Truth([t - times[0] for t in times], numbers)


class Shelf:
    """Makes each file once, in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._truths: dict[str, Truth] = {}

    def path(self, name: str) -> Path:
        path = self._folder / name
        if not path.exists():
            (FILES[name] if name in FILES else REFUSED[name][0])(path)
        return path

    def truth(self, name: str) -> Truth:
        if name not in self._truths:
            self._truths[name] = truth_of(self.path(name))
        return self._truths[name]


def on_display(times: Sequence[float], seconds: float) -> int:
    """Which frame is on display."""
    return max(0, sum(1 for t in times if t <= seconds) - 1)
