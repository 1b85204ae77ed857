"""How good a policy is at questions that it was not trained on: greedy answers by the engine with its weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ...data import Record
from ...protocol import Judge
from ..rl.reward import Reward, RewardConfig
from ..rl.rollout import Sampler, score_all
from .dist import Team


@dataclass(frozen=True)
class HeldOut:
    """Means over `count` questions whose answers could be judged. reward: without the bonus for zooms."""

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
    sampler: Sampler,
    records: Sequence[Record],
    *,
    config: RewardConfig | None = None,
    team: Team | None = None,
    judge: Judge | None = None,
) -> HeldOut:
    """Answer `records` greedily. All processes call it and share the work; all get the same figures.

    ValueError where the judge failed on every question.
    """
    team = team or Team()
    config = replace(config or RewardConfig(), tool_bonus=0.0)
    mine = team.part(records)
    answers = [(trajectory,) for trajectory in sampler.answer(mine)]
    rolled = team.whole(score_all(mine, answers, zoom_rate=0.0, config=config, judge=judge))
    judged = [(r, one.trajectories[0]) for one in rolled for r in one.rewards if isinstance(r, Reward)]
    if not judged:
        raise ValueError(f"the judge failed on all of {len(records)} held-out questions: is its endpoint up?")

    def mean(values: Sequence[float]) -> float:
        return sum(values) / len(values)

    return HeldOut(
        count=len(judged),
        reward=mean([r.total for r, _ in judged]),
        accuracy=mean([r.accuracy for r, _ in judged]),
        format_rate=mean([r.format for r, _ in judged]),
        zoom_rate=mean([float(bool(t.zooms)) for _, t in judged]),
        zooms=mean([float(len(t.zooms)) for _, t in judged]),
        frames=mean([float(t.num_frames) for _, t in judged]),
        judge_failures=len(records) - len(judged),
    )
