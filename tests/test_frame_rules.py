"""The frame rules of published checkpoints, each held to its public formula, stated here once more on its own."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_video_render import read_number, render

from vzoom.protocol import (
    GlanceRule,
    Protocol,
    ZoomRule,
    builtin_names,
    builtin_protocol,
    glance_timestamps,
    zoom_timestamps,
)
from vzoom.protocol.definition import GlanceName, ZoomName
from vzoom.protocol.frame_times import GLANCE_RULES, ZOOM_RULES
from vzoom.types import CallError, Malformed, VideoInfo, ZoomCall
from vzoom.video import open_video

FPS = (8.0, 12.5, 15.0, 23.976, 24.0, 24000 / 1001, 25.0, 29.97, 30000 / 1001, 30.0, 50.0, 60000 / 1001, 60.0)


@dataclass(frozen=True)
class View:
    """The settings that a rule reads."""

    protocol: Protocol
    glance_fps: float = 0.5
    glance_max_frames: int = 64
    zoom_max_frames: int = 16
    min_pixels: int = 3136
    max_pixels: int = 100352


def settings(rule: ZoomName = "exact", *, glance: GlanceName = "exact", limit: int = 16, **values: float) -> View:
    protocol = Protocol("test", glance=GlanceRule(rule=glance), zoom=ZoomRule(rule=rule, fps=values.get("fps")))
    return View(
        protocol,
        glance_fps=values.get("glance_fps", 0.5),
        glance_max_frames=int(values.get("glance_limit", 64)),
        zoom_max_frames=limit,
    )


def video(total: int, fps: float) -> VideoInfo:
    return VideoInfo("v", duration_seconds=total / fps, fps=fps, width=64, height=64)


# What the public code of each does, as frame numbers: (call, total, fps of the video, limit). None: it refuses.


def public_videozoomer(call: ZoomCall, total: int, fps: float, limit: int) -> list[int] | None:
    n = int(call.fps * (call.end_seconds - call.start_seconds))
    if n > limit or n == 0:
        return None
    a = max(0, min(int(call.start_seconds * fps), total - 1))
    b = max(a, min(int(call.end_seconds * fps), total - 1))
    return np.linspace(a, b, n).astype(int).tolist()


def public_framethinker(call: ZoomCall, total: int, fps: float, limit: int) -> list[int] | None:
    a, b = round(call.start_seconds * fps), min(round(call.end_seconds * fps), total)
    n = 12 if total / fps > 300 else 8
    return None if b - a <= n else np.linspace(a + 1, b - 1, n, dtype=int).tolist()


def public_qwen(call: ZoomCall, total: int, fps: float, limit: int) -> list[int] | None:
    a = math.ceil(max(0.0, min(call.start_seconds, total / fps)) * fps)
    b = min(math.floor(max(0.0, min(call.end_seconds, total / fps)) * fps), total - 1)
    if a >= b:
        return None
    m = b - a + 1
    n = math.floor(min(max(m / fps * 1.0, 2), math.floor(limit / 2) * 2, m) / 2) * 2
    return torch.linspace(a, b, n).round().long().tolist()


def public_conan(call: ZoomCall, total: int, fps: float, limit: int, shown: list[float]) -> list[int] | None:
    """Its memory holds clock times, HH:MM:SS: the frames at these whole seconds are not shown again."""
    is_new = np.ones(total, bool)
    for seconds in shown:
        if (index := round(int(seconds) * fps)) < total:
            is_new[index] = False

    def spread(there: np.ndarray, n: int) -> list[int]:
        if len(there) <= n or n == 1:
            return there[:n].tolist()
        step = (len(there) - 1) / (n - 1)
        return [int(there[round(i * step)]) for i in range(n)]

    a, b = max(0, int(np.round(call.start_seconds * fps))), min(total - 1, int(np.round(call.end_seconds * fps)))
    found = spread(a + np.flatnonzero(is_new[a : b + 1]), 8) if a < b else []
    is_new[found] = False
    if len(found) < 8:
        found += spread(np.flatnonzero(is_new), 8 - len(found))
    return sorted(found) or None


def public_timesearch(call: ZoomCall, total: int, fps: float, limit: int) -> list[int] | None:
    """Frame numbers among those that it keeps, 2 per second."""
    kept = max(1, int(total / fps * 2))
    there = list(range(kept))[
        max(math.floor(call.start_seconds * 2), 0) : min(math.ceil(call.end_seconds * 2), kept) + 1
    ]
    n = max(min(call.num_frames or 8, len(there), 8), 1)
    if not there:
        return None
    if len(there) <= n:
        return there
    return [there[i] for i in np.round(np.linspace(0, len(there) - 1, n)).astype(int)]


Formula = Callable[[ZoomCall, int, float, int], "list[int] | None"]
PUBLIC: dict[ZoomName, tuple[Formula, View]] = {
    "videozoomer": (public_videozoomer, settings("videozoomer")),
    "framethinker": (public_framethinker, settings("framethinker", limit=12)),
    "qwen": (public_qwen, settings("qwen", limit=128, fps=1.0)),
    "timesearch": (public_timesearch, settings("timesearch", limit=8, fps=2.0)),
}


def random_call(rng: random.Random, duration: float) -> ZoomCall:
    """Whole seconds, tenths or any; mostly of few frames, sometimes with an end after the video's."""
    digits = rng.choice((0, 1, 1, 2, 15))
    rate = rng.choice((0.5, 1.0, 2.0, 4.0, round(rng.uniform(0.1, 9), 2)))
    start = round(rng.uniform(0, duration), digits)
    length = rng.choice((rng.uniform(1, 17) / rate, rng.uniform(1, 17) / rate, rng.uniform(0.05, duration)))
    return ZoomCall(start, round(start + length, digits), rate, rng.choice((None, 4, 8)))


