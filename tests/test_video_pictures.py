"""Pictures look as ffmpeg's own filters make them: matrix, range, shape of pixels, turns, fields, alpha, HDR."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.filter import Graph
from av.video.frame import VideoFrame
from test_video_render import painted, read_number

from vzoom.video import VideoReader, open_video, picture
from vzoom.video.picture import Orientation, PictureRules
from vzoom.video.tone_map import DEFAULT_PEAK_NITS, HLG, PQ, WHITE_NITS, pq_code, pq_nits, rolled_off, tone_mapped


def coloured(number: int = 0, *, width: int = 128, height: int = 96) -> np.ndarray:
    """Blocks of strong colours, so that a wrong matrix shows, and large enough for chroma at half size."""
    blocks = np.random.default_rng(number).integers(0, 256, size=(height // 16, width // 16, 3))
    return blocks.repeat(16, 0).repeat(16, 1).astype(np.uint8)


def encode(path: Path, frames: list[VideoFrame], *, codec: str, pix_fmt: str, **settings: Any) -> Path:
    """Frames as they are, one every 1/10 s; `settings` are attributes of the encoder."""
    options = settings.pop("options", {})
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=10, options=options)
        stream.width, stream.height, stream.pix_fmt = frames[0].width, frames[0].height, pix_fmt
        for name, value in settings.items():
            setattr(stream.codec_context, name, value)
        for at, frame in enumerate(frames):
            frame.pts, frame.time_base = at, Fraction(1, 10)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def filtered(path: Path, *filters: tuple[str, str], layout: str = "rgb24") -> np.ndarray:
    """What ffmpeg's filters make of the first frame."""
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        graph = Graph()
        source = graph.add_buffer(template=container.streams.video[0])
        last = source
        for name, arguments in (*filters, ("format", layout)):
            step = graph.add(name, arguments)
            last.link_to(step)
            last = step
        sink = graph.add("buffersink")
        last.link_to(sink)
        graph.configure()
        source.push(frame)
        source.push(None)
        return sink.pull().to_ndarray()


def first(video: VideoReader) -> np.ndarray:
    return video.frames_at([0.0]).frames[0]


def _near(ours: np.ndarray, theirs: np.ndarray, *, mean: float, most: int) -> None:
    assert ours.shape == theirs.shape
    apart = np.abs(ours.astype(int) - theirs)
    assert apart.mean() <= mean
    assert apart.max() <= most


# ---------------------------------------------------------------- matrix and range

_WEIGHTS = {1: (0.2126, 0.0722), 2: (0.299, 0.114), 5: (0.299, 0.114), 9: (0.2627, 0.0593)}


@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("colorspace", _WEIGHTS)
def test_matrix_and_range_are_those_of_the_stream(colorspace: int, full_range: bool, tmp_path: Path) -> None:
    red, blue = _WEIGHTS[colorspace]
    colours = coloured()
    unit = colours / 255
    y = unit @ [red, 1 - red - blue, blue]
    yuv = np.stack([y, (unit[:, :, 2] - y) / (2 - 2 * blue), (unit[:, :, 0] - y) / (2 - 2 * red)])
    scale, offset = ((255, 255, 255), (0, 128, 128)) if full_range else ((219, 224, 224), (16, 128, 128))
    planes = yuv * np.array(scale)[:, None, None] + np.array(offset)[:, None, None]
    frame = VideoFrame.from_ndarray(np.clip(np.rint(planes), 0, 255).astype(np.uint8), format="yuv444p")
    frame.colorspace, frame.color_range = colorspace, 2 if full_range else 1
    path = encode(
        tmp_path / "a.mkv",
        [frame],
        codec="libx264",
        pix_fmt="yuv444p",
        options={"qp": "0"},
        colorspace=colorspace,
        color_range=2 if full_range else 1,
    )
    with open_video(path) as video:
        _near(first(video), colours, mean=1.0, most=4)  # of what was painted, by the formula of the standard
        _near(first(video), filtered(path, ("scale", "flags=bicubic")), mean=0, most=0)
        assert video.info.notes == ()


# ---------------------------------------------------------------- shape and turns


