"""One GRPO step, top to bottom: from questions to the micro-batches that TRL computes its loss of.

    draw questions -> roll out -> reward -> dynamic sampling -> advantages -> plan micro-batches
    -> log-probabilities and their check -> batches for TRL

On its way a rollout changes its type five times:

    Trajectory (the engine's) -> RolloutGroup (with its question and rewards) -> SampledGroups (those with a signal)
    -> Sample (tokens, masks, positions) -> MicroBatch (tensors) -> the dict that TRL's loss reads (`trl_adapter`)

Every process decides alike, from what all of them rolled out; each then prepares its own micro-batches.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...data import Record
from ...protocol import Judge
from ..common.collate import CollatedBatch, pad_rows
from ..common.dist import ProcessGroup
from ..common.policy import PolicyModel, token_logprobs
from ..common.rollout_engine import RolloutEngine
from ..common.samples import Sample, from_trajectory, sampled_index
from ..recipes.recipe import Recipe
from .collapse import StepStats, alarm
from .dynamic_sampling import RolloutGroup, SampledGroups, sample_groups
from .logprob_mismatch import LogprobMismatch, engine_logprobs, mismatch_of
from .micro_batches import EMPTY, plan_micro_batches
from .progress import GRPOProgress, draw_questions
from .reward import Reward, score_rollouts
from .shared_prompt import pack

ReferenceModel = Callable[[], AbstractContextManager[Any]]
"""In its context, the model that it gives is the reference."""


class Collapsed(Exception):
    """The policy collapsed, or nothing is left to learn: the run ends with its best model."""


@dataclass(frozen=True)
class MicroBatch:
    """B rollouts with their N sampled tokens, side by side and padded; their prompts are not in these tensors.

    batch: what the model runs, collated once for all its uses. index: where each token is in the flattened batch.
    mask: False for padding. advantages: times the importance weight of each token. old: the log-probabilities before
    the step's updates. ref: the reference model's, if there is one.
    """

    batch: CollatedBatch
    ids_BN: Tensor
    index_BN: Tensor
    mask_BN: Tensor
    advantages_BN: Tensor
    old_BN: Tensor
    ref_BN: Tensor | None


@dataclass(frozen=True)
class StepBatches:
    """micro_batches: this process's, update by update. num_tokens: sampled ones of all updates and processes."""

    micro_batches: list[MicroBatch]
    num_tokens: int
    metrics: dict[str, float]


