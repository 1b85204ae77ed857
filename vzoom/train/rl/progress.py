"""Where an RL run is, beside weights and optimizer: what the next step depends on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from ...data import Record
from .collapse import StepStats
from .reward import ZoomRate


@dataclass(frozen=True)
class GRPOProgress:
    """step: rollout steps done. drawn: questions rolled out so far. zoom_rate: the policy's running rate. history: of
    each step's rollouts. idle: steps in a row that found no group to learn from."""

    step: int = 0
    drawn: int = 0
    zoom_rate: ZoomRate = field(default_factory=ZoomRate)
    history: tuple[StepStats, ...] = ()
    idle: int = 0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> GRPOProgress:
        return replace(
            cls(**data),
            zoom_rate=ZoomRate(**data["zoom_rate"]),
            history=tuple(StepStats(**stats) for stats in data["history"]),
        )


def draw_questions(questions: Sequence[Record], *, first: int, count: int, seed: int) -> list[Record]:
    """Draws number first … first + count − 1: all questions in a random order, then all of them in another."""
    found = []
    for number in range(first, first + count):
        turn, place = divmod(number, len(questions))
        order = np.random.default_rng([seed, turn]).permutation(len(questions))
        found.append(questions[order[place]])
    return found