@pytest.mark.parametrize(
    ("aspect", "size"),
    [(Fraction(4, 3), (171, 96)), (Fraction(8, 9), (128, 108)), (Fraction(2), (256, 96)), (Fraction(1), (128, 96))],
)
def test_pixels_are_made_square(aspect: Fraction, size: tuple[int, int], tmp_path: Path) -> None:
    frames = [VideoFrame.from_ndarray(painted(n), format="rgb24") for n in range(4)]
    path = encode(tmp_path / "a.mkv", frames, codec="libx264", pix_fmt="yuv420p", sample_aspect_ratio=aspect)
    with open_video(path) as video:
        assert (video.info.width, video.info.height) == size
        wanted = filtered(path, ("scale", f"{size[0]}:{size[1]}:flags=bicubic"))
        _near(first(video), wanted, mean=0.01, most=2)
        assert read_number(video.frames_at([0.2]).frames[0]) == 2
        squared = aspect == 1
        assert video.info.notes == (() if squared else (_stretched(size),))


def _stretched(size: tuple[int, int]) -> str:
    return f"its pixels are not square: 128x96 is stretched to {size[0]}x{size[1]}"


def test_pixels_of_an_impossible_shape_are_taken_for_square(tmp_path: Path) -> None:
    frames = [VideoFrame.from_ndarray(painted(1), format="rgb24")]
    path = encode(tmp_path / "a.mkv", frames, codec="libx264", pix_fmt="yuv420p", sample_aspect_ratio=Fraction(10))
    with open_video(path) as video:
        assert (video.info.width, video.info.height) == (128, 96)
        assert "10 times as wide as high; they are taken for square" in video.info.notes[0]


@pytest.mark.parametrize(("degrees", "turns"), [(90, ("clock",)), (180, ("clock", "clock")), (270, ("cclock",))])
def test_stretched_and_then_turned(degrees: int, turns: tuple[str, ...], tmp_path: Path) -> None:
    frames = [VideoFrame.from_ndarray(painted(1), format="rgb24")]
    flat = encode(tmp_path / "flat.mp4", frames, codec="libx264", pix_fmt="yuv420p", sample_aspect_ratio=Fraction(4, 3))
    path = _turned(flat, tmp_path / "turned.mp4", degrees)
    turning = [("transpose", turn) for turn in turns]
    wanted = filtered(flat, ("scale", "171:96:flags=bicubic"), ("format", "rgb24"), *turning)
    with open_video(path) as video:
        assert (video.info.width, video.info.height) == ((171, 96) if degrees == 180 else (96, 171))
        _near(first(video), wanted, mean=0.01, most=2)


