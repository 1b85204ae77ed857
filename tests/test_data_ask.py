"""Records asked of a model, and what their answers are worth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
from data_records import PROMPT

from vzoom.data import ask_records
from vzoom.protocol import JudgeFailed
from vzoom.types import Event, Turn


@dataclass
class FakeTrajectory:
    zooms: list[Turn]
    num_frames: int


@dataclass
class FakeResult:
    answer: str | None
    trajectory: FakeTrajectory


class FakeZoomer:
    """Gives the answers in order; the n-th zooms n times and sees 10 + n frames."""

    def __init__(self, *answers: str | None) -> None:
        self.answers = answers
        self.asked: list[Any] = []

    def ask_many(
        self, jobs: Sequence[tuple[str, str]], *, on_event: Callable[[Event], None] | None, **limits: Any
    ) -> list[FakeResult]:
        self.asked.append((list(jobs), limits))
        return [FakeResult(said, FakeTrajectory([Turn()] * n, 10 + n)) for n, said in enumerate(self.answers)]


OPEN = replace(PROMPT, options=(), reference="a star")


def test_each_record_has_its_scores() -> None:
    zoomer = FakeZoomer("B", "ring", None)
    scores = ask_records(zoomer, [PROMPT] * 3, max_zooms=1, max_sessions=2)  # type: ignore[arg-type]
    assert zoomer.asked == [([(PROMPT.video.path, PROMPT.question)] * 3, {"max_zooms": 1, "max_sessions": 2})]
    assert scores == [
        {"accuracy": 1.0, "answered": 1.0, "mean_zooms": 0.0, "mean_frames": 10.0},
        {"accuracy": 0.0, "answered": 1.0, "mean_zooms": 1.0, "mean_frames": 11.0},
        {"accuracy": 0.0, "answered": 0.0, "mean_zooms": 2.0, "mean_frames": 12.0},
    ]


def test_open_answers_are_for_the_judge() -> None:
    zoomer = FakeZoomer("one star", "a ring")
    scores = ask_records(zoomer, [OPEN] * 2, judge=lambda q, r, a: "star" in a)  # type: ignore[arg-type]
    assert [score["accuracy"] for score in scores] == [1.0, 0.0]


def test_a_record_without_a_verdict_is_never_left_out() -> None:
    with pytest.raises(ValueError, match="no verdict on prompt: busy"):
        ask_records(FakeZoomer("a star"), [OPEN], judge=lambda *_: JudgeFailed("busy"))  # type: ignore[arg-type]