@pytest.mark.parametrize("rule", PUBLIC)
def test_ten_thousand_zooms_choose_the_frames_of_the_public_formula(rule: ZoomName) -> None:
    formula, config = PUBLIC[rule]
    rng = random.Random(rule)
    num_carried_out = 0
    while num_carried_out < 10_000:
        fps = rng.choice(FPS)
        total = rng.randrange(1, 40_000)
        call = random_call(rng, total / fps)
        if not call.start_seconds < min(call.end_seconds, total / fps):
            continue  # a start after the end is told the model, which the public code takes for the last frame
        expected = formula(call, total, fps, config.zoom_max_frames)
        got = zoom_timestamps(call, video(total, fps), config)
        rate = 2.0 if rule == "timesearch" else fps
        frames = None if isinstance(got, Malformed) else [round(t * rate) for t in got]
        assert frames == (None if expected is None else list(dict.fromkeys(expected))), (call, total, fps)
        if not isinstance(got, Malformed):
            assert got == [index / rate for index in frames or ()]
            num_carried_out += 1


def test_ten_thousand_zooms_of_conan_skip_what_was_shown_and_are_filled_up() -> None:
    rng = random.Random(2)
    config = settings("conan", limit=8)
    kinds = {"filled up": 0, "in the segment": 0, "nothing left": 0}
    for _ in range(10_000):
        fps = rng.choice(FPS)
        total = rng.choice((rng.randrange(1, 40), rng.randrange(1, 2000), rng.randrange(1, 40_000)))
        call = random_call(rng, total / fps)
        if not call.start_seconds < min(call.end_seconds, total / fps):
            continue
        shown = [index / fps for index in sorted(rng.sample(range(total), min(total, rng.randrange(0, 80))))]
        if rng.random() < 0.2:  # as if the model had looked here before, frame by frame at whole seconds
            seconds = range(int(call.start_seconds), math.ceil(call.end_seconds) + 1)[:200]
            shown += [math.ceil(second * fps) / fps for second in seconds]
        expected = public_conan(call, total, fps, 8, shown)
        got = zoom_timestamps(call, video(total, fps), config, shown=shown)
        assert (None if isinstance(got, Malformed) else [round(t * fps) for t in got]) == expected, (call, total, fps)
        if isinstance(got, Malformed):
            assert got.error is CallError.ZERO_FRAMES
            kinds["nothing left"] += 1
            continue
        is_inside = all(call.start_seconds - 0.5 <= t <= call.end_seconds + 0.5 for t in got)
        kinds["in the segment" if is_inside else "filled up"] += 1
    assert min(kinds.values()) >= 20, kinds


def test_eva_shows_both_ends_and_times_between_them() -> None:
    rng = random.Random(1)
    config = settings("eva", limit=64)
    for _ in range(10_000):
        fps, total = rng.choice(FPS), rng.randrange(60, 40_000)
        start = rng.randrange(0, int(total / fps))
        end = min(start + rng.randrange(1, 100), total / fps)
        n = rng.randrange(1, 65)
        got = zoom_timestamps(ZoomCall(start, end, 1.0, n), video(total, fps), config)
        assert not isinstance(got, Malformed)
        wanted = [start + i * (end - start) / max(1, n - 1) for i in range(n)]
        first_not_before = [min(math.ceil(t * fps - 1e-6 * fps), total - 1) for t in wanted]
        assert [round(t * fps) for t in got] == list(dict.fromkeys(first_not_before))


# ---------------------------------------------------------------- glances


