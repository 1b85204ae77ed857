"""What a rollout is worth: R = 0.9 · R_acc + 0.1 · R_format + R_tool (VideoZoomer, arXiv 2512.22315).

R_acc is 1 for a right answer. R_format is 1 if every turn keeps the grammar, by `protocol.is_well_formed`.
R_tool is a bonus for right answers with at least one zoom, and is paid only while the policy zooms no more often than
a target rate: without it zooming dies out, with it for ever the policy would zoom for its own sake.

Rewards are pure functions of a trajectory. A judge that fails gives no reward at all: `score` returns the failure, the
rollout's group is left out and counted (`dynamic_sampling`), because a 0 would teach that a good answer is bad.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ...data import Record, reference_of
from ...protocol import Judge, JudgeFailed, Protocol, Reference, is_right, is_well_formed
from ...types import Trajectory

_JUDGES = 8  # questions that are with the judge at once


@dataclass(frozen=True)
class RewardConfig:
    """The paper's weights. tool_bonus 0 is its ablation "w/o R_tool"."""

    accuracy_weight: float = 0.9
    format_weight: float = 0.1
    tool_bonus: float = 0.5
    target_zoom_rate: float = 0.5

    def __post_init__(self) -> None:
        for name in ("accuracy_weight", "format_weight", "tool_bonus"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")
        if not 0 <= self.target_zoom_rate <= 1:
            raise ValueError(f"target_zoom_rate must be from 0 to 1, got {self.target_zoom_rate}")


@dataclass(frozen=True)
class Reward:
    """The parts, each before its weight except `tool`, and their sum."""

    accuracy: float
    format: float
    tool: float
    total: float


@dataclass(frozen=True)
class ZoomRate:
    """A running mean over steps of the fraction of rollouts that brought a clip; 0 before the first.

    A step is scored with the rate of the steps before it, so no reward depends on the order within a step.
    memory: the weight of the past, 0 for that of the last step alone. (Nothing in the paper says over what its
    running rate runs.)
    """

    value: float = 0.0
    memory: float = 0.5
    steps: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.memory < 1 or not 0 <= self.value <= 1:
            raise ValueError(f"need 0 ≤ memory < 1 and 0 ≤ value ≤ 1, got memory {self.memory}, value {self.value}")

    def after(self, *, num_zoomed: int, num_rollouts: int) -> ZoomRate:
        """The rate with one more step. The first step counts in full.

        Args:
            num_zoomed: rollouts of the step that brought a clip.
            num_rollouts: of the step.
        """
        if not 0 <= num_zoomed <= num_rollouts or num_rollouts < 1:
            raise ValueError(f"{num_zoomed} of {num_rollouts} rollouts cannot have zoomed")
        rate = num_zoomed / num_rollouts
        memory = self.memory if self.steps else 0.0
        return ZoomRate(memory * self.value + (1 - memory) * rate, self.memory, self.steps + 1)


def score(
    trajectory: Trajectory,
    reference: Reference,
    protocol: Protocol,
    *,
    zoom_rate: float,
    config: RewardConfig,
    judge: Judge | None = None,
) -> Reward | JudgeFailed:
    """Score one rollout.

    Args:
        trajectory: the rollout.
        reference: the right answer.
        protocol: the protocol that the rollout was held in.
        zoom_rate: the policy's running rate before this step.
        config: the weights.
        judge: for questions without options.

    Returns:
        The reward, or the judge's failure.

    Raises:
        ValueError: the question has no options and there is no judge.
    """
    right = is_right(trajectory.answer, reference, judge=judge)
    if isinstance(right, JudgeFailed):
        return right
    accuracy, form = float(right), float(keeps_format(trajectory, protocol))
    tool = tool_reward(right=right, num_zooms=len(trajectory.zooms), zoom_rate=zoom_rate, config=config)
    return Reward(accuracy, form, tool, config.accuracy_weight * accuracy + config.format_weight * form + tool)


def score_rollouts(
    records: Sequence[Record],
    rollouts: Sequence[Sequence[Trajectory]],
    protocol: Protocol,
    *,
    zoom_rate: float,
    config: RewardConfig,
    judge: Judge | None = None,
) -> list[tuple[Reward | JudgeFailed, ...]]:
    """Score the rollouts of each question. Those that need the judge go to it several at a time.

    Args:
        records: the questions.
        rollouts: of each question, in order.
        protocol, zoom_rate, config, judge: see `score`.

    Returns:
        The reward of each rollout, by question.
    """
    references = [reference_of(record) for record in records]
    pairs = [(reference, t) for reference, group in zip(references, rollouts, strict=True) for t in group]

    def one(pair: tuple[Reference, Trajectory]) -> Reward | JudgeFailed:
        reference, trajectory = pair
        return score(trajectory, reference, protocol, zoom_rate=zoom_rate, config=config, judge=judge)

    if all(reference.options for reference in references):
        rewards = iter([one(pair) for pair in pairs])
    else:
        with ThreadPoolExecutor(_JUDGES, "vzoom-judge") as pool:
            rewards = iter(list(pool.map(one, pairs)))
    return [tuple(next(rewards) for _ in group) for group in rollouts]


def tool_reward(*, right: bool, num_zooms: int, zoom_rate: float, config: RewardConfig) -> float:
    """R_tool: the bonus for a right answer with a zoom, while the policy's zoom_rate is at or below the target.

    Args:
        right: whether the answer is.
        num_zooms: that brought a clip.
        zoom_rate: the policy's running rate before this step.
        config: the bonus and the target.
    """
    if not 0 <= zoom_rate <= 1:
        raise ValueError(f"zoom_rate must be from 0 to 1, got {zoom_rate}")
    return config.tool_bonus if right and num_zooms > 0 and zoom_rate <= config.target_zoom_rate else 0.0


def keeps_format(trajectory: Trajectory, protocol: Protocol) -> bool:
    """R_format: whether the conversation is well formed. Exemplars for SFT are kept by the same rule."""
    turns = trajectory.turns
    return is_well_formed([turn.text for turn in turns], [turn.outcome for turn in turns], protocol)
