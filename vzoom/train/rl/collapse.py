"""An alarm for policies that collapse: they stop zooming, lose the format, or write ever less or ever more.

Reward alone shows it late: a policy that no longer looks still guesses. `alarm` is a pure function of what each step
rolled out; what to do about it (stop, go back to the best checkpoint) is the trainer's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from ...protocol import Protocol
from ...types import StopReason, Trajectory
from .reward import keeps_format


class Collapse(StrEnum):
    ZOOM_RATE = "zoom_rate"
    FORMAT_RATE = "format_rate"
    CUT_RATE = "cut_rate"
    SHORT = "short"
    LONG = "long"


@dataclass(frozen=True)
class StepStats:
    """One step's rollouts. Rates are fractions of them: at least one zoom, right format, cut off by a token limit."""

    zoom_rate: float
    format_rate: float
    cut_rate: float
    mean_tokens: float  # sampled tokens of a rollout

    @classmethod
    def of(cls, trajectories: Sequence[Trajectory], protocol: Protocol) -> StepStats:
        """Count the rollouts of one step.

        Args:
            trajectories: the rollouts.
            protocol: the protocol that they were held in.

        Raises:
            ValueError: there are none.
        """
        if not trajectories:
            raise ValueError("a step without rollouts has no statistics")

        def rate(holds: Callable[[Trajectory], bool]) -> float:
            return sum(map(holds, trajectories)) / len(trajectories)

        return cls(
            zoom_rate=rate(lambda t: bool(t.zooms)),
            format_rate=rate(lambda t: keeps_format(t, protocol)),
            cut_rate=rate(lambda t: t.stop_reason in (StopReason.TURN_TOKENS, StopReason.TOTAL_TOKENS)),
            mean_tokens=sum(sum(t.sampled) for t in trajectories) / len(trajectories),
        )


@dataclass(frozen=True)
class CollapseLimits:
    """A limit must be passed `patience` steps in a row. Lengths are compared with the mean of the first
    `baseline_steps`; before those are over, only the rates are watched."""

    min_zoom_rate: float = 0.05
    min_format_rate: float = 0.5
    max_cut_rate: float = 0.3
    min_length_ratio: float = 0.33
    max_length_ratio: float = 3.0
    baseline_steps: int = 5
    patience: int = 3

    def __post_init__(self) -> None:
        for name in ("min_zoom_rate", "min_format_rate", "max_cut_rate"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be from 0 to 1, got {getattr(self, name)}")
        if not 0 <= self.min_length_ratio < 1 < self.max_length_ratio:
            raise ValueError(
                f"need min_length_ratio < 1 < max_length_ratio, got {self.min_length_ratio} and {self.max_length_ratio}"
            )
        for name in ("baseline_steps", "patience"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, got {getattr(self, name)}")


@dataclass(frozen=True)
class Alarm:
    """What collapsed: `value` of the last step is beyond `limit`, and those of `steps` steps were."""

    kind: Collapse
    value: float
    limit: float
    steps: int

    def __str__(self) -> str:
        side = "above" if self.value > self.limit else "below"
        return (
            f"{_NAMES[self.kind]} has been {side} {self.limit:.3g} for {self.steps} steps, now {self.value:.3g}: "
            f"{_ADVICE[self.kind]}"
        )


_NAMES = {
    Collapse.ZOOM_RATE: "the fraction of rollouts that zoom",
    Collapse.FORMAT_RATE: "the fraction of rollouts in the right format",
    Collapse.CUT_RATE: "the fraction of rollouts cut off by a token limit",
    Collapse.SHORT: "the mean number of sampled tokens",
    Collapse.LONG: "the mean number of sampled tokens",
}
_ADVICE = {
    Collapse.ZOOM_RATE: "raise tool_bonus or target_zoom_rate, or begin from a longer SFT",
    Collapse.FORMAT_RATE: "lower the learning rate, or begin from a longer SFT",
    Collapse.CUT_RATE: "raise max_new_tokens or max_total_tokens, or lower the learning rate",
    Collapse.SHORT: "lower the learning rate or raise kl_weight",
    Collapse.LONG: "lower the learning rate or raise kl_weight",
}


def alarm(history: Sequence[StepStats], limits: CollapseLimits | None = None) -> Alarm | None:
    """The first kind of collapse that the last `patience` steps of a run show.

    Args:
        history: of each step so far.
        limits: CollapseLimits() by default.

    Returns:
        What collapsed, or None.
    """
    limits = limits or CollapseLimits()
    if len(history) < limits.patience:
        return None
    recent = history[-limits.patience :]
    checks: list[tuple[Collapse, list[float], float]] = [
        (Collapse.ZOOM_RATE, [s.zoom_rate for s in recent], limits.min_zoom_rate),
        (Collapse.FORMAT_RATE, [s.format_rate for s in recent], limits.min_format_rate),
        (Collapse.CUT_RATE, [s.cut_rate for s in recent], limits.max_cut_rate),
    ]
    if len(history) >= limits.baseline_steps + limits.patience:
        usual = math.fsum(s.mean_tokens for s in history[: limits.baseline_steps]) / limits.baseline_steps
        tokens = [s.mean_tokens for s in recent]
        checks += [
            (Collapse.SHORT, tokens, limits.min_length_ratio * usual),
            (Collapse.LONG, tokens, limits.max_length_ratio * usual),
        ]
    for kind, values, limit in checks:
        too_much = kind in (Collapse.CUT_RATE, Collapse.LONG)
        if all(value > limit if too_much else value < limit for value in values):
            return Alarm(kind, values[-1], limit, len(values))
    return None
