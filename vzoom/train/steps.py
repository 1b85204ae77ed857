"""One RL step up to the loss: roll out, reward, choose groups, and lay them out for the updates.

Everything is decided alike in every process, from what all of them rolled out; each then prepares its own part.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.record import Record
from ..eval.judge import Judge
from ..types import Trajectory
from .collapse import StepStats, alarm
from .collate import pad_rows
from .minibatches import EMPTY, plan
from .pack import pack
from .parity import Gap, check, compact, gap_of, logprobs_of, total
from .policy import Policy, token_logprobs
from .progress import Progress, draw
from .recipe import Recipe
from .refill import Filled, fill
from .reward import Reward
from .rollout import Rolled, Sampler, rollout_seed, score_all
from .samples import Sample, from_trajectory
from .team import Team


class Collapsed(Exception):
    """The policy collapsed, or nothing is left to learn: the run ends with its best checkpoint."""


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


class Steps:
    """Makes the steps of a run, one after the other. progress: where it stands; the trainer saves and restores it."""

    def __init__(
        self,
        recipe: Recipe,
        policy: Policy,
        sampler: Sampler,
        questions: Sequence[Record],
        *,
        team: Team,
        judge: Judge | None = None,
        reference: ReferenceModel | None = None,
    ) -> None:
        self.recipe, self.policy, self.sampler = recipe, policy, sampler
        self.questions, self.team, self.judge = questions, team, judge
        self.reference = reference
        self.progress = Progress()

    def next(self, model: Any) -> Step:
        """Roll the policy out and prepare the updates. model: the policy's, as accelerate wrapped it.

        Collapsed where the run should end, ParityError where sampler and trainer do not agree.
        """
        started = time.perf_counter()
        part = self.recipe.grpo
        self.sampler.update(model)
        filled = fill(self._draw, self._roll, wanted=part.questions_per_step, max_refills=part.max_refills)
        rolled = time.perf_counter()
        metrics = self._take_stock(filled)
        step = self._lay_out(model, filled)
        seconds = {"seconds/rollout": rolled - started, "seconds/logprobs": time.perf_counter() - rolled}
        return replace(step, metrics={**metrics, **step.metrics, **seconds})

    # ------------------------------------------------------------ rolling out

    def _draw(self, count: int) -> list[Record]:
        found = draw(self.questions, first=self.progress.drawn, count=count, seed=self.recipe.seed)
        self.progress = replace(self.progress, drawn=self.progress.drawn + count)
        return found

    def _roll(self, records: Sequence[Record]) -> list[Rolled]:
        part = self.recipe.grpo
        first = self.progress.drawn - len(records)
        # Where there are few questions, a step may draw one twice: another pass over them, other rollouts.
        seeds = [
            rollout_seed(self.recipe.seed, self.progress.step, f"{record.id}/{(first + i) // len(self.questions)}")
            for i, record in enumerate(records)
        ]
        mine = self.team.part(records)
        groups = self.sampler.roll_out(
            mine, num_rollouts=part.num_rollouts, temperature=part.temperature, seeds=self.team.part(seeds)
        )
        zoom_rate = self.progress.zoom_rate.value
        return self.team.whole(score_all(mine, groups, zoom_rate=zoom_rate, config=part.reward, judge=self.judge))

    def _take_stock(self, filled: Filled) -> dict[str, float]:
        """What the step's rollouts were like; moves `progress` on."""
        part, progress = self.recipe.grpo, self.progress
        trajectories = [t for rolled in filled.rolled for t in rolled.trajectories]
        rewards = [r for rolled in filled.rolled for r in rolled.rewards if isinstance(r, Reward)]
        stats = StepStats.of(trajectories)
        idle = 0 if filled.kept else progress.idle + 1
        self.progress = replace(
            progress,
            step=progress.step + 1,
            history=(*progress.history, stats),
            zoom_rate=progress.zoom_rate.after(
                num_zoomed=sum(bool(t.zooms) for t in trajectories), num_rollouts=len(trajectories)
            ),
            idle=idle,
        )
        if found := alarm(self.progress.history, part.collapse):
            raise Collapsed(str(found))
        if idle >= part.collapse.patience:
            raise Collapsed(
                f"no question of the last {idle} steps had rollouts of different rewards: nothing is left to learn. "
                "Take harder or easier questions, more rollouts a question, or a higher temperature"
            )

        def mean(values: Sequence[float]) -> float:
            return sum(values) / len(values) if values else 0.0

        return {
            "reward": mean([r.total for r in rewards]),
            "accuracy": mean([r.accuracy for r in rewards]),
            "tool_reward": mean([r.tool for r in rewards]),
            "format_rate": stats.format_rate,
            "zoom_rate": stats.zoom_rate,
            "cut_rate": stats.cut_rate,
            "zooms": mean([float(len(t.zooms)) for t in trajectories]),
            "frames": mean([float(t.num_frames) for t in trajectories]),
            "tokens": stats.mean_tokens,
            "keep_rate": filled.keep_rate,
            "refills": float(filled.num_refills),
            "groups": float(len(filled.kept)),
            "groups_flat": float(filled.num_flat),
            "groups_spare": float(filled.num_spare),
            "judge_failures": float(filled.num_failed),
        }

    # ------------------------------------------------------------ laying out

    def _lay_out(self, model: Any, filled: Filled) -> Step:
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
            seed=(self.recipe.seed, self.progress.step),
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
            self.sampler.config,
            self.policy.vocabulary,
            id=f"{record.id}, rollout {row.number}",
            video=record.video,
        )
