from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vzoom.config import ZoomConfig
from vzoom.protocol import builtin_protocol
from vzoom.protocol.frame_times import (
    clamped_end,
    glance_segments,
    glance_timestamps,
    zoom_segments,
    zoom_timestamps,
)
from vzoom.types import CallError, Malformed, VideoInfo, ZoomCall

EXACT = ZoomConfig()
PUBLIC = ZoomConfig.of(builtin_protocol("videozoomer"))


def video(duration: float, fps: float = 30.0) -> VideoInfo:
    return VideoInfo("v", duration_seconds=duration, fps=fps, width=64, height=64)


def test_glance_is_half_a_frame_a_second_up_to_64_then_uniform() -> None:
    assert glance_timestamps(video(9.0), EXACT) == [0, 2, 4, 6, 8]
    assert glance_timestamps(video(128.0), EXACT) == [2.0 * i for i in range(64)]
    hour = glance_timestamps(video(3600.0), EXACT)
    assert len(hour) == 64
    assert np.allclose(np.diff(hour), 3600 / 64)
    assert glance_timestamps(video(0.03), EXACT) == [0]


def test_public_glance_takes_every_60th_frame_or_64_over_both_ends() -> None:
    assert glance_timestamps(video(9.0), PUBLIC) == [0, 2, 4, 6, 8]
    hour = glance_timestamps(video(3600.0), PUBLIC)
    assert len(hour) == 64
    assert hour[-1] == pytest.approx((3600 * 30 - 1) / 30)


@pytest.mark.parametrize("config", [EXACT, PUBLIC])
def test_a_rate_beyond_all_measure_is_too_many_frames(config: ZoomConfig) -> None:
    """Not an array of 1e15 times."""
    times = zoom_timestamps(ZoomCall(3, 50, 1e15), video(60), config)
    assert isinstance(times, Malformed)
    assert times.error is CallError.TOO_MANY_FRAMES


def test_zoom_is_half_open_and_keeps_the_asked_rate() -> None:
    assert zoom_timestamps(ZoomCall(3, 5, 2), video(60), EXACT) == [3, 3.5, 4, 4.5]
    assert zoom_timestamps(ZoomCall(3, 3.1, 1), video(60), EXACT) == [3]


def test_a_rate_above_the_videos_own_is_lowered_to_it() -> None:
    times = zoom_timestamps(ZoomCall(1, 2, 1000), video(60, fps=10), EXACT)
    assert times == pytest.approx([1 + i / 10 for i in range(10)])


def test_public_zoom_spans_both_ends() -> None:
    times = zoom_timestamps(ZoomCall(3, 5, 2), video(60), PUBLIC)
    assert times == pytest.approx(np.linspace(3, 5, 4))


def test_an_end_beyond_the_video_is_moved_and_the_rate_kept() -> None:
    asked = ZoomCall(58, 70, 1)
    assert clamped_end(asked, video(60)) == 60
    assert zoom_timestamps(asked, video(60), EXACT) == [58, 59]


@pytest.mark.parametrize(
    ("asked", "config", "error"),
    [
        (ZoomCall(60, 70, 1), EXACT, CallError.BEYOND_END),
        (ZoomCall(61, 70, 1), PUBLIC, CallError.BEYOND_END),
        (ZoomCall(0, 17, 1), EXACT, CallError.TOO_MANY_FRAMES),
        (ZoomCall(0, 17, 1), PUBLIC, CallError.TOO_MANY_FRAMES),
        (ZoomCall(0, 0.5, 1), PUBLIC, CallError.ZERO_FRAMES),
    ],
)
def test_calls_that_cannot_be_carried_out(asked: ZoomCall, config: ZoomConfig, error: CallError) -> None:
    got = zoom_timestamps(asked, video(60), config)
    assert isinstance(got, Malformed)
    assert got.error is error


@given(st.floats(0.1, 5000), st.floats(0, 6000), st.floats(0.01, 300), st.floats(0.01, 240))
def test_zoom_times_increase_inside_the_segment(duration: float, start: float, length: float, fps: float) -> None:
    asked = ZoomCall(start, start + length, fps)
    times = zoom_timestamps(asked, video(duration), EXACT)
    if isinstance(times, Malformed):
        assert times.error in (CallError.BEYOND_END, CallError.TOO_MANY_FRAMES)
        return
    assert 1 <= len(times) <= EXACT.zoom_max_frames
    assert times[0] == start
    assert times[-1] < clamped_end(asked, video(duration))
    assert all(b - a > 0.99 / min(fps, 30) for a, b in itertools.pairwise(times))


def test_a_video_whose_frames_follow_unevenly_is_sampled_at_the_calls_own_rate() -> None:
    uneven = dataclasses.replace(video(60.0, fps=0.5), max_fps=30.0)
    assert zoom_timestamps(ZoomCall(9, 10, 16), uneven, EXACT) == [9 + i / 16 for i in range(16)]
    assert zoom_segments([ZoomCall(9, 10, 16), ZoomCall(50, 90, 1)], uneven, EXACT) == ((9, 10), (50, 60))
    assert glance_segments(uneven, EXACT) == ((0, 60),)
    # More than the limit might exist, fewer do on average: the limit at equal distances.
    assert zoom_timestamps(ZoomCall(20, 36, 16), uneven, EXACT) == [20.0 + i for i in range(16)]
    assert isinstance(zoom_timestamps(ZoomCall(0, 60, 30), uneven, EXACT), Malformed)
    for rate in (1e-310, 1e308):
        times = zoom_timestamps(ZoomCall(1, 2, rate), uneven, EXACT)
        assert isinstance(times, list)
        assert 1 <= len(times) <= 16
    # Other rules count frames, and an even video is sampled as ever.
    assert zoom_segments([ZoomCall(9, 10, 16)], uneven, PUBLIC) == glance_segments(uneven, PUBLIC) == ()
    assert zoom_segments([ZoomCall(9, 10, 16)], video(60.0), EXACT) == glance_segments(video(60.0), EXACT) == ()


def test_config_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match="glance_fps must be above 0"):
        ZoomConfig(glance_fps=0)
    with pytest.raises(ValueError, match="min_pixels"):
        ZoomConfig(min_pixels=10**6)
    with pytest.raises(ValueError, match=r"pixels\.resize: must be one of videozoomer, direct, box"):
        EXACT.protocol.override(pixels={"resize": "long"})
    with pytest.raises(ValueError, match="answer_reserve"):
        ZoomConfig(max_total_tokens=512)
