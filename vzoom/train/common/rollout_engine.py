"""Rollouts of questions on our engine, which keeps between steps what it has decoded and encoded.

Every number is a function of the seeds, the questions and the weights alone, so it does not matter which process rolls
out which question.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import nn

from ...config import Sampling, ZoomConfig
from ...data import Record, check_video
from ...engine import Engine, Outcome, Request
from ...models import Checkpoint, FeatureCache
from ...types import Trajectory
from ...video import ClipCache
from .weight_sync import sync_weights


class RolloutEngine:
    """Rolls out questions with a checkpoint, whose weights `update` brings up to date.

    Args:
        checkpoint: the model that samples; a copy of its own, beside the one in training.
        config: how every conversation is held, whatever the record says.
        max_sessions: rollouts that run together, at least those of one question.
        pool_tokens: see `Engine`.
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
            overlap=False,  # which rollouts run together must not depend on timing
            feature_cache=self.feature_cache,
            untagged_answers=False,  # the model is to learn the tags: what lacks them is refused and told so
        )
        self._is_fresh = True

    def update(self, policy: nn.Module) -> None:
        """Take over the weights of the model in training; see `sync_weights`. All processes must call it."""
        sync_weights(policy, self.checkpoint, feature_cache=self.feature_cache, only_trained=not self._is_fresh)
        self._is_fresh = False

    def roll_out(
        self, records: Sequence[Record], *, num_rollouts: int, temperature: float, seeds: Sequence[int]
    ) -> list[tuple[Trajectory, ...] | ValueError]:
        """Hold num_rollouts conversations about each question.

        Args:
            records: the questions.
            num_rollouts: conversations per question.
            temperature: of sampling; 0 is greedy.
            seeds: one per question; its rollout i samples with seed + i.

        Returns:
            The conversations of each question, in order. In place of those of which one failed, an error that names the
            question: its video cannot be read or is another file than the record says, or a session raised something.
        """
        requests = [
            self._request(record, Sampling(temperature=temperature, seed=seed), num_rollouts)
            for record, seed in zip(records, seeds, strict=True)
        ]
        groups = self._engine.run(requests, keep_clips=False)
        return [_conversations(record, group) for record, group in zip(records, groups, strict=True)]

    def answer(self, records: Sequence[Record]) -> list[Trajectory]:
        """Hold one greedy conversation about each question.

        Raises:
            ValueError: as `roll_out` returns it, for the first question that failed. Figures without some of the
                questions would be other figures.
        """
        answers: list[Trajectory] = []
        for group in self.roll_out(records, num_rollouts=1, temperature=0.0, seeds=[0] * len(records)):
            if isinstance(group, ValueError):
                raise group
            answers += group
        return answers

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


def _conversations(record: Record, outcomes: Sequence[Outcome]) -> tuple[Trajectory, ...] | ValueError:
    for outcome in outcomes:
        if outcome.error is not None:
            return ValueError(f"question {record.id}, video {record.video.path}: {outcome.error}")
    return tuple(outcome.unwrap() for outcome in outcomes)
