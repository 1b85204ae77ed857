"""How good a policy is at questions that it was not trained on: greedy answers by the engine with its weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ...data import Record
from ...protocol import Judge
from ..rl.reward import Reward, RewardConfig, score_rollouts
from .dist import ProcessGroup
from .rollout_engine import RolloutEngine


@dataclass(frozen=True)
class HeldOutScores:
    """Means over the `count` questions whose answers could be judged. reward: without the bonus for zooms."""

    count: int
    reward: float
    accuracy: float
    format_rate: float
    zoom_rate: float
    zooms: float
    frames: float
    judge_failures: int

    def __str__(self) -> str:
        return (
            f"held out {self.count}, reward {self.reward:.3f}, accuracy {self.accuracy:.3f}, "
            f"zooms {self.zooms:.2f}, frames {self.frames:.1f}"
        )


def evaluate(
    engine: RolloutEngine,
    questions: Sequence[Record],
    *,
    reward: RewardConfig | None = None,
    group: ProcessGroup | None = None,
    judge: Judge | None = None,
) -> HeldOutScores:
    """Answer the questions greedily. All processes must call it; they share the work and get the same scores.

    Args:
        engine: has the weights to evaluate.
        questions: each with a reference answer.
        reward: the weights of accuracy and format.
        group: the processes.
        judge: for questions without options.

    Raises:
        ValueError: the judge failed on every question.
    """
    group = group or ProcessGroup()
    reward = replace(reward or RewardConfig(), tool_bonus=0.0)
    mine = group.shard(questions)
    answers = engine.answer(mine)
    protocol = engine.config.protocol
    rewards = score_rollouts(mine, [(t,) for t in answers], protocol, zoom_rate=0.0, config=reward, judge=judge)
    answered = group.unshard([(t, r) for t, (r,) in zip(answers, rewards, strict=True)])
    judged = [(t, r) for t, r in answered if isinstance(r, Reward)]
    if not judged:
        raise ValueError(f"the judge failed on all of {len(questions)} held-out questions: is its endpoint up?")

    def mean(values: Sequence[float]) -> float:
        return sum(values) / len(values)

    return HeldOutScores(
        count=len(judged),
        reward=mean([r.total for _, r in judged]),
        accuracy=mean([r.accuracy for _, r in judged]),
        format_rate=mean([r.format for _, r in judged]),
        zoom_rate=mean([float(bool(t.zooms)) for t, _ in judged]),
        zooms=mean([float(len(t.zooms)) for t, _ in judged]),
        frames=mean([float(t.num_frames) for t, _ in judged]),
        judge_failures=len(questions) - len(judged),
    )
