"""The cache hands out what the reader would, decodes nothing twice, and stays within its bytes."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from protocols import DIRECT, VZOOM
from test_video_render import painted, read_number, render

from vzoom.config import ZoomConfig
from vzoom.video import ClipCache, Frame, PatchSpec, Resize, VideoReader, VideoReadError, look, open_video
from vzoom.video.patches import resize_frames

FRAME_BYTES = painted(0).nbytes


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return render(tmp_path_factory.mktemp("cache") / "a.mp4", pts=range(120), options={"g": "30"})


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Ticks that readers were asked to decode."""
    seen: list[int] = []
    read = VideoReader.read

    def counted(self: VideoReader, ticks: Sequence[int], **how: Any) -> list[Frame]:
        seen.extend(ticks)
        return read(self, ticks, **how)

    monkeypatch.setattr(VideoReader, "read", counted)
    return seen


def test_equals_the_reader(path: Path) -> None:
    rng = random.Random(0)
    cache = ClipCache(40 * FRAME_BYTES)
    with open_video(path) as plain, open_video(path) as video:
        for _ in range(60):
            start = rng.uniform(0, 4.2)
            times = [start + k * rng.uniform(0.01, 0.2) for k in range(rng.choice([1, 4, 16]))]
            ours, theirs = cache.frames_at(video, times), plain.frames_at(times)
            assert ours.pts_seconds == theirs.pts_seconds
            assert ours.frame_indices == theirs.frame_indices
            assert ours.clamped == theirs.clamped
            np.testing.assert_array_equal(ours.frames, theirs.frames)
            stats = cache.stats()
            assert stats.num_bytes == stats.num_frames * FRAME_BYTES <= cache.max_bytes
    assert stats.hits
    assert stats.evictions


def test_overlapping_zooms_share_frames(path: Path, asked: list[int]) -> None:
    cache = ClipCache()
    with open_video(path) as video:
        cache.frames_at(video, [1.0, 1.1, 1.2, 1.3])
        assert len(asked) == 4
        # Another phase of the same frames: found by what is displayed, not by the time asked for.
        clip = cache.frames_at(video, [1.21, 1.32, 1.4])
        assert [read_number(image) for image in clip.frames] == [36, 39, 42]
        assert len(asked) == 5
        assert (cache.stats().hits, cache.stats().misses) == (2, 5)
        # Beyond the end it is one frame, for whichever time.
        assert cache.frames_at(video, [50.0]).clamped == (True,)
        assert cache.frames_at(video, [60.0, 3.99]).frame_indices == (119,)
        assert len(asked) == 6


def test_the_least_recently_used_frame_goes(path: Path, asked: list[int]) -> None:
    cache = ClipCache(3 * FRAME_BYTES)
    with open_video(path) as video:
        cache.frames_at(video, [0.0, 1.0, 2.0])
        cache.frames_at(video, [0.0])
        cache.frames_at(video, [3.0])  # in place of 1.0
        asked.clear()
        cache.frames_at(video, [0.0, 2.0, 3.0])
        assert asked == []
        cache.frames_at(video, [1.0])
        assert len(asked) == 1
    assert cache.stats().evictions == 2


def test_a_frame_larger_than_the_cache_is_given_but_not_kept(path: Path) -> None:
    cache = ClipCache(FRAME_BYTES - 1)
    with open_video(path) as video:
        assert read_number(cache.frames_at(video, [1.0]).frames[0]) == 30
    assert cache.stats().num_bytes == 0


def test_resized_frames_are_kept_by_the_name_of_the_resize(path: Path, asked: list[int]) -> None:
    cache = ClipCache()
    half = Resize(("stride", 2), lambda image: image[::2, ::2])
    third = Resize(("stride", 3), lambda image: image[::3, ::3])
    with open_video(path) as video:
        assert cache.frames_at(video, [1.0], resize=half).frames.shape == (1, 48, 64, 3)
        assert cache.frames_at(video, [1.0], resize=third).frames.shape == (1, 32, 43, 3)
        assert cache.frames_at(video, [1.0]).frames.shape == (1, 96, 128, 3)
        assert len(asked) == 3
        assert cache.frames_at(video, [1.0], resize=half).frames.shape == (1, 48, 64, 3)
        assert len(asked) == 3
        with pytest.raises(ValueError, match="not uint8"):
            cache.frames_at(video, [1.0], resize=Resize("float", lambda image: image / 2))


def test_a_file_that_changed_is_another_file(tmp_path: Path) -> None:
    cache = ClipCache()
    path = render(tmp_path / "a.mp4", pts=range(30))
    first = cache.reader(path)
    assert cache.reader(path) is first
    link = tmp_path / "b.mp4"
    link.symlink_to(path)
    assert cache.reader(link) is first
    assert read_number(cache.frames_at(first, [0.5]).frames[0]) == 15
    render(path, pts=[0, 15, 16])
    os.utime(path, ns=(0, 1))
    second = cache.reader(path)
    assert second is not first
    assert read_number(cache.frames_at(second, [0.5]).frames[0]) == 1