def glance_indices(rule: GlanceName, total: int, fps: float, limit: int, rate: float = 0.5) -> list[int]:
    config = settings(glance=rule, glance_limit=limit, glance_fps=rate)
    times = glance_timestamps(video(total, fps), config)
    indices = [round(t * fps) for t in times]
    assert times == [i / fps for i in indices]
    return indices


@given(st.integers(1, 200_000), st.sampled_from(FPS))
def test_glances_choose_the_frames_of_the_public_formulas(total: int, fps: float) -> None:
    strided = list(range(0, total, max(1, round(fps / 0.5))))
    spread = np.linspace(0, total - 1, 64, dtype=int).tolist()
    assert glance_indices("videozoomer", total, fps, 64) == (strided if len(strided) <= 64 else spread)

    n = 12 if total / fps > 300 else 8
    even = list(dict.fromkeys(np.linspace(0, total - 1, n, dtype=int).tolist()))
    assert glance_indices("framethinker", total, fps, 12) == even

    step = total / 64
    conan = list(range(total)) if total <= 64 else [round(i * step) for i in range(64)]
    assert glance_indices("conan", total, fps, 64) == conan

    counted = torch.linspace(0, total - 1, 64).round().long().tolist()
    assert glance_indices("qwen_count", total, fps, 64) == list(dict.fromkeys(counted))
    if total >= 2:
        n = math.floor(min(max(total / fps * 1, 2), 512, total) / 2) * 2
        assert glance_indices("qwen", total, fps, 512, 1.0) == torch.linspace(0, total - 1, n).round().long().tolist()


def test_a_protocol_may_have_no_glance() -> None:
    assert glance_timestamps(video(100, 25.0), settings(glance="none")) == []


def test_every_rule_that_a_protocol_may_name_is_there() -> None:
    assert set(get_args(GlanceName)) == set(GLANCE_RULES)
    assert set(get_args(ZoomName)) == set(ZOOM_RULES)
    for name in builtin_names():
        assert builtin_protocol(name).zoom.rule in ZOOM_RULES


# ---------------------------------------------------------------- silly calls, and real files

SILLY = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from((0.0, 5e-324, 1e-310, 1e-300, 1e15, 1e300, 1.7976931348623157e308, -1.0)),
)


@pytest.mark.parametrize("rule", ZOOM_RULES)
@given(
    start=SILLY, end=SILLY, fps=SILLY, count=st.one_of(st.none(), st.integers(-5, 10**400)), total=st.integers(1, 10**6)
)
def test_no_call_raises_or_gives_a_time_that_is_none(
    rule: ZoomName, start: float, end: float, fps: float, count: int | None, total: int
) -> None:
    info = video(total, 29.97)
    for own in ({}, {"fps": 1.0}):
        config = settings(rule, limit=16, **own)
        got = zoom_timestamps(ZoomCall(start, end, fps, count), info, config)
        if isinstance(got, Malformed):
            assert len(got.detail) < 400
            continue
        assert 1 <= len(got) <= 16
        assert all(math.isfinite(t) and 0 <= t <= info.duration_seconds for t in got)
        assert got == sorted(set(got))


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("ntsc.mp4", {"time_base": Fraction(1001, 30000), "rate": Fraction(30000, 1001)}),
        ("ntsc.mkv", {"time_base": Fraction(1001, 30000), "rate": Fraction(30000, 1001)}),
        ("eight.mp4", {"time_base": Fraction(1, 8), "rate": Fraction(8)}),
        ("eight.avi", {"time_base": Fraction(1, 8), "rate": Fraction(8), "codec": "mjpeg", "pix_fmt": "yuvj420p"}),
    ],
)
def test_the_reader_gives_the_very_frames_of_a_rule(tmp_path: Path, name: str, how: dict[str, Any]) -> None:
    """The time of frame i is i / fps, and frame i is what the file has on display there."""
    num_frames = 300
    path = render(tmp_path / name, pts=range(num_frames), **how)
    rng = random.Random(name)
    config = settings("videozoomer")
    with open_video(str(path)) as reader:
        info = reader.info
        assert round(info.duration_seconds * info.fps) == num_frames
        every = [i / info.fps for i in range(num_frames)]
        assert reader.frames_at(every).frame_indices == tuple(range(num_frames))
        for _ in range(20):
            call = random_call(rng, info.duration_seconds)
            expected = public_videozoomer(call, num_frames, info.fps, 16)
            got = zoom_timestamps(call, info, config)
            if expected is None or isinstance(got, Malformed):
                continue
            clip = reader.frames_at(got)
            assert clip.frame_indices == tuple(dict.fromkeys(expected))
            assert [read_number(frame) for frame in clip.frames] == list(clip.frame_indices)