def _turned(path: Path, to: Path, degrees: int) -> Path:
    """The file with a display matrix that turns it clockwise, written into its track header."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 4 + 20 + 16
    assert struct.unpack_from(">i", data, at)[0] == 1 << 16
    cos, sin = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    struct.pack_into(">9i", data, at, cos << 16, sin << 16, 0, -sin << 16, cos << 16, 0, 0, 0, 1 << 30)
    to.write_bytes(data)
    return to


# ---------------------------------------------------------------- fields


def test_interlaced_frames_have_no_comb(tmp_path: Path) -> None:
    """A bar that moves between the fields: woven, its edges are combs."""

    def picture(column: int) -> np.ndarray:
        image = np.full((96, 128, 3), 40, np.uint8)
        image[:, column : column + 24] = 220
        return image

    woven = picture(30)
    woven[1::2] = picture(50)[1::2]
    frames = [VideoFrame.from_ndarray(woven, format="rgb24").reformat(format="yuv420p") for _ in range(3)]
    path = encode(
        tmp_path / "a.mkv",
        frames,
        codec="libx264",
        pix_fmt="yuv420p",
        options={"x264-params": "interlaced=1:qp=1"},  # the lower field first
    )
    with open_video(path) as video:
        image = first(video)
        assert "interlaced" in video.info.notes[0]
    comb = np.abs(np.diff(image[8:-8, :, 0].astype(int), axis=0)).max()
    assert comb < 12
    assert np.abs(np.diff(filtered(path)[8:-8, :, 0].astype(int), axis=0)).max() > 150  # what a weave looks like
    _near(image, filtered(path, ("estdif", "mode=frame:deint=all")), mean=0.01, most=1)
    _near(image[8:-8], picture(50)[8:-8], mean=1.5, most=60)


# ---------------------------------------------------------------- alpha


@pytest.mark.parametrize(("codec", "pix_fmt", "suffix"), [("png", "rgba", "mov"), ("ffv1", "yuva444p", "mkv")])
def test_what_is_transparent_is_black(codec: str, pix_fmt: str, suffix: str, tmp_path: Path) -> None:
    colours = coloured()
    alpha = np.linspace(0, 255, 128).astype(np.uint8)[None, :].repeat(96, 0)
    frame = VideoFrame.from_ndarray(np.dstack([colours, alpha]), format="rgba").reformat(format=pix_fmt)
    path = encode(tmp_path / f"a.{suffix}", [frame], codec=codec, pix_fmt=pix_fmt)
    rgba = filtered(path, layout="rgba").astype(float)
    with open_video(path) as video:
        image = first(video)
    _near(image, np.rint(rgba[:, :, :3] * rgba[:, :, 3:] / 255).astype(int), mean=0.01, most=1)
    _near(image, np.rint(colours * (alpha[:, :, None] / 255)).astype(int), mean=1.5, most=6)
    assert not image[:, 0].any()


# ---------------------------------------------------------------- HDR


def _hdr_frame(signal_HW: np.ndarray, transfer: int) -> VideoFrame:
    """Gray of a signal from 0 to 1, ten bits, video range, BT.2020."""
    height, width = signal_HW.shape
    frame = VideoFrame(width, height, "yuv420p10le")
    luma = np.rint(64 + 876 * signal_HW).astype(np.uint16)
    for plane, values in zip(frame.planes, (luma, np.full((height // 2, width // 2), 512), None), strict=True):
        values = np.full((height // 2, width // 2), 512) if values is None else values
        rows = np.zeros((values.shape[0], plane.line_size // 2), np.uint16)
        rows[:, : values.shape[1]] = values
        plane.update(rows.tobytes())
    frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc = 9, 1, 9, transfer
    return frame


@pytest.mark.parametrize(("transfer", "name"), [(PQ, "PQ"), (HLG, "HLG")])
def test_hdr_is_tone_mapped_and_announced(transfer: int, name: str, tmp_path: Path) -> None:
    nits = np.array([0, 0.5, 2, 10, 50, 100, 203, 400, 700, 1000])
    if transfer == PQ:
        signal = pq_code(nits)
    else:  # the inverse of BT.2100's system gamma and OETF, written out
        scene = (nits / 1000) ** (1 / 1.2)
        low, high = np.sqrt(3 * scene), 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073
        signal = np.where(scene <= 1 / 12, low, high)
    frame = _hdr_frame(np.repeat(signal, 16)[None, :].repeat(32, 0), transfer)
    path = encode(
        tmp_path / "a.mkv",
        [frame],
        codec="libx265",
        pix_fmt="yuv420p10le",
        options={"x265-params": "lossless=1:log-level=none"},
        color_trc=transfer,
        color_primaries=9,
        colorspace=9,
        color_range=1,
    )
    with open_video(path) as video:
        gray = first(video)[16, 8::16].astype(int)
        assert video.info.notes == (f"HDR ({name}) is shown as a screen of standard range would",)
    assert (np.ptp(gray, axis=1) <= 1).all()  # gray stays gray
    shown = rolled_off(nits, DEFAULT_PEAK_NITS)
    np.testing.assert_allclose(gray[:, 1], 255 * (shown / WHITE_NITS) ** (1 / 2.4), atol=1.6)
    assert gray[-1, 0] >= 253  # the peak is white
    assert (np.diff(gray[:-1, 1]) > 0).all()
    plain = filtered(path)[16, 8::16, 1].astype(int)
    assert gray[5, 1] > plain[5] + 25  # 100 cd/m² is no longer gray


def test_the_roll_off_is_that_of_the_standard() -> None:
    nits = np.array([0.0, 1.0, 10.0, 20.0])
    np.testing.assert_allclose(rolled_off(nits, 1000.0), nits, rtol=1e-6, atol=1e-6)  # below the knee nothing changes
    assert rolled_off(np.array([1000.0, 4000.0]), 1000.0) == pytest.approx([WHITE_NITS, WHITE_NITS], rel=1e-3)
    np.testing.assert_allclose(rolled_off(np.array([5.0, 150.0]), WHITE_NITS), [5.0, 150.0], rtol=1e-6)
    np.testing.assert_allclose(pq_nits(pq_code(np.array([0.01, 1, 100, 10000]))), [0.01, 1, 100, 10000], rtol=1e-6)
    assert pq_code(np.array(100.0)) == pytest.approx(0.5081, abs=1e-4)  # the table of ST 2084
    assert pq_code(np.array(1000.0)) == pytest.approx(0.7518, abs=1e-4)


def test_wide_colours_become_those_of_the_screen() -> None:
    """A colour of BT.709 that is stored in BT.2020's primaries comes back."""
    light = np.array([20.0, 5.0, 2.0])  # in BT.709's primaries, dark enough not to be rolled off
    to_2020 = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])
    signal = np.rint(pq_code(to_2020 @ light) * 65535).astype(np.uint16)[None, None]
    image = tone_mapped(signal, transfer=PQ, peak_nits=1000.0)[0, 0]
    np.testing.assert_allclose(image, 255 * (light / WHITE_NITS) ** (1 / 2.4), atol=1.5)


