"""Rollouts of questions on our engine, which is kept between steps with all that it has decoded and encoded.

Every number is a function of the recipe's seed, the step, the question and the rollout's number alone, so that it does
not matter which process rolls out which question.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b

from torch import nn

from ...config import Sampling, ZoomConfig
from ...data import Record, check_video, reference_of
from ...engine import Engine, Request
from ...models import Checkpoint, FeatureCache
from ...protocol import Judge, JudgeFailed, Reference
from ...types import Trajectory
from ...video import ClipCache
from ..common.weight_sync import sync
from .reward import Reward, RewardConfig, score

_JUDGES = 8  # questions that are with the judge at once


@dataclass(frozen=True)
class Rolled:
    """One question's rollouts and what each is worth; `JudgeFailed` where nobody could say."""

    record: Record
    trajectories: tuple[Trajectory, ...]
    rewards: tuple[Reward | JudgeFailed, ...]

    @property
    def totals(self) -> tuple[float | None, ...]:
        return tuple(r.total if isinstance(r, Reward) else None for r in self.rewards)


def rollout_seed(recipe_seed: int, step: int, record_id: str, number: int = 0) -> int:
    """The seed of rollout `number` of a question in a step; those of one question are consecutive, as in `Request`."""
    digest = blake2b(f"{recipe_seed}/{step}/{record_id}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 2) + number


class Sampler:
    """Rolls out questions with `checkpoint`, whose weights `update` brings up to date.

    config: how every conversation is held, whatever the record says. max_sessions: rollouts that are fed together, at
    least those of one question. pool_tokens: see `Engine`.
    """

    def __init__(
        self, checkpoint: Checkpoint, config: ZoomConfig, *, max_sessions: int, pool_tokens: int | None = None
    ) -> None:
        self.checkpoint, self.config = checkpoint, config
        self.clip_cache, self.feature_cache = ClipCache(), FeatureCache()
        self._engine = Engine(
            checkpoint,
            max_total_tokens=config.max_total_tokens,
            max_sessions=max_sessions,
            pool_tokens=pool_tokens,
            overlap=False,  # who is fed together must not depend on timing
            feature_cache=self.feature_cache,
        )
        self._is_fresh = True

    def update(self, policy: nn.Module) -> None:
        """Take over the policy's weights; see `sync`."""
        sync(policy, self.checkpoint, feature_cache=self.feature_cache, only_trained=not self._is_fresh)
        self._is_fresh = False

    def roll_out(
        self, records: Sequence[Record], *, num_rollouts: int, temperature: float, seeds: Sequence[int]
    ) -> list[tuple[Trajectory, ...]]:
        """num_rollouts conversations about each question; rollout i samples with its question's seed + i.

        ValueError with the question and its video where the video cannot be read, or is another one by now.
        """
        requests = [
            self._request(record, Sampling(temperature=temperature, seed=seed), num_rollouts)
            for record, seed in zip(records, seeds, strict=True)
        ]
        groups = self._engine.run(requests, keep_clips=False)
        for record, group in zip(records, groups, strict=True):
            for outcome in group:
                if outcome.error is not None:
                    where = f"question {record.id}, video {record.video.path}"
                    raise ValueError(f"{where}: {outcome.error}") from outcome.error
        return [tuple(outcome.unwrap() for outcome in group) for group in groups]

    def answer(self, records: Sequence[Record]) -> list[Trajectory]:
        """One greedy conversation about each question."""
        return [t for (t,) in self.roll_out(records, num_rollouts=1, temperature=0.0, seeds=[0] * len(records))]

    def close(self) -> None:
        self._engine.close()

    def _request(self, record: Record, sampling: Sampling, num_rollouts: int) -> Request:
        return Request.about(
            record.video.path,
            record.question,
            checkpoint=self.checkpoint,
            clip_cache=self.clip_cache,
            config=self.config,
            sampling=sampling,
            num_rollouts=num_rollouts,
            check=partial(check_video, record.video),
        )


def score_all(
    records: Sequence[Record],
    groups: Sequence[Sequence[Trajectory]],
    *,
    zoom_rate: float,
    config: RewardConfig,
    judge: Judge | None = None,
) -> list[Rolled]:
    """Reward every rollout. Those that need the judge go to it some at a time."""

    def one(job: tuple[Reference, Trajectory]) -> Reward | JudgeFailed:
        reference, trajectory = job
        return score(trajectory, reference, zoom_rate=zoom_rate, config=config, judge=judge)

    references = [reference_of(record) for record in records]
    jobs = [(ref, t) for ref, group in zip(references, groups, strict=True) for t in group]
    if all(reference.options for reference in references):
        rewards = iter([one(job) for job in jobs])
    else:
        with ThreadPoolExecutor(_JUDGES, "vzoom-judge") as pool:
            rewards = iter(list(pool.map(one, jobs)))
    return [
        Rolled(record, tuple(group), tuple(next(rewards) for _ in group))
        for record, group in zip(records, groups, strict=True)
    ]
