"""Anything that holds a video is read as the file is: bytes, open files, pipes, URLs, arrays, image files, a reader."""

from __future__ import annotations

import functools
import http.server
import importlib
import io
import os
import re
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from docs_blocks import blocks_of
from PIL import Image
from test_video_render import painted, read_number, render

import vzoom
from vzoom.config import ZoomConfig
from vzoom.types import Clip, VideoInfo
from vzoom.video import ClipCache, FrameSequence, FrameSource, PatchSpec, VideoError, VideoReadError, look, open_video
from vzoom.video.patches import resize_frames

TIMES = [0.0, 1.5, 0.7, 3.2, 3.21]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return render(tmp_path_factory.mktemp("sources") / "a b%20.mp4", pts=range(120), options={"g": "30"})


@pytest.fixture(scope="module")
def truth(path: Path) -> Clip:
    with open_video(path) as video:
        return video.frames_at(TIMES)


def _same(clip: Clip, truth: Clip) -> None:
    assert clip.pts_seconds == truth.pts_seconds
    assert clip.frame_indices == truth.frame_indices
    np.testing.assert_array_equal(clip.frames, truth.frames)


SOURCES: dict[str, Callable[[Path], Any]] = {
    "path": lambda path: path,
    "str": str,
    "bytes": Path.read_bytes,
    "open file": lambda path: path.open("rb"),
    "unbuffered": lambda path: path.open("rb", buffering=0),
    "BytesIO": lambda path: io.BytesIO(path.read_bytes()),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_a_file_in_whatever_form(kind: str, path: Path, truth: Clip) -> None:
    source = SOURCES[kind](path)
    with open_video(source) as video:
        _same(video.frames_at(TIMES), truth)
        _same(video.frames_at(TIMES), truth)
    if hasattr(source, "closed"):
        assert not source.closed  # it is the caller's
        with source, open_video(source) as video:  # wherever the last reader left it
            _same(video.frames_at(TIMES), truth)


def test_a_pipe_is_copied_first(path: Path, truth: Clip) -> None:
    reading, writing = os.pipe()
    data = path.read_bytes()

    def write() -> None:
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(data)

    writer = threading.Thread(target=write)
    writer.start()
    with os.fdopen(reading, "rb") as pipe, open_video(pipe) as video:
        _same(video.frames_at(TIMES), truth)
    writer.join()


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (b"", "no bytes"),
        (b"plain text, no video" * 100, "not a video"),
        (io.BytesIO(b""), "not a video"),
        (io.StringIO("text"), "opened as text"),
        (3.5, "float is not a video: give a path"),
    ],
)
def test_what_is_no_video(source: Any, says: str) -> None:
    with pytest.raises(VideoError, match=says):
        open_video(source)


