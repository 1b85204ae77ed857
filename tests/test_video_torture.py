"""Random requests to every file of `torture_videos.py`: each frame is the one on display, with its own time, once.

The long variant: `python tests/test_video_torture.py 100000`.
"""

from __future__ import annotations

import math
import random
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from test_video_render import decode_all, read_number, render
from torture_videos import FILES, REFUSED, Shelf, Truth, on_display, repeated

from vzoom.types import Clip
from vzoom.video import VideoError, VideoReader, VideoReadError, open_video
from vzoom.video import index as video_index

# Read through at the opening, unless the limit is lowered: then their keyframes come from cues, or are looked for.
LARGE = ["short_gops.mkv", "short_gops.webm", "short_gops.ts", "open_gop.ts", "six_hours.mkv", "uneven.ts", "gap.ts"]
NUM_REQUESTS = 12  # per file


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    return Shelf(tmp_path_factory.mktemp("torture"))


def slack_seconds(video: VideoReader) -> float:
    """How far before its pts a frame counts as on display: half a tick, or nothing if a tick is a frame's period."""
    tick = float(video.tick_seconds)
    return 1e-6 if tick * video.info.fps > 0.4 or tick > 0.002 else tick / 2


def check(video: VideoReader, truth: Truth, clip: Clip, times: list[float], segment: tuple[float, float]) -> None:
    """That `clip` is right for `times` (increasing) in `segment`."""
    slack = slack_seconds(video)
    first = on_display(truth.times, segment[0] + slack)
    within = [first, *(i for i, at in enumerate(truth.times) if i > first and at < segment[1] - slack)]
    at_times = list(dict.fromkeys(on_display(truth.times, t + slack) for t in times))
    expected = within if len(within) <= len(times) else at_times
    assert [read_number(image) for image in clip.frames] == [truth.numbers[i] for i in expected]
    assert clip.pts_seconds == pytest.approx([truth.times[i] for i in expected], abs=1e-6)
    assert len(set(clip.frame_indices)) == len(clip.frame_indices)
    past = truth.times[-1] + slack
    assert [c for c, t in zip(clip.clamped, clip.pts_seconds, strict=True) if t < past - 0.002] == [False] * sum(
        t < past - 0.002 for t in clip.pts_seconds
    )


def a_request(rng: random.Random, video: VideoReader) -> tuple[list[float], tuple[float, float]]:
    """As a zoom asks: (times, segment)."""
    end = video.info.duration_seconds
    start = rng.uniform(0, end * 0.999)
    length = min(end - start, rng.choice([0.1, 0.5, 1, 2, 10, end]) * rng.uniform(0.3, 1))
    count = rng.randint(1, 16)
    step = length / count
    return [start + i * step for i in range(count)], (start, start + length)


def ask(video: VideoReader, truth: Truth, rng: random.Random, count: int) -> None:
    for _ in range(count):
        times, segment = a_request(rng, video)
        check(video, truth, video.frames_in(segment, times), times, segment)


@pytest.mark.parametrize("name", FILES)
def test_every_frame_is_the_one_on_display(name: str, shelf: Shelf) -> None:
    truth = shelf.truth(name)
    with open_video(shelf.path(name)) as video:
        # A header may name a shorter last frame; it never hides one or promises what is not there.
        assert truth.times[-1] < video.info.duration_seconds < truth.times[-1] + max(61.0, 2 / video.info.fps)
        ask(video, truth, random.Random(name), NUM_REQUESTS)


@pytest.mark.parametrize("seek_mode", ["exact", "approximate"])
@pytest.mark.parametrize("name", LARGE)
def test_files_that_are_not_read_through(
    name: str, seek_mode: str, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video_index, "SCAN_BYTES", 4096)
    with open_video(shelf.path(name), seek_mode=seek_mode) as video:
        if seek_mode == "exact":
            assert (video.info.max_fps is None) == (name not in ("uneven.ts", "gap.ts"))
        ask(video, shelf.truth(name), random.Random(name), NUM_REQUESTS)