@pytest.mark.slow  # ffmpeg takes seconds to prepare its own conversion
def test_below_the_knee_hdr_is_what_swscale_makes_of_it(tmp_path: Path) -> None:
    nits = np.array([0, 0.5, 1, 2, 4, 6, 8, 10, 15, 20])
    frame = _hdr_frame(np.repeat(pq_code(nits), 16)[None, :].repeat(32, 0), PQ)
    path = encode(
        tmp_path / "a.mkv",
        [frame],
        codec="libx265",
        pix_fmt="yuv420p10le",
        options={"x265-params": "lossless=1:log-level=none"},
        color_trc=PQ,
        color_primaries=9,
        colorspace=9,
        color_range=1,
    )
    with open_video(path) as video:
        ours = first(video)[16, 8::16]
    theirs = filtered(path, ("scale", "out_primaries=bt709:out_transfer=bt709:intent=relative_colorimetric"))
    _near(ours, theirs[16, 8::16], mean=1.0, most=2)


def _noise(width: int, height: int, layout: str = "yuv420p") -> VideoFrame:
    noise = np.random.default_rng(0).integers(0, 256, (height * 3 // 2, width), dtype=np.uint8)
    frame = VideoFrame.from_ndarray(noise, format=layout)
    frame.time_base = Fraction(1, 30)
    return frame


def _rules(frame: VideoFrame, **changed: Any) -> PictureRules:
    stored = (frame.width, frame.height)
    plain = PictureRules(*stored, Orientation(), 1, 0, 100.0, (), stored, frame.format.name, False, ())
    return replace(plain, **changed)


@pytest.mark.parametrize("layout", ["yuv420p", "yuvj420p"])
@pytest.mark.parametrize("size", [(1920, 1080), (642, 362), (638, 100), (320, 52)])
@pytest.mark.parametrize("matrix", [1, 5, 9])
def test_strips_are_the_picture(
    monkeypatch: pytest.MonkeyPatch, layout: str, size: tuple[int, int], matrix: int
) -> None:
    """Cut anywhere, with the stream's matrix and range, they are what is converted whole."""
    monkeypatch.setattr(picture, "_WHOLE_BYTES", 0)
    monkeypatch.setattr(picture, "_STRIP_BYTES", 48 * size[0] * 3)
    frame = _noise(*size, layout)
    frame.colorspace = matrix
    rules = _rules(frame)
    strips = [strip.copy() for strip in rules.strips(frame)]
    assert len(strips) == -(-size[1] // 48) > 1
    assert np.array_equal(np.concatenate(strips), rules.rgb(frame))


@pytest.mark.parametrize(
    "changed", [{"turned": Orientation(transpose=True)}, {"turned": Orientation(mirror_rows=True)}, {"width": 700}]
)
def test_what_cannot_be_cut_comes_whole(monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any]) -> None:
    monkeypatch.setattr(picture, "_WHOLE_BYTES", 0)
    monkeypatch.setattr(picture, "_STRIP_BYTES", 1 << 15)
    for frame, rules in (
        (even := _noise(640, 360), _rules(even, **changed)),
        (odd := VideoFrame(640, 361, "yuv420p"), _rules(odd)),
        (full := VideoFrame(640, 360, "yuv444p"), _rules(full)),
    ):
        (whole,) = rules.strips(frame)
        assert np.array_equal(whole, rules.rgb(frame))


_CHILD = """
import sys
sys.path.insert(0, sys.argv[1])
from test_video_pictures import _noise, _rules
from vzoom.config import ZoomConfig
from vzoom.video import PatchSpec
from vzoom.video.patches import resize_frames, resize_strips

def held(name):
    return int(next(line for line in open("/proc/self/status") if line.startswith(name)).split()[1]) / 1024

config, spec = ZoomConfig(), PatchSpec()
frame = _noise(7680, 4320)
rules = _rules(frame)
for _ in range(2):  # the second time all that is computed once is there
    open("/proc/self/clear_refs", "w").write("5")  # VmHWM from here on
    before = held("VmRSS")
    resize_strips(rules.strips(frame), (4320, 7680), config=config, spec=spec)
print(held("VmHWM") - before)
"""


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="only Linux tells the peak of a stretch")
def test_a_large_picture_is_never_held_whole() -> None:
    """8K takes 100 MB as RGB. In a process of its own: this one's memory has holes."""
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, str(Path(__file__).parent)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert float(done.stdout.splitlines()[-1]) < 30