class GRPOSteps:
    """Makes the steps of a run, one after the other.

    Args:
        recipe: its `grpo` and `zoom`.
        policy: the model in training.
        engine: rolls out with its weights.
        questions: to draw from; each has a reference answer.
        group: the processes.
        judge: for questions without options.

    Attributes:
        progress: where the run is; the caller saves and restores it.
        reference: the model that the policy should stay near; None without such a term.
    """

    def __init__(
        self,
        recipe: Recipe,
        policy: PolicyModel,
        engine: RolloutEngine,
        questions: Sequence[Record],
        *,
        group: ProcessGroup,
        judge: Judge | None = None,
    ) -> None:
        self.recipe, self.policy, self.engine = recipe, policy, engine
        self.questions, self.group, self.judge = questions, group, judge
        self.progress = GRPOProgress()
        self.reference: ReferenceModel | None = None
        self._num_failed = 0  # questions of the step that is being made

    def next(self, model: Any) -> StepBatches:
        """Make the next step. All processes must call it.

        Args:
            model: the policy's, as accelerate wrapped it.

        Raises:
            Collapsed: the run should end.
            ValueError: more than half of some questions that were rolled out together failed. Fewer are left out.
            LogprobMismatchError: engine and trainer do not agree.
        """
        part = self.recipe.grpo
        started = time.perf_counter()
        self.engine.update(model)

        # Draw questions, roll them out, reward; again, until enough groups have a signal.
        self._num_failed = 0
        sampled = sample_groups(self._roll_out, wanted=part.questions_per_step, max_refills=part.max_refills)
        metrics = self._finish_rollouts(sampled)
        rolled_out = time.perf_counter()

        # Advantages, and which rollout is in which micro-batch.
        rollouts = [(group, i, advantage) for group in sampled.kept for i, advantage in enumerate(group.advantages)]
        planned = plan_micro_batches(
            [len(group.trajectories[i].ids) for group, i, _ in rollouts],
            num_places=part.questions_per_step * part.num_rollouts,
            num_updates=part.updates_per_step,
            micro_batch_size=part.micro_batch_size,
            seed=(self.recipe.seed, self.progress.step),  # the number of this step, from 1
            block=part.num_rollouts if part.share_prompt else 1,
        )
        # A place that no rollout fills is given the shortest of all, and nothing of it counts.
        every = [(group, i) for group in sampled.rolled_out for i in range(len(group.trajectories))]
        filler = (*min(every, key=lambda one: len(one[0].trajectories[one[1]].ids)), None)
        mine = [
            [filler if place == EMPTY else rollouts[place] for place in places]
            for update in planned
            for places in self.group.shard(update)
        ]

        # Log-probabilities of policy and reference before the updates; the policy's must be those of the engine.
        with _evaluating(model), torch.no_grad():
            made = [self._micro_batch(model, some) for some in mine]
        mismatch = LogprobMismatch.sum(self.group.all_gather(LogprobMismatch.sum(m for _, m, _ in made)))
        mismatch.check(part.max_logprob_mismatch)
        num_capped = sum(self.group.all_gather(sum(num_capped for _, _, num_capped in made)))

        metrics |= {
            "logprob_mismatch": mismatch.mean,
            "logprob_mismatch_max": mismatch.worst,
            "importance_capped": num_capped / max(1, mismatch.count),
            "seconds/rollout": rolled_out - started,
            "seconds/logprobs": time.perf_counter() - rolled_out,
        }
        return StepBatches([micro_batch for micro_batch, _, _ in made], mismatch.count, metrics)

    def _roll_out(self, count: int) -> list[RolloutGroup]:
        """The next `count` questions, rolled out and rewarded by all processes together."""
        part, progress = self.recipe.grpo, self.progress
        records = draw_questions(self.questions, first=progress.drawn, count=count, seed=self.recipe.seed)
        # If there are few questions, a step may draw one twice: in another pass over them it has other rollouts.
        seeds = [
            rollout_seed(self.recipe.seed, progress.step, f"{record.id}/{(progress.drawn + i) // len(self.questions)}")
            for i, record in enumerate(records)
        ]
        self.progress = replace(progress, drawn=progress.drawn + count)
        mine = self.group.shard(records)
        rollouts = self.engine.roll_out(
            mine, num_rollouts=part.num_rollouts, temperature=part.temperature, seeds=self.group.shard(seeds)
        )
        whole = [(record, group) for record, group in zip(mine, rollouts, strict=True) if isinstance(group, tuple)]
        rewards = score_rollouts(
            [record for record, _ in whole],
            [group for _, group in whole],
            self.recipe.zoom.protocol,
            zoom_rate=progress.zoom_rate.value,
            config=part.reward,
            judge=self.judge,
        )
        groups = iter([RolloutGroup(*one, reward) for one, reward in zip(whole, rewards, strict=True)])
        found = self.group.unshard([next(groups) if isinstance(one, tuple) else str(one) for one in rollouts])
        failed = [one for one in found if isinstance(one, str)]
        if 2 * len(failed) > len(found):
            raise ValueError(f"{len(failed)} of {len(found)} questions failed; the first: {failed[0]}")
        for text in failed:
            warnings.warn(f"left out of this step: {text}", RuntimeWarning, stacklevel=2)
        self._num_failed += len(failed)
        return [one for one in found if isinstance(one, RolloutGroup)]

    def _finish_rollouts(self, sampled: SampledGroups) -> dict[str, float]:
        """What the step's rollouts were like. Moves `progress` on, and raises Collapsed if the run should end."""
        part, progress = self.recipe.grpo, self.progress
        trajectories = [t for group in sampled.rolled_out for t in group.trajectories]
        rewards = [r for group in sampled.rolled_out for r in group.rewards if isinstance(r, Reward)]
        stats = StepStats.of(trajectories, self.recipe.zoom.protocol)
        idle = 0 if sampled.kept else progress.idle + 1
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
                "Take harder or easier questions, more rollouts per question, or a higher temperature"
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
            "keep_rate": sampled.keep_rate,
            "refills": float(sampled.num_refills),
            "groups": float(len(sampled.kept)),
            "groups_flat": float(sampled.num_flat),
            "groups_unused": float(sampled.num_unused),
            "judge_failures": float(sampled.num_failed),
            "rollout_failures": float(self._num_failed),
        }

    def _micro_batch(
        self, model: Any, rollouts: Sequence[tuple[RolloutGroup, int, float | None]]
    ) -> tuple[MicroBatch, LogprobMismatch, int]:
        """Collate some rollouts and run them.

        Args:
            model: see `next`.
            rollouts: groups, which of their rollouts, and its advantage; None if it only fills a place.

        Returns:
            The micro-batch, how far engine and trainer are apart on it, and how many importance weights were capped.
        """
        part, vocabulary = self.recipe.grpo, self.policy.vocabulary
        samples = [self._sample(group, i) for group, i, _ in rollouts]
        fills = [advantage is None for *_, advantage in rollouts]
        own, mask = sampled_index(samples)
        mask[fills] = False
        if part.share_prompt:
            packed, index, attention_mask = pack(samples, vocabulary)
            batch = self.policy.collate(packed, targets="sampled")
            batch = replace(batch, tokens={**batch.tokens, "attention_mask": attention_mask})
        else:
            batch = self.policy.collate(samples, targets="sampled")
            index = torch.from_numpy(own + max(map(len, samples)) * np.arange(len(samples))[:, None])
        device = self.policy.model.device
        inputs = batch.to(device)
        index_BN, mask_BN = index.to(device), torch.from_numpy(mask).to(device)

        def logprobs(scorer: Any) -> Tensor:
            return token_logprobs(scorer, inputs, temperature=part.temperature)[0].flatten()[index_BN]

        old_BN, ref_BN = logprobs(model), None
        if self.reference is not None:
            with self.reference() as reference:
                ref_BN = logprobs(reference)
        trainer_BN = old_BN.cpu().numpy()
        mismatch = LogprobMismatch.sum(
            mismatch_of(sample, trainer_BN[row][mask[row]], vocabulary)
            for row, sample in enumerate(samples)
            if not fills[row]
        )
        # Truncated importance sampling. The weight is not negative, so that it may be a part of the advantage:
        # min(ratio · wA, clip(ratio) · wA) = w · min(ratio · A, clip(ratio) · A).
        engine_BT = pad_rows([engine_logprobs(sample) for sample in samples], 0.0).to(device)
        weight_BN = (old_BN - engine_BT.gather(1, torch.from_numpy(own).to(device))).exp()
        advantages_B1 = torch.tensor([[advantage or 0.0] for *_, advantage in rollouts], device=device)
        micro_batch = MicroBatch(
            batch,
            ids_BN=inputs["input_ids"].flatten()[index_BN],
            index_BN=index_BN,
            mask_BN=mask_BN,
            advantages_BN=advantages_B1 * weight_BN.clamp(max=part.importance_cap),
            old_BN=old_BN,
            ref_BN=ref_BN,
        )
        return micro_batch, mismatch, int(((weight_BN > part.importance_cap) & mask_BN).sum())

    def _sample(self, group: RolloutGroup, number: int) -> Sample:
        record = group.record
        return from_trajectory(
            group.trajectories[number],
            self.recipe.zoom,
            self.policy.vocabulary,
            id=f"{record.id}, rollout {number}",
            video=record.video,
        )


def rollout_seed(recipe_seed: int, step: int, question: str, number: int = 0) -> int:
    """The seed of a rollout: those of one question in a step are consecutive, as the engine has it.

    Args:
        recipe_seed: the recipe's.
        step: steps done before.
        question: names it, and which pass over the questions it is of.
        number: of the rollout.
    """
    digest = blake2b(f"{recipe_seed}/{step}/{question}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 2) + number


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Dropout is off inside."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
