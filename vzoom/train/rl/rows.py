"""A step's rollouts laid out for the updates: micro-batches, and the log-probabilities that the loss compares.

What is in which micro-batch is decided alike in every process; each then prepares its own part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...types import Trajectory
from ..common.collate import pad_rows
from ..common.dist import Team
from ..common.policy import Policy, token_logprobs
from ..common.samples import Sample, from_trajectory
from ..recipes.recipe import Recipe
from .logprob_mismatch import Gap, check, compact, gap_of, logprobs_of, total
from .minibatches import EMPTY, plan
from .pack import pack
from .refill import Filled
from .rollout import Rolled

# In its context, the model that it gives is the reference.
ReferenceModel = Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True)
class Rows:
    """A micro-batch: B rollouts, N their sampled tokens, side by side and filled up. mask is False where there is none.
    advantages: times the importance weight of each token. samples: what the model runs. index: where in it, counted
    through all its rows, each token is. seen: who sees whom where `pack` made the rows, None for whole conversations.
    """

    samples: list[Sample]
    seen: Tensor | None
    ids_BN: Tensor
    index_BN: Tensor
    mask_BN: Tensor
    advantages_BN: Tensor
    old_BN: Tensor
    ref_BN: Tensor | None


@dataclass(frozen=True)
class Step:
    """micro_batches: this process's, update by update. num_tokens: sampled ones of all updates and processes."""

    micro_batches: list[Rows]
    num_tokens: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class _Row:
    """A rollout in a micro-batch. advantage None: it only fills a place, and nothing of it counts."""

    rolled: Rolled
    number: int
    advantage: float | None

    @property
    def trajectory(self) -> Trajectory:
        return self.rolled.trajectories[self.number]


class Layout:
    """Lays out the steps of a run. reference: the model that the policy should stay near; None without such a term."""

    def __init__(self, recipe: Recipe, policy: Policy, team: Team) -> None:
        self.recipe, self.policy, self.team = recipe, policy, team
        self.reference: ReferenceModel | None = None

    def lay_out(self, model: Any, filled: Filled, *, step: int) -> Step:
        """The updates of step number `step`. model: the policy's, as accelerate wrapped it. ParityError where sampler
        and trainer do not agree.
        """
        part = self.recipe.grpo
        rows = [
            _Row(rolled, number, advantage)
            for rolled, advantages in filled.kept
            for number, advantage in enumerate(advantages)
        ]
        planned = plan(
            [len(row.trajectory.ids) for row in rows],
            num_places=part.questions_per_step * part.num_rollouts,
            num_updates=part.updates_per_step,
            micro_batch_size=part.micro_batch_size,
            seed=(self.recipe.seed, step),
            block=part.num_rollouts if part.share_prompt else 1,
        )
        if len(planned[0]) % self.team.size:
            raise ValueError(
                f"an update has {len(planned[0])} micro-batches of {part.micro_batch_size}, which {self.team.size} "
                "processes cannot share: change micro_batch_size, num_rollouts or questions_per_step"
            )
        every = [_Row(rolled, i, None) for rolled in filled.rolled for i in range(len(rolled.trajectories))]
        filler = min(every, key=lambda row: len(row.trajectory.ids))
        mine = [
            [filler if place == EMPTY else rows[place] for place in places]
            for update in planned
            for places in self.team.part(update)
        ]
        was_training = model.training
        model.eval()
        with torch.no_grad():
            made = [self._rows(model, places) for places in mine]
        model.train(was_training)
        gap = total(self.team.share(total(gap for _, gap, _ in made)))
        check(gap, part.parity_limit)
        num_capped = sum(self.team.share(sum(num_capped for _, _, num_capped in made)))
        metrics = {
            "sampler_gap": gap.mean,
            "sampler_gap_max": gap.worst,
            "sampler_capped": num_capped / max(1, gap.count),
        }
        return Step([rows for rows, _, _ in made], gap.count, metrics)

    def _rows(self, model: Any, places: Sequence[_Row]) -> tuple[Rows, Gap, int]:
        """A micro-batch, how far sampler and trainer are apart on it, and how many importance weights were capped."""
        part = self.recipe.grpo
        samples = [self._sample(row) for row in places]
        own, mask = compact(samples)
        mask[[row.advantage is None for row in places]] = False
        if part.share_prompt:
            run, flat, seen = pack(samples, self.policy.vocabulary)
            index = pad_rows(flat, 0)
        else:
            width = max(map(len, samples))
            run, index, seen = samples, torch.from_numpy(own + width * np.arange(len(samples))[:, None]), None
        batch = self.batch(run, seen)
        device = batch["input_ids"].device
        index_BN, mask_BN = index.to(device), torch.from_numpy(mask).to(device)
        own_BN = torch.from_numpy(own).to(device)
        old_BN = token_logprobs(model, batch, temperature=part.temperature)[0].flatten()[index_BN]
        ref_BN = None
        if self.reference is not None:
            with self.reference() as reference:
                ref_BN = token_logprobs(reference, batch, temperature=part.temperature)[0].flatten()[index_BN]
        made = old_BN.cpu().numpy()
        gap = total(
            gap_of(sample, made[i][mask[i]], self.policy.vocabulary)
            for i, (sample, row) in enumerate(zip(samples, places, strict=True))
            if row.advantage is not None
        )
        sampler_BN = pad_rows([logprobs_of(s) for s in samples], 0.0).to(device).gather(1, own_BN)
        # Truncated importance sampling. The weight is not negative, so that it may be a part of the advantage:
        # min(ratio · wA, clip(ratio) · wA) = w · min(ratio · A, clip(ratio) · A).
        raw_BN = (old_BN - sampler_BN).exp()
        advantages_B1 = torch.tensor([[row.advantage or 0.0] for row in places], device=device)
        rows = Rows(
            run,
            seen,
            ids_BN=batch["input_ids"].flatten()[index_BN],
            index_BN=index_BN,
            mask_BN=mask_BN,
            advantages_BN=advantages_B1 * raw_BN.clamp(max=part.sampler_cap),
            old_BN=old_BN,
            ref_BN=ref_BN,
        )
        return rows, gap, int(((raw_BN > part.sampler_cap) & mask_BN).sum())

    def batch(self, samples: Sequence[Sample], seen: Tensor | None) -> dict[str, Tensor]:
        """On the device of the policy."""
        device = self.policy.model.device
        batch = self.policy.collate(samples, targets="sampled")
        if seen is not None:
            batch["attention_mask"] = seen
        return {k: v.to(device) for k, v in batch.items()}

    def _sample(self, row: _Row) -> Sample:
        record = row.rolled.record
        return from_trajectory(
            row.trajectory,
            self.recipe.zoom,
            self.policy.vocabulary,
            id=f"{record.id}, rollout {row.number}",
            video=record.video,
        )
