"""What a look at a video costs: opening, a zoom (fresh and warm, cached), a glance. `pytest bench/bench_video.py`

Times are CPU milliseconds of this process (user + system), one decoding thread, on a ten-minute 640x360 H.264 file
(x264 veryfast, groups of 250 frames) that is rendered first. Every frame carries its number, and what came back is
checked before anything is timed. `floor_ms` beside each result is what decoding from the keyframes before and
converting to RGB cost on this machine in the same run, without skipping a frame; `ratio` is the median over it.
"""

from __future__ import annotations

import itertools
import os
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from vzoom.config import ZoomConfig
from vzoom.protocol.frame_times import glance_timestamps
from vzoom.video import ClipCache, VideoReader, open_video

SECONDS = int(os.environ.get("VZOOM_BENCH_VIDEO_SECONDS", "600"))
FPS, WIDTH, HEIGHT, BITS = 30, 640, 360, 16
cpu_timed = pytest.mark.benchmark(timer=time.process_time, warmup=False)


def _picture(number: int) -> np.ndarray:
    ramp = (np.arange(WIDTH)[None, :] * 2 + np.arange(HEIGHT)[:, None] + number * 3) % 256
    frame = np.repeat(ramp.astype(np.uint8)[:, :, None], 3, axis=2)
    for bit in range(BITS):
        frame[10:40, 10 + bit * 36 : 42 + bit * 36] = 235 if number >> bit & 1 else 20
    return frame


def _number(image: np.ndarray) -> int:
    return sum(int(image[15:35, 16 + bit * 36 : 36 + bit * 36].mean() > 127) << bit for bit in range(BITS))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("bench") / "long.mp4"
    with av.open(str(made), "w") as out:
        stream = out.add_stream("libx264", rate=FPS, options={"preset": "veryfast", "g": "250"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.thread_count = 1
        for number in range(SECONDS * FPS):
            frame = av.VideoFrame.from_ndarray(_picture(number), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return made


@pytest.fixture(scope="module")
def frame_ms(path: Path) -> tuple[float, float]:
    """CPU milliseconds to decode one frame in sequence, and to convert one to RGB."""
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        container.streams.video[0].thread_type = "NONE"
        began = time.process_time()
        frames = list(itertools.islice(container.decode(video=0), 300))
        decode = (time.process_time() - began) / len(frames)
        began = time.process_time()
        for frame in frames[::3]:
            frame.to_ndarray(format="rgb24", threads=1)
        convert = (time.process_time() - began) / len(frames[::3])
    return decode * 1e3, convert * 1e3


def _keyframes(path: Path) -> list[int]:
    with av.open(str(path)) as container:
        return [i for i, entry in enumerate(container.streams.video[0].index_entries) if entry.is_keyframe]


def _floor_ms(path: Path, times: list[float], frame_ms: tuple[float, float]) -> float:
    """Every group that is touched, decoded from its keyframe to the last frame wanted of it."""
    keys = np.array(_keyframes(path))
    numbers = np.array([int(t * FPS + 1e-6) for t in times])
    groups = np.searchsorted(keys, numbers, side="right") - 1
    decoded = sum(int(numbers[groups == g].max() - keys[g] + 1) for g in np.unique(groups))
    return decoded * frame_ms[0] + len(set(numbers.tolist())) * frame_ms[1]


def _zooms() -> list[list[float]]:
    """Two-second clips of 16 frames, all over the video."""
    starts = np.random.default_rng(0).uniform(0, SECONDS - 3, size=12).round(3)
    return [[float(start) + k / 8 for k in range(16)] for start in starts]


def _checked(video: VideoReader, times: list[float]) -> None:
    clip = video.frames_at(times)
    assert [_number(image) for image in clip.frames] == list(clip.frame_indices)
    assert list(clip.frame_indices) == [int(t * FPS + 1e-3) for t in times]


def _note(benchmark: BenchmarkFixture, floor_ms: float) -> None:
    benchmark.extra_info["floor_ms"] = round(floor_ms, 2)
    if benchmark.stats is not None:  # None under --benchmark-disable
        benchmark.extra_info["ratio"] = round(benchmark.stats.stats.median * 1e3 / floor_ms, 2)


@cpu_timed
def test_open(path: Path, benchmark: BenchmarkFixture) -> None:
    with open_video(path) as video:
        assert video.info.duration_seconds == pytest.approx(SECONDS)
    benchmark(lambda: open_video(path).close())


@cpu_timed
@pytest.mark.parametrize("how", ["fresh", "warm", "cached"])
def test_zoom(how: str, path: Path, frame_ms: tuple[float, float], benchmark: BenchmarkFixture) -> None:
    zooms = _zooms()
    cache = ClipCache()
    with open_video(path) as video:
        for times in zooms:
            _checked(video, times)
            cache.frames_at(video, times)
        turns = itertools.cycle(zooms)

        def fresh() -> None:
            with open_video(path) as opened:
                opened.frames_at(next(turns))

        todo = {
            "fresh": fresh,
            "warm": lambda: video.frames_at(next(turns)),
            "cached": lambda: cache.frames_at(video, next(turns)),
        }
        benchmark.pedantic(todo[how], rounds=2 * len(zooms))
    _note(benchmark, float(np.median([_floor_ms(path, times, frame_ms) for times in zooms])))


@cpu_timed
def test_glance(path: Path, frame_ms: tuple[float, float], benchmark: BenchmarkFixture) -> None:
    with open_video(path) as video:
        times = glance_timestamps(video.info, ZoomConfig())
        _checked(video, times)
        benchmark.pedantic(lambda: video.frames_at(times), rounds=3)
    _note(benchmark, _floor_ms(path, times, frame_ms))