@pytest.mark.parametrize("suffix", ["mkv", "ts"])
def test_an_opening_reads_little_of_a_large_file(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = render(tmp_path / "short.mp4", pts=range(400), options={"g": "12", "bf": "2"})
    path = repeated(short, tmp_path / f"large.{suffix}", times=20)
    monkeypatch.setattr(video_index, "SCAN_BYTES", 1 << 16)
    with open_video(path, max_packets=1200) as video:  # of 8 000
        assert video.info.duration_seconds == pytest.approx(8000 / 30, abs=1e-3)
        assert (video.info.fps, video.info.max_fps) == (30.0, None)
        for number in (0, 7999, 4001, 1234, 6000):
            clip = video.frames_at([number / 30])
            assert clip.frame_indices == (number,)
            assert read_number(clip.frames[0]) == number % 400


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_rightly_is_refused(name: str, shelf: Shelf) -> None:
    with pytest.raises(VideoError) as caught:
        open_video(shelf.path(name))
    assert REFUSED[name][1] in str(caught.value)
    assert name in str(caught.value)


def test_a_clock_that_is_set_back_is_noticed_in_passing(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the opening did not see it."""
    monkeypatch.setattr(video_index, "SCAN_BYTES", 4096)
    with open_video(shelf.path("joined.ts"), seek_mode="approximate") as video:
        assert read_number(video.frames_at([1.0]).frames[0]) == 30
        with pytest.raises(VideoReadError, match="its clock falls from"):
            video.frames_at([1e6])


def test_a_tick_that_is_a_frames_period_is_exact(shelf: Shelf) -> None:
    with open_video(shelf.path("slow.avi")) as video:  # a frame each 10 s
        for seconds, number in ((5.1, 0), (9.999, 0), (10.0, 1), (19.9, 1), (1e-9, 0)):
            assert read_number(video.frames_at([seconds]).frames[0]) == number
    for name in ("mpeg4.avi", "mpeg2.mxf", "vp8.ogv", "tick_is_frame.mp4"):
        with open_video(shelf.path(name)) as video:
            period = 1 / video.info.fps
            times = [(i + 0.9) * period for i in range(40)]
            assert [read_number(video.frames_at([t]).frames[0]) for t in times] == list(range(40))


@pytest.mark.parametrize("name", ["animated.gif", "animated.apng"])
def test_pictures_that_are_painted_over_each_other(name: str, shelf: Shelf) -> None:
    truth = decode_all(shelf.path(name))
    with open_video(shelf.path(name)) as video:
        for number in (30, 5, 39, 6, 0):
            np.testing.assert_array_equal(video.frames_at([number / 10 + 0.05]).frames[0], truth[number][1])


def test_every_frame_of_a_recording_of_a_screen(shelf: Shelf) -> None:
    for name in ("recording.mp4", "recording.mkv", "recording.webm"):
        with open_video(shelf.path(name)) as video:
            assert video.info.fps < 0.3
            assert video.info.max_fps == pytest.approx(1000 / 33)
            sixteen = [9.0 + i / 16 for i in range(16)]
            clip = video.frames_in((9.0, 10.0), sixteen)
            assert [read_number(image) for image in clip.frames] == [2, 3, 4]
            assert clip.pts_seconds == (9.0, 9.2, 9.7)
            # Nothing appears in this second; what is on display was there before.
            assert video.frames_in((12.0, 13.0), sixteen).pts_seconds == (9.7,)
            # More frames than times: those at the times.
            assert video.frames_in((9.0, 10.0), [9.0, 9.5]).pts_seconds == (9.0, 9.2)


def main(num_requests: int) -> None:
    """`num_requests` in all, over all files; half of them without reading files through."""
    with tempfile.TemporaryDirectory() as folder:
        shelf = Shelf(Path(folder))
        runs = [(name, False) for name in FILES] + [(name, True) for name in LARGE]
        for number, (name, is_large) in enumerate(runs):
            video_index.SCAN_BYTES = 4096 if is_large else 8 << 20
            with open_video(shelf.path(name)) as video:
                count = math.ceil(num_requests / len(runs))
                ask(video, shelf.truth(name), random.Random(number), count)
            print(f"{name}: {count} requests", flush=True)
    print(f"{count * len(runs)} requests, 0 wrong frames, 0 repeated frames")


if __name__ == "__main__":
    main(int(sys.argv[1]))
