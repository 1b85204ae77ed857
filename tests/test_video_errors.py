"""What a user can hand over by mistake: each gets one typed error of one line that names the file."""

from __future__ import annotations

import functools
import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from test_video_render import read_number, render

from vzoom.video import VideoError, VideoReadError, open_video


def _song(path: Path, *, cover: bool) -> None:
    with av.open(str(path), "w") as out:
        sound = out.add_stream("aac", rate=16000, layout="mono")
        if cover:
            picture = out.add_stream("mjpeg", rate=1)
            picture.width, picture.height, picture.pix_fmt = 64, 48, "yuvj420p"
            picture.disposition = av.stream.Disposition.attached_pic.value
            frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")
            frame.pts, frame.time_base = 0, Fraction(1, 1)
            out.mux([*picture.encode(frame), *picture.encode(None)])
        for k in range(20):
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            silence.sample_rate, silence.pts, silence.time_base = 16000, k * 1024, Fraction(1, 16000)
            out.mux(sound.encode(silence))
        out.mux(sound.encode(None))


def _make(kind: str, path: Path) -> None:
    if kind.startswith("text"):
        path.write_text("not a video, but quite a long text\n" * 500)
    elif kind == "noise":
        path.write_bytes(np.random.default_rng(0).bytes(50_000))
    elif kind == "empty":
        path.touch()
    elif kind == "directory":
        path.mkdir()
    elif kind.startswith("audio"):
        _song(path, cover="cover" in kind)
    elif kind == "half an mp4":  # its index was at the end
        whole = render(path.with_name("whole.mp4"), pts=range(30))
        path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    elif kind == "raw":
        render(path, pts=range(30))
    elif kind == "reordered avi":
        render(path, pts=range(30), options={"bf": "2"})


@pytest.mark.parametrize(
    ("kind", "name", "says"),
    [
        ("missing", "nope.mp4", "no such file"),
        ("directory", "folder.mp4", "a directory"),
        ("empty", "empty.mp4", "an empty file"),
        ("text", "a.mp4", "not a video"),
        ("text with a text's name", "a.txt", "a text file"),
        ("noise", "noise.mp4", "not a video"),
        ("audio", "song.m4a", "no video stream in it (it holds: audio)"),
        ("audio with a cover", "cover.mp4", "no video stream"),
        ("half an mp4", "half.mp4", "not a video that can be opened"),
        ("raw", "raw.h264", "no frame in it has a time"),
        ("reordered avi", "b.avi", "convert it"),
    ],
)
def test_one_clear_line(kind: str, name: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / name
    _make(kind, path)
    with pytest.raises(VideoError) as caught:
        open_video(path)
    text = str(caught.value)
    assert says in text
    assert name in text
    assert "\n" not in text
    assert isinstance(caught.value, ValueError)
    assert not isinstance(caught.value, VideoReadError)


def test_wrong_arguments(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="backend must be auto, pyav or dali, got 'ffmpeg'"):
        open_video(tmp_path, backend="ffmpeg")  # type: ignore[arg-type]
    for name in ("num_threads", "deadline_seconds", "max_packets"):
        with pytest.raises(ValueError, match=f"{name} must be above 0"):
            open_video(tmp_path, **{name: 0})  # type: ignore[arg-type]


def test_names_that_look_like_a_protocol_are_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    render(tmp_path / "plain.mp4", pts=range(20))
    os.rename("plain.mp4", "concat:b.mp4")
    with open_video("concat:b.mp4") as video:
        assert read_number(video.frames_at([0.5]).frames[0]) == 15


class _Ranges(http.server.SimpleHTTPRequestHandler):
    """Python's file server, with byte ranges, and without a log."""

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        data = path.read_bytes()
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        self.send_response(206)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        self.wfile.write(data[start:])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    handler = functools.partial(_Ranges, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{running.server_port}"
        finally:
            running.shutdown()
            thread.join()


def test_urls_are_opened_as_they_are(server: str, tmp_path: Path) -> None:
    path = render(tmp_path / "a.mp4", pts=range(90), options={"g": "30"})
    for url in (f"{server}/a.mp4", path.as_uri()):
        with open_video(url, deadline_seconds=20) as video:
            assert video.info.path == url
            assert [read_number(image) for image in video.frames_at([0.1, 2.5]).frames] == [3, 75]
    with pytest.raises(VideoError, match=r"nope\.mp4: not a video that can be opened"):
        open_video(f"{server}/nope.mp4", deadline_seconds=20)


def test_a_reader_that_is_left_open_says_nothing_at_the_end(tmp_path: Path) -> None:
    path = render(tmp_path / "a.mp4", pts=range(60))
    # Held by a module that is cleared late, with all the others, so that names are gone before the reader is.
    script = (
        "import os, sys, vzoom.video; video = vzoom.video.open_video(sys.argv[1]); video.frames_at([0.0]); "
        "os.kept = video, dict(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