def test_readers_are_bounded_and_outlive_their_place(tmp_path: Path) -> None:
    cache = ClipCache(max_readers=1)
    a = cache.reader(render(tmp_path / "a.mp4", pts=range(10)))
    b = cache.reader(render(tmp_path / "b.mp4", pts=range(10)))
    assert cache.reader(tmp_path / "b.mp4") is b
    assert read_number(a.frames_at([0.1]).frames[0]) == 3  # whoever holds it may go on
    assert cache.reader(tmp_path / "a.mp4") is not a
    a.close()
    with pytest.raises(VideoReadError):
        a.frames_at([0.1])


def test_callers_cannot_spoil_what_is_kept(path: Path) -> None:
    cache = ClipCache()
    with open_video(path) as video:
        cache.frames_at(video, [1.0]).frames[:] = 0
        assert read_number(cache.frames_at(video, [1.0]).frames[0]) == 30


def test_errors_are_the_readers(path: Path) -> None:
    with open_video(path) as video:
        with pytest.raises(ValueError, match="at least one"):
            ClipCache().frames_at(video, [])
        with pytest.raises(ValueError, match="timestamp"):
            ClipCache().frames_at(video, [-1.0])
    with pytest.raises(ValueError, match="max_bytes"):
        ClipCache(-1)


def test_threads(path: Path) -> None:
    cache = ClipCache(10 * FRAME_BYTES)
    wrong: list[int] = []

    def ask(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(30):
            numbers = [rng.randrange(120) for _ in range(3)]
            clip = cache.frames_at(cache.reader(path), [n / 30 for n in numbers])
            if [read_number(image) for image in clip.frames] != list(dict.fromkeys(numbers)):
                wrong.extend(numbers)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    stats = cache.stats()
    assert stats.num_bytes == stats.num_frames * FRAME_BYTES <= cache.max_bytes


def test_videos_that_are_opened_through_the_cache_share_frames_of_one_size(path: Path, asked: list[int]) -> None:
    cache, spec = ClipCache(), PatchSpec()
    config = ZoomConfig(max_pixels=3136)
    with open_video(path) as plain:
        wanted = resize_frames(plain.frames_at([1.0, 2.0]).frames, config=config, spec=spec)
    asked.clear()
    first = cache.open(path, config=config, spec=spec)
    assert np.array_equal(first.frames_at([1.0, 2.0]).frames, wanted)
    first.close()  # the reader is the cache's
    assert len(asked) == 2
    again = cache.open(path, config=config, spec=spec)
    assert again.info == first.info
    assert np.array_equal(again.frames_at([2.0, 1.0]).frames, wanted[::-1])
    assert len(asked) == 2
    for other_config, other_spec in (
        (replace(config, max_pixels=6272), spec),
        (replace(config, min_pixels=784), spec),
        (replace(config, protocol=DIRECT), spec),
        (config, PatchSpec(patch_size=16)),
    ):
        other = cache.open(path, config=other_config, spec=other_spec).frames_at([1.0])
        assert np.array_equal(other.frames[0], _resized_alone(path, 1.0, other_config, other_spec))
    assert len(asked) == 2 + 4 * 2  # once through the cache and once without it


def test_frames_of_a_long_video_are_as_small_as_the_protocol_says(tmp_path: Path) -> None:
    protocol = VZOOM.override(pixels={"resize": "box", "box": (112, 84), "long_box": (56, 28)})
    config = ZoomConfig(protocol=protocol, min_pixels=784)
    for num_frames, width in ((300, 112), (301, 56)):
        file = render(
            tmp_path / f"{num_frames}.mp4", pts=range(num_frames), time_base=Fraction(1), rate=1, width=256, height=128
        )
        assert ClipCache().open(file, config=config, spec=PatchSpec()).frames_at([2.0]).frames.shape[2] == width


def _resized_alone(path: Path, seconds: float, config: ZoomConfig, spec: PatchSpec) -> np.ndarray:
    with open_video(path) as video:
        return resize_frames(video.frames_at([seconds]).frames, config=config, spec=spec)[0]


@pytest.mark.slow  # thousands of requests: a leak of a small frame each would show
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="only Linux says how much memory is resident")
def test_memory_stays_flat(path: Path, tmp_path: Path) -> None:
    """Readers that come and go, zooms and glances at random: the memory of the process stays where it was."""
    other = render(tmp_path / "b.mkv", pts=range(120), options={"g": "30"})
    third = render(tmp_path / "c.ts", pts=range(120), options={"g": "30"})
    cache, config, spec = ClipCache(1 << 20, max_readers=2), ZoomConfig(max_pixels=12544), PatchSpec()
    rng, seen = random.Random(0), []
    for number in range(3000):
        video = cache.open(rng.choice([path, other, third]), config=config, spec=spec)
        start = rng.uniform(0, 3.5)
        look(video, [start, start + 0.1, start + 0.4], keyframes=number % 5 == 0)
        if number % 500 == 0:
            seen.append(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
    assert max(seen[1:]) - seen[1] < 64 << 20
