"""What a user can hand over by mistake: each gets one typed error of one line that names the file."""

from __future__ import annotations

import functools
import http.server
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from test_video_render import read_number, render

from vzoom.config import VideoOptions
from vzoom.video import VideoError, VideoReadError, open_video
from vzoom.video.base import ReadBudget
from vzoom.video.packet_source import PacketSource
from vzoom.video.sources import media_file


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


def test_names_that_are_no_regular_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "fifo.mp4")
    with socket.socket(socket.AF_UNIX) as listening:
        monkeypatch.chdir(tmp_path)  # the path of a socket has to be short
        listening.bind("socket.mp4")
    for name in ("fifo.mp4", "socket.mp4", "/dev/zero"):
        with pytest.raises(VideoError, match="not a regular file"):
            open_video(tmp_path / name)
    with pytest.raises(VideoError, match=r"aaa… \(5000 characters\): cannot be opened \(File name too long\)"):
        open_video("a" * 5000)
    with pytest.raises(VideoError, match="no file has such a name"):
        open_video("a\0b.mp4")
    with pytest.raises(VideoError, match="no such file"):
        open_video(tmp_path / "fifo.mp4" / "inside.mp4")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    folder = tmp_path / "closed"
    folder.mkdir()
    render(folder / "a.mp4", pts=range(5))
    folder.chmod(0)
    try:
        with pytest.raises(VideoError, match=r"cannot be opened \(Permission denied\)"):
            open_video(folder / "a.mp4")
    finally:
        folder.chmod(0o700)


def test_playlists_open_other_files_only_if_asked(tmp_path: Path) -> None:
    render(tmp_path / "part.ts", pts=range(60), options={"g": "20"})
    playlist = tmp_path / "list.m3u8"
    playlist.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\npart.ts\n#EXT-X-ENDLIST\n")
    # libav knows it by its content: the name does not matter, nor whether it comes as bytes.
    renamed = tmp_path / "list.mp4"
    renamed.write_bytes(playlist.read_bytes())
    for video in (playlist, renamed, playlist.read_bytes()):
        with pytest.raises(VideoError, match="a playlist, which opens other files; follow_playlists=True allows it"):
            open_video(video)
    with open_video(playlist, follow_playlists=True) as video:
        assert [read_number(image) for image in video.frames_at([0.1, 1.0]).frames] == [3, 30]


def test_a_stream_that_pyav_does_not_know_ends_the_file(tmp_path: Path) -> None:
    """In damaged transport streams libav finds streams that were not there; PyAV's flush at the end stumbles."""
    path = render(tmp_path / "a.ts", pts=range(30))

    class Stumbling:
        def __init__(self, container: Any) -> None:
            self._container = container

        def __getattr__(self, name: str) -> Any:
            return getattr(self._container, name)

        def demux(self, stream: Any) -> Iterator[Any]:
            yield from (packet for packet in self._container.demux(stream) if packet.size)
            raise IndexError("list index out of range")

    source = PacketSource(media_file(path), VideoOptions(), ReadBudget("a.ts", deadline_seconds=9, max_packets=99))
    source.container = Stumbling(source.container)  # type: ignore[assignment]
    assert len(list(source.packets())) == 30


def test_a_stream_that_appears_late(tmp_path: Path) -> None:
    first = render(tmp_path / "first.ts", pts=range(60), options={"g": "20"})
    second = render(tmp_path / "second.ts", pts=range(60, 120), options={"g": "20"}, audio=True)
    path = tmp_path / "both.ts"
    path.write_bytes(first.read_bytes() + second.read_bytes())
    with open_video(path) as video:
        assert [read_number(image) for image in video.frames_at([0.5, 3.9, 9.0]).frames] == [15, 57, 59]


def test_frames_of_more_pixels_than_allowed(tmp_path: Path) -> None:
    path = render(tmp_path / "a.mp4", pts=range(5))
    with pytest.raises(VideoError, match="its frames have 128x96 pixels, and max_frame_pixels is 12000"):
        open_video(path, max_frame_pixels=12_000)
    with open_video(path, max_frame_pixels=128 * 96) as video:
        assert read_number(video.frames_at([0.0]).frames[0]) == 0


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
    odd = tmp_path / "ä b%20c?d#e.mp4"
    odd.write_bytes(path.read_bytes())
    assert "%25" in odd.as_uri()
    for url in (f"{server}/a.mp4", path.as_uri(), odd.as_uri(), path.as_uri().replace("file://", "file://localhost")):
        with open_video(url, deadline_seconds=20) as video:
            assert video.info.path == url
            assert [read_number(image) for image in video.frames_at([0.1, 2.5]).frames] == [3, 75]
    with pytest.raises(VideoError, match=r"nope\.mp4: not a video that can be opened"):
        open_video(f"{server}/nope.mp4", deadline_seconds=20)


