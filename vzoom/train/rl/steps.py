"""One RL step up to the loss: roll out, reward, choose groups, and have them laid out for the updates (`rows.py`).

Everything is decided alike in every process, from what all of them rolled out.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ...data import Record
from ...protocol import Judge
from ..common.dist import Team
from ..common.policy import Policy
from ..recipes.recipe import Recipe
from .collapse import StepStats, alarm
from .progress import Progress, draw
from .refill import Filled, fill
from .reward import Reward
from .rollout import Rolled, Sampler, rollout_seed, score_all
from .rows import Layout, Step


class Collapsed(Exception):
    """The policy collapsed, or nothing is left to learn: the run ends with its best checkpoint."""


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
    ) -> None:
        self.recipe, self.sampler = recipe, sampler
        self.questions, self.team, self.judge = questions, team, judge
        self.layout = Layout(recipe, policy, team)
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
        step = self.layout.lay_out(model, filled, step=self.progress.step)
        seconds = {"seconds/rollout": rolled - started, "seconds/logprobs": time.perf_counter() - rolled}
        return replace(step, metrics={**metrics, **step.metrics, **seconds})

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
