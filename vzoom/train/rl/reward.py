"""What a rollout is worth: R = 0.9 · R_acc + 0.1 · R_format + R_tool (VideoZoomer, arXiv 2512.22315).

R_acc is 1 for a right answer. R_format is 1 if every turn keeps the grammar, as `protocol.parse_turn` reads it.
R_tool is a bonus for right answers with at least one zoom, and is paid only while the policy zooms no more often than
a target rate: without it zooming dies out, with it for ever the policy would zoom for its own sake.

Rewards are pure functions of a trajectory. A judge that fails gives no reward at all: `score` returns the failure, the
rollout's group is left out and counted (`dynamic_sampling`), because a 0 would teach that a good answer is bad.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ...data import Record
from ...eval import Judge, JudgeFailed
from ...protocol import (
    ANSWER_CLOSE,
    ANSWER_OPEN,
    CALL_CLOSE,
    LETTERS,
    THINK_CLOSE,
    THINK_OPEN,
    Choice,
    parse_turn,
    read_choice,
)
from ...types import Answer, CallError, Malformed, Trajectory, Turn, ZoomCall

_JUDGES = 8  # questions that are with the judge at once


@dataclass(frozen=True)
class Reference:
    """The right answer to a question: a letter of `options`, or a text for a judge where there are none."""

    question: str
    answer: str
    options: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.options and self.answer not in tuple(LETTERS[: len(self.options)]):
            raise ValueError(f"the answer must be one of {LETTERS[: len(self.options)]}, got {self.answer!r}")
        if not self.answer.strip():
            raise ValueError(f"no reference answer to {self.question!r}")


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
        """The rate with one more step. The first step counts in full."""
        if not 0 <= num_zoomed <= num_rollouts or num_rollouts < 1:
            raise ValueError(f"{num_zoomed} of {num_rollouts} rollouts cannot have zoomed")
        rate = num_zoomed / num_rollouts
        memory = self.memory if self.steps else 0.0
        return ZoomRate(memory * self.value + (1 - memory) * rate, self.memory, self.steps + 1)


def score(
    trajectory: Trajectory, reference: Reference, *, zoom_rate: float, config: RewardConfig, judge: Judge | None = None
) -> Reward | JudgeFailed:
    """Score one rollout.

    Args:
        trajectory: the rollout.
        reference: the right answer.
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
    accuracy, form = float(right), float(is_well_formed(trajectory))
    tool = tool_reward(right=right, num_zooms=len(trajectory.zooms), zoom_rate=zoom_rate, config=config)
    return Reward(accuracy, form, tool, config.accuracy_weight * accuracy + config.format_weight * form + tool)


def is_right(answer: str | None, reference: Reference, *, judge: Judge | None = None) -> bool | JudgeFailed:
    """R_acc. A conversation without an answer is wrong, and no judge is asked about it."""
    if answer is None or not answer.strip():
        return False
    if reference.options:
        choice = read_choice(answer, reference.options)
        return isinstance(choice, Choice) and choice.letter == reference.answer
    if judge is None:
        raise ValueError(f"{reference.question!r} has no options: give a judge (eval.judge)")
    return judge(reference.question, reference.answer, answer)


def reference_of(record: Record) -> Reference:
    """The right answer to a record's question.

    Raises:
        ValueError: the record has none.
    """
    if record.reference is None:
        raise ValueError(f"question {record.id} has no reference answer: RL needs one to reward a rollout")
    return Reference(record.question, record.reference, record.options)


def score_rollouts(
    records: Sequence[Record],
    rollouts: Sequence[Sequence[Trajectory]],
    *,
    zoom_rate: float,
    config: RewardConfig,
    judge: Judge | None = None,
) -> list[tuple[Reward | JudgeFailed, ...]]:
    """Score the rollouts of each question. Those that need the judge go to it several at a time.

    Args:
        records: the questions.
        rollouts: of each question, in order.
        zoom_rate, config, judge: see `score`.

    Returns:
        The reward of each rollout, by question.
    """
    references = [reference_of(record) for record in records]
    pairs = [(reference, t) for reference, group in zip(references, rollouts, strict=True) for t in group]

    def one(pair: tuple[Reference, Trajectory]) -> Reward | JudgeFailed:
        reference, trajectory = pair
        return score(trajectory, reference, zoom_rate=zoom_rate, config=config, judge=judge)

    if all(reference.options for reference in references):
        rewards = iter([one(pair) for pair in pairs])
    else:
        with ThreadPoolExecutor(_JUDGES, "vzoom-judge") as pool:
            rewards = iter(list(pool.map(one, pairs)))
    return [tuple(next(rewards) for _ in group) for group in rollouts]


def tool_reward(*, right: bool, num_zooms: int, zoom_rate: float, config: RewardConfig) -> float:
    """R_tool: the bonus for a right answer with a zoom, while the policy's zoom_rate is at or below the target."""
    if not 0 <= zoom_rate <= 1:
        raise ValueError(f"zoom_rate must be from 0 to 1, got {zoom_rate}")
    return config.tool_bonus if right and num_zooms > 0 and zoom_rate <= config.target_zoom_rate else 0.0


def is_well_formed(trajectory: Trajectory) -> bool:
    """R_format: thought and call in each turn but the last, thought and answer in the last, every call carried out.

    A call that asks for nonsense (a reversed segment, no frames, too many, behind the end) is no good format; a clip
    that the file did not give up is not the model's fault.
    """
    return (
        bool(trajectory.turns)
        and all(_is_good(turn, ZoomCall) for turn in trajectory.turns[:-1])
        and _is_good(trajectory.turns[-1], Answer)
    )


def _is_good(turn: Turn, wanted: type[ZoomCall] | type[Answer]) -> bool:
    """Whether a turn is <think>…</think> and then one whole action of the wanted kind.

    The parser carries out more than this (no thought, a call whose closing tag is missing): to act is not to be paid.
    """
    if isinstance(turn.outcome, Malformed) and turn.outcome.error is not CallError.UNREADABLE:
        return False
    text = turn.text.strip()
    acting = text.rpartition(THINK_CLOSE)[2]
    return (
        isinstance(parse_turn(text), wanted)
        and text.startswith(THINK_OPEN)
        and THINK_OPEN not in acting  # the thought was closed
        and acting.endswith(CALL_CLOSE if wanted is ZoomCall else ANSWER_CLOSE)
        and acting.count(ANSWER_OPEN) == acting.count(ANSWER_CLOSE) == int(wanted is Answer)
    )
