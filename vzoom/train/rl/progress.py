"""Where an RL run stands, beside weights and optimizer: what the next step depends on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from ...data import Record
from .collapse import StepStats
from .reward import ZoomRate


@dataclass(frozen=True)
class Progress:
    """step: rollout steps done. drawn: questions rolled out so far. idle: steps in a row that found no group to learn
    from. best: held-out reward and its step, None before the first evaluation; its reward is None where nothing is held
    out and the last model is kept."""

    step: int = 0
    drawn: int = 0
    zoom_rate: ZoomRate = field(default_factory=ZoomRate)
    history: tuple[StepStats, ...] = ()
    best: tuple[float | None, int] | None = None
    idle: int = 0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Progress:
        best = data["best"]
        return replace(
            cls(**data),
            zoom_rate=ZoomRate(**data["zoom_rate"]),
            history=tuple(StepStats(**stats) for stats in data["history"]),
            best=None if best is None else (best[0], best[1]),
        )


def draw(questions: Sequence[Record], *, first: int, count: int, seed: int) -> list[Record]:
    """Draws number first … first + count − 1: all questions in a random order, then all of them in another."""
    found = []
    for number in range(first, first + count):
        turn, place = divmod(number, len(questions))
        order = np.random.default_rng([seed, turn]).permutation(len(questions))
        found.append(questions[order[place]])
    return found
