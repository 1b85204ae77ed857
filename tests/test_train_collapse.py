from __future__ import annotations

from dataclasses import replace

import pytest
from protocols import VZOOM

from vzoom.train.rl.collapse import Alarm, Collapse, CollapseLimits, StepStats, alarm
from vzoom.types import Answer, StopReason, Trajectory, Turn, VideoInfo

FINE = StepStats(zoom_rate=0.6, format_rate=0.95, cut_rate=0.02, mean_tokens=100.0)
VIDEO = VideoInfo("v.mp4", 64.0, 8.0, 56, 56)


def then(*bad: StepStats, fine: int = 6) -> list[StepStats]:
    return [FINE] * fine + list(bad)


def test_a_step_is_counted_by_hand() -> None:
    answered = Turn("<think>x</think><answer>A</answer>", Answer("A"))
    zoomed = Turn('<think>x</think><video_zoom>{"segment": [1, 2], "fps": 2}</video_zoom>', pts_seconds=(1.0, 1.5))
    rollouts = [
        Trajectory("Q", VIDEO, sampled=[True] * 6, turns=[answered], stop_reason=StopReason.ANSWERED),
        Trajectory("Q", VIDEO, sampled=[False, True, False], turns=[zoomed], stop_reason=StopReason.TURN_TOKENS),
        Trajectory("Q", VIDEO, sampled=[True] * 3, turns=[zoomed], stop_reason=StopReason.TOTAL_TOKENS),
        Trajectory("Q", VIDEO, sampled=[True] * 2, turns=[zoomed, answered], stop_reason=StopReason.ANSWERED),
    ]
    assert StepStats.of(rollouts, VZOOM) == StepStats(
        zoom_rate=3 / 4, format_rate=2 / 4, cut_rate=2 / 4, mean_tokens=3.0
    )
    with pytest.raises(ValueError, match="without rollouts"):
        StepStats.of([], VZOOM)


@pytest.mark.parametrize(
    ("kind", "changes", "value", "limit", "words"),
    [
        (Collapse.ZOOM_RATE, {"zoom_rate": 0.04}, 0.04, 0.05, "zoom has been below 0.05 for 3 steps, now 0.04"),
        (Collapse.FORMAT_RATE, {"format_rate": 0.3}, 0.3, 0.5, "right format has been below 0.5"),
        (Collapse.CUT_RATE, {"cut_rate": 0.4}, 0.4, 0.3, "cut off by a token limit has been above 0.3"),
        (Collapse.SHORT, {"mean_tokens": 30.0}, 30.0, 33.0, "tokens has been below 33"),
        (Collapse.LONG, {"mean_tokens": 301.0}, 301.0, 300.0, "tokens has been above 300"),
    ],
)
def test_each_collapse_has_its_reason(
    kind: Collapse, changes: dict[str, float], value: float, limit: float, words: str
) -> None:
    bad = replace(FINE, **changes)
    found = alarm(then(bad, bad, bad))
    assert found == Alarm(kind, value, pytest.approx(limit), 3)
    assert words in str(found)
    assert alarm(then(bad, bad)) is None
    assert alarm(then(bad, bad, bad, FINE)) is None
    assert alarm(then(bad, FINE, bad, bad)) is None
    assert alarm(then(bad, bad), CollapseLimits(patience=2)) is not None


def test_what_lies_on_a_limit_is_fine() -> None:
    edge = StepStats(zoom_rate=0.05, format_rate=0.5, cut_rate=0.3, mean_tokens=300.0)
    assert alarm(then(edge, edge, edge, edge)) is None


def test_a_policy_that_never_zoomed_alarms_at_once_and_lengths_need_a_baseline() -> None:
    never = replace(FINE, zoom_rate=0.0)
    assert alarm([never] * 2) is None
    assert alarm([never] * 3) is not None
    long = replace(FINE, mean_tokens=1000.0)
    assert alarm([FINE] * 4 + [long] * 3) is None  # 7 steps: of 5 for the baseline one is bad
    found = alarm([FINE] * 5 + [long] * 3)
    assert found is not None
    assert found.kind is Collapse.LONG
    assert alarm([]) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"min_zoom_rate": -0.1},
        {"min_format_rate": 1.1},
        {"max_cut_rate": 2.0},
        {"min_length_ratio": 1.0},
        {"max_length_ratio": 1.0},
        {"patience": 0},
        {"baseline_steps": 0},
    ],
)
def test_limits_are_checked(changes: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        CollapseLimits(**changes)  # type: ignore[arg-type]