def test_urls_of_no_server_that_is_read(tmp_path: Path) -> None:
    for url in ("ftp://host/a.mp4", "rtmp://host/a", "subfile:///etc/passwd", "concat://a.mp4"):
        with pytest.raises(VideoError, match="URLs of http, https and files"):
            open_video(url)
    with pytest.raises(VideoError, match="a file of another machine"):
        open_video("file://elsewhere/a.mp4")


def test_a_server_without_ranges_is_read_from_the_front(server: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(_Ranges, "do_GET", http.server.SimpleHTTPRequestHandler.do_GET)
    render(tmp_path / "a.mkv", pts=range(60), options={"g": "30"})
    with open_video(f"{server}/a.mkv", deadline_seconds=20) as video:
        assert [read_number(image) for image in video.frames_at([0.1, 1.5]).frames] == [3, 45]


@pytest.fixture
def slow_server(tmp_path: Path) -> Iterator[tuple[str, threading.Event]]:
    """Sends a video of 1 MB; while the event is set, a byte every 0.2 s."""
    rng = np.random.default_rng(0)
    path = tmp_path / "noise.mp4"
    with av.open(str(path), "w", container_options={"movflags": "faststart"}) as out:
        stream = out.add_stream("mjpeg", rate=30)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuvj420p"
        for number in range(60):
            noise = rng.integers(0, 255, (240, 320, 3), dtype=np.uint8)
            frame = av.VideoFrame.from_ndarray(noise, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 30)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    stalls, over = threading.Event(), threading.Event()

    class Slow(_Ranges):
        def do_GET(self) -> None:
            data = path.read_bytes()
            start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            try:
                for at in range(start, len(data), 4096):
                    while stalls.is_set() and not over.wait(0.2):
                        self.wfile.write(data[at : at + 1])
                    if over.is_set():
                        return
                    self.wfile.write(data[at : at + 4096])
            except OSError:
                return  # the reader has gone

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Slow) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{running.server_port}/noise.mp4", stalls
        finally:
            over.set()
            running.shutdown()
            thread.join()


def test_a_deadline_is_a_deadline(slow_server: tuple[str, threading.Event]) -> None:
    url, stalls = slow_server
    with open_video(url, deadline_seconds=1.0) as video:
        assert video.info.duration_seconds == pytest.approx(2.0)
        stalls.set()
        for call in (
            lambda: video.frames_at([1.9]),
            lambda: video.frames_at([1.0]),
            lambda: open_video(url, deadline_seconds=1.0),
        ):
            began = time.monotonic()
            with pytest.raises(VideoReadError, match=r"gave up after 1 s; raise deadline_seconds"):
                call()
            assert 0.9 < time.monotonic() - began < 1.5
        stalls.clear()
        assert len(video.frames_at([1.9])) == 1  # the server is well again


def test_a_server_that_does_not_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/a.mp4"
        began = time.monotonic()
        with pytest.raises(VideoReadError, match=r"gave up after 0\.5 s"):
            open_video(url, deadline_seconds=0.5)
        assert time.monotonic() - began < 1.0
    with pytest.raises(VideoReadError, match="the server cannot be read"):
        open_video(url, deadline_seconds=5)


def test_closing_ends_a_read_in_another_thread(slow_server: tuple[str, threading.Event]) -> None:
    url, stalls = slow_server
    video = open_video(url, deadline_seconds=30)
    stalls.set()
    failed: list[VideoReadError] = []

    def read() -> None:
        try:
            video.frames_at([1.9])
        except VideoReadError as error:
            failed.append(error)

    reading = threading.Thread(target=read)
    reading.start()
    time.sleep(0.3)
    began = time.monotonic()
    video.close()
    reading.join()
    assert time.monotonic() - began < 1.0
    assert "the reader is closed" in str(failed[0])


def test_a_forked_child_reads_its_own_file(tmp_path: Path) -> None:
    """In a process of its own: this one has threads."""
    path = render(tmp_path / "a.mkv", pts=range(300), options={"g": "30"})
    script = """
import os, sys, threading
sys.path.insert(0, sys.argv[2])
from test_video_render import read_number
from vzoom.video import open_video

def check(times):
    for t in times:
        assert [read_number(image) for image in video.frames_at([t / 30]).frames] == [t], t

video = open_video(sys.argv[1])
check([100, 200])
video._lock.acquire()  # as if another thread of the parent read at that moment
child = os.fork()
if child == 0:
    check(range(0, 300, 7))
    os._exit(0)
video._lock.release()
check(range(299, 0, -7))
assert os.waitpid(child, 0)[1] == 0
"""
    command = [sys.executable, "-c", script, str(path), str(Path(__file__).parent)]
    subprocess.run(command, check=True, timeout=60)


def test_a_reader_that_is_left_open_says_nothing_at_the_end(tmp_path: Path) -> None:
    path = render(tmp_path / "a.mp4", pts=range(60))
    # Held by a module that is cleared late, with all the others, so that names are gone before the reader is.
    script = (
        "import os, sys, vzoom.video; video = vzoom.video.open_video(sys.argv[1]); video.frames_at([0.0]); "
        "os.kept = video, dict(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