class _Server(http.server.SimpleHTTPRequestHandler):
    """Serves files, with ranges unless `ranges` is False, and counts bytes."""

    ranges = True
    sent = 0

    def do_GET(self) -> None:
        data = Path(self.translate_path(self.path)).read_bytes()
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16384)  # what is not read is not sent
        begin, end = 0, len(data)
        if asked and self.ranges:
            begin, end = int(asked[1]), int(asked[2]) + 1 if asked[2] else end
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{len(data)}")
        else:
            self.send_response(200)
        if self.ranges:
            self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(end - begin))
        self.end_headers()
        try:
            for at in range(begin, end, 4096):
                type(self).sent += self.wfile.write(data[at : min(end, at + 4096)])
        except OSError:  # the reader seeks elsewhere
            return

    def log_message(self, format: str, *args: Any) -> None:
        """Not to stderr."""


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., tuple[str, type[_Server]]]]:
    servers = []

    def start(*, ranges: bool) -> tuple[str, type[_Server]]:
        handler = type("Server", (_Server,), {"ranges": ranges, "sent": 0})
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=str(tmp_path)))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}", handler

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_url_with_ranges_is_read_in_part(serve: Callable[..., tuple[str, type[_Server]]], tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, size=(96, 128, 3), dtype=np.uint8)
    with av.open(str(tmp_path / "long.mp4"), "w", options={"movflags": "faststart"}) as out:
        stream = out.add_stream("libx264", rate=30, options={"g": "30", "crf": "1", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for number in range(900):
            image = painted(number)
            image[48:] = np.roll(noise, 7 * number)[48:]  # so that it takes bytes; the upper row of blocks is enough
            out.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        out.mux(stream.encode(None))
    url, server = serve(ranges=True)
    with open_video(tmp_path / "long.mp4") as file, open_video(f"{url}/long.mp4") as video:
        for start in (25.0, 3.0):
            times = [start + i / 8 for i in range(8)]
            _same(video.frames_at(times), file.frames_at(times))
    assert server.sent < 0.5 * (tmp_path / "long.mp4").stat().st_size


def test_a_url_without_ranges(serve: Callable[..., tuple[str, type[_Server]]], tmp_path: Path) -> None:
    render(tmp_path / "a.mkv", pts=range(60), options={"g": "30"})
    url, _ = serve(ranges=False)
    with open_video(f"{url}/a.mkv") as video:
        assert [read_number(image) for image in video.frames_at([1.5, 0.2]).frames] == [45, 6]


# ---------------------------------------------------------------- frames that are no file


def _numbered(count: int) -> np.ndarray:
    return np.stack([painted(i) for i in range(count)])


@pytest.mark.parametrize("make", [lambda a: a, torch.from_numpy], ids=["numpy", "torch"])
def test_an_array_at_a_rate(make: Callable[[np.ndarray], Any]) -> None:
    with open_video(FrameSequence(make(_numbered(20)), fps=29.97)) as video:
        assert video.info == VideoInfo("<20 frames>", pytest.approx(20 / 29.97), 29.97, 128, 96, "frames")
        for index in range(20):
            clip = video.frames_at([index / 29.97, (index + 0.4) / 29.97])
            assert clip.frame_indices == (index,)
            assert read_number(clip.frames[0]) == index
            assert clip.pts_seconds == (pytest.approx(index / 29.97),)
        late = video.frames_at([5.0, 0.0])
        assert (late.frame_indices, late.clamped) == ((19, 0), (True, False))
        assert video.keyframes_at([0.5]).frame_indices == video.frames_at([0.5]).frame_indices


def test_an_array_with_times() -> None:
    frames = FrameSequence(_numbered(4), times=[10.0, 10.5, 40.0, 41.0])
    with open_video(frames) as video:
        assert video.info.duration_seconds == pytest.approx(32.0)  # the last is shown as long as the one before it
        assert video.info.fps == pytest.approx(4 / 32)
        clip = video.frames_at([0.0, 0.49, 0.5, 29.9, 30.0, 31.0, 31.9, 33.0])
        assert clip.frame_indices == (0, 1, 2, 3)
        assert clip.pts_seconds == (0.0, 0.5, 30.0, 31.0)
        assert clip.clamped == (False, False, False, True)


def test_image_files(tmp_path: Path) -> None:
    for number in range(12):
        Image.fromarray(painted(number)).save(tmp_path / f"frame{number}.png")  # frame10 sorts before frame2 as text
    (tmp_path / "notes.txt").write_text("not a frame")
    (tmp_path / ".hidden.png").write_text("not a frame")
    files = sorted(tmp_path.glob("frame*.png"), key=lambda file: int(file.stem[5:]))
    for frames in (FrameSequence(tmp_path, fps=2), FrameSequence(str(tmp_path), fps=2), FrameSequence(files, fps=2)):
        with open_video(frames) as video:
            assert (video.info.duration_seconds, video.info.fps) == (6.0, 2)
            clip = video.frames_at([i / 2 for i in range(12)])
            assert [read_number(image) for image in clip.frames] == list(range(12))


def test_pictures_are_upright_and_transparent_parts_black(tmp_path: Path) -> None:
    tall = Image.fromarray(painted(5))
    exif = tall.getexif()
    exif[0x0112] = 6  # turn it clockwise to see it upright
    tall.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    clear = np.dstack([painted(5), np.zeros((96, 128), np.uint8)])
    clear[:48, :, 3] = 255
    Image.fromarray(clear).save(tmp_path / "clear.png")
    Image.fromarray(painted(5)[:, :, 0].astype(np.uint16) << 8).save(tmp_path / "deep.png")
    with open_video(FrameSequence([tmp_path / "turned.png"], fps=1)) as video:
        assert np.array_equal(video.frames_at([0.0]).frames[0], painted(5))
    with open_video(FrameSequence([tmp_path / "clear.png"], fps=1)) as video:
        image = video.frames_at([0.0]).frames[0]
        assert np.array_equal(image[:48], painted(5)[:48])
        assert not image[48:].any()
    with open_video(FrameSequence([tmp_path / "deep.png"], fps=1)) as video:
        assert np.array_equal(video.frames_at([0.0]).frames[0], painted(5))


def test_wrong_sequences(tmp_path: Path) -> None:
    frames = _numbered(3)
    for wrong, says in (
        ({}, "needs fps"),
        ({"fps": 1, "times": [0, 1, 2]}, "needs fps"),
        ({"fps": 0}, "fps must be above 0"),
        ({"times": [0, 1]}, "3 frames and 2 times"),
        ({"times": [0, 2, 1]}, "increase"),
        ({"times": [0, 1, float("nan")]}, "finite"),
    ):
        with pytest.raises(ValueError, match=says):
            FrameSequence(frames, **wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="uint8"):
        FrameSequence(frames / 255, fps=1)
    with pytest.raises(ValueError, match="no frames"):
        FrameSequence(frames[:0], fps=1)
    with pytest.raises(VideoError, match="no image in it"):
        FrameSequence(tmp_path, fps=1)
    with pytest.raises(VideoError, match="no such file"):
        FrameSequence([tmp_path / "gone.png"], fps=1)
    Image.fromarray(painted(0)).save(tmp_path / "0.png")
    Image.fromarray(painted(1)[:50]).save(tmp_path / "1.png")
    (tmp_path / "2.png").write_bytes(b"no image")
    with open_video(FrameSequence(tmp_path, fps=1)) as video:
        with pytest.raises(VideoReadError, match=r"1.png: 128 x 50 pixels, the first has 128 x 96"):
            video.frames_at([1.0])
        with pytest.raises(VideoReadError, match=r"2.png: not an image"):
            video.frames_at([2.0])
    with pytest.raises(VideoError, match="FrameSequence"):
        open_video(tmp_path)


# ---------------------------------------------------------------- streams


def _two_streams(path: Path) -> Path:
    """A cover picture that is larger than all, then a small stream, then a larger one."""
    with av.open(str(path), "w") as out:
        streams = []
        for width, height in ((64, 48), (128, 96)):
            stream = out.add_stream("libx264", rate=30)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            streams.append(stream)
        cover = out.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 256, 256, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        for number in range(30):
            for stream in streams:
                image = painted(number, width=stream.width, height=stream.height)
                out.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        out.mux(cover.encode(av.VideoFrame.from_ndarray(np.zeros((256, 256, 3), np.uint8), format="rgb24")))
        for stream in (*streams, cover):
            out.mux(stream.encode(None))
    return path


def test_the_largest_stream_that_is_no_cover_picture(tmp_path: Path) -> None:
    path = _two_streams(tmp_path / "a.mp4")
    for options, width in (({}, 128), ({"stream": 1}, 128), ({"stream": 0}, 64)):
        with open_video(path, **options) as video:
            assert video.info.width == width
            assert read_number(video.frames_at([0.5]).frames[0]) == 15
    with pytest.raises(VideoError, match=r"no video stream 2 in it; there are 0 \(h264 64x48\), 1 \(h264 128x96\)"):
        open_video(path, stream=2)


# ---------------------------------------------------------------- caches


def test_what_a_cache_knows_a_video_by(path: Path, tmp_path: Path) -> None:
    cache = ClipCache()
    data = path.read_bytes()
    assert cache.reader(data) is cache.reader(bytes(bytearray(data)))  # equal bytes, another object
    file = io.BytesIO(data)
    assert cache.reader(file) is cache.reader(file)
    assert cache.reader(file) is not cache.reader(io.BytesIO(data))
    frames = FrameSequence(_numbered(3), fps=1)
    assert cache.reader(frames) is cache.reader(frames)
    assert cache.reader(frames) is not cache.reader(FrameSequence(_numbered(3), fps=1))
    Image.fromarray(painted(0)).save(tmp_path / "0.png")
    images = cache.reader(FrameSequence(tmp_path, fps=1))
    assert cache.reader(FrameSequence(tmp_path, fps=1)) is images
    assert cache.reader(FrameSequence(tmp_path, fps=2)) is not images
    Image.fromarray(painted(1)).save(tmp_path / "0.png")
    os.utime(tmp_path / "0.png", ns=(0, 1))
    changed = cache.reader(FrameSequence(tmp_path, fps=1))
    assert changed is not images
    assert read_number(cache.frames_at(changed, [0.0]).frames[0]) == 1


def test_objects_that_go_and_come_share_no_frames() -> None:
    """An id is given again once its object is gone; as long as a reader is kept, its object is."""
    cache = ClipCache(max_readers=2)
    for number in range(20):
        file = FrameSequence(painted(number)[None], fps=1)
        assert read_number(cache.frames_at(cache.reader(file), [0.0]).frames[0]) == number


def test_a_growing_file_is_seen_as_it_is_when_asked(tmp_path: Path) -> None:
    whole = render(tmp_path / "whole.ts", pts=range(120), options={"g": "30"}).read_bytes()
    growing = tmp_path / "growing.ts"
    growing.write_bytes(whole[: len(whole) // 2])
    cache = ClipCache()
    first = cache.reader(growing)
    before = first.info.duration_seconds
    assert 1 < before < 3
    with growing.open("ab") as file:
        file.write(whole[len(whole) // 2 :])
    assert cache.reader(growing).info.duration_seconds == pytest.approx(4.0)
    assert read_number(cache.frames_at(cache.reader(growing), [3.5]).frames[0]) == 105
    assert first.info.duration_seconds == before  # a conversation that is under way keeps what it was told
    assert read_number(cache.frames_at(first, [0.5]).frames[0]) == 15


# ---------------------------------------------------------------- readers of one's own


class _Own:
    """The least that the engine asks for."""

    def __init__(self) -> None:
        self.info = VideoInfo("mine", 2.0, 1.0, 128, 96)
        self.closed = False

    def frames_at(self, timestamps: Any) -> Clip:
        numbers = list(dict.fromkeys(int(t) for t in timestamps))
        return Clip(
            np.stack([painted(n) for n in numbers]), tuple(map(float, numbers)), tuple(numbers), (False,) * len(numbers)
        )

    def close(self) -> None:
        self.closed = True


def test_a_reader_of_ones_own_goes_through_the_cache_untouched() -> None:
    own = _Own()
    video: FrameSource = ClipCache().open(own, config=ZoomConfig(), spec=PatchSpec())
    assert video.info.path == "mine"
    assert [read_number(image) for image in video.frames_at([1.5, 0.0]).frames] == [1, 0]
    with pytest.raises(VideoReadError, match="mine: it has no keyframes_at; use the exact glance"):
        look(video, [1.0], keyframes=True)
    video.close()
    assert not own.closed
    with pytest.raises(VideoError, match="open already"):
        open_video(own)


def test_an_open_reader_is_read_through_the_cache(path: Path) -> None:
    config, spec, cache = ZoomConfig(max_pixels=3136), PatchSpec(), ClipCache()
    with open_video(path) as reader:
        wanted = resize_frames(reader.frames_at([1.0]).frames, config=config, spec=spec)
        video = cache.open(reader, config=config, spec=spec)
        for _ in range(2):
            assert np.array_equal(video.frames_at([1.0]).frames, wanted)
        assert (cache.stats().misses, cache.stats().hits) == (1, 1)


def test_the_reader_of_the_page_on_torchcodec(path: Path, truth: Clip) -> None:
    """docs/video.md shows it. torchcodec loads beside few builds of torch."""
    try:
        importlib.import_module("torchcodec.decoders")
    except (ImportError, OSError, RuntimeError) as error:
        pytest.skip(f"torchcodec does not load: {str(error).strip().splitlines()[0]}")
    page = Path(__file__).parents[1] / "docs" / "video.md"
    [code] = [block.code for block in blocks_of(page) if "TorchCodecVideo" in block.code]
    made: dict[str, Any] = {}
    exec(code, made)
    video = made["TorchCodecVideo"](str(path))
    assert isinstance(video, FrameSource)
    clip = video.frames_at([*TIMES, 9.0])
    assert clip.frame_indices == (*truth.frame_indices, 119)
    assert clip.pts_seconds == pytest.approx((*truth.pts_seconds, 119 / 30))
    assert clip.clamped == (False,) * len(truth) + (True,)
    assert [read_number(image) for image in clip.images] == list(clip.frame_indices)
    assert vzoom.load(device="cpu").ask(video, "What is shown?").trajectory.video.path == str(path)
    assert len(code[code.index("class") :].strip().splitlines()) <= 40
