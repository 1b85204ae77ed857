"""A recipe: everything that a school run does, as frozen data. Recipes are functions; the CLI picks one and overrides.

The defaults are VideoZoomer's (arXiv 2512.22315).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from ...config import ZoomConfig
from ...synthetic import SyntheticConfig
from ..pretrain.curriculum import Curriculum
from ..rl.collapse import CollapseLimits
from ..rl.groups import ClipBounds
from ..rl.reward import RewardConfig


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters on the language model's projections (peft)."""

    rank: int = 64
    alpha: int = 128
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha < 1 or not 0 <= self.dropout < 1:
            raise ValueError(f"need rank ≥ 1, alpha ≥ 1 and 0 ≤ dropout < 1, got {self}")


@dataclass(frozen=True)
class Optimisation:
    """learning_rate: of AdamW, a peak. muon_learning_rate: of Muon for the matrices; None trains all with AdamW.

    schedule: behind the warm-up, whose length is a fraction of all steps.
    """

    learning_rate: float
    muon_learning_rate: float | None = None
    weight_decay: float = 0.0
    warmup: float = 0.0
    schedule: Literal["cosine", "constant"] = "constant"
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        if not self.learning_rate > 0 or (self.muon_learning_rate is not None and not self.muon_learning_rate > 0):
            raise ValueError(f"learning rates must be above 0, got {self.learning_rate}, {self.muon_learning_rate}")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup must be a fraction below 1, got {self.warmup}")


@dataclass(frozen=True)
class ReflectionRecipe:
    """ratio: reflection trajectories for each exemplar in SFT's data. rollouts: of the student, a question."""

    ratio: float = 0.25
    rollouts: int = 1
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.ratio < 0 or self.rollouts < 1:
            raise ValueError(f"need ratio ≥ 0 and rollouts ≥ 1, got {self.ratio}, {self.rollouts}")


@dataclass(frozen=True)
class SFTRecipe:
    """batch_size: conversations of an update over all processes, in micro-batches of micro_batch_size a process.

    freeze_vision: the tower and its projector. cache_features: encode each frame once, which needs a frozen tower.
    epochs: passes over the data. eval_questions: held out, answered greedily every eval_every updates for the best
    checkpoint, eval_sessions at once; 0 keeps the last.
    """

    optimisation: Optimisation = field(default_factory=lambda: Optimisation(5e-6, warmup=0.1, schedule="cosine"))
    epochs: float = 1.0
    batch_size: int = 64
    micro_batch_size: int = 1
    freeze_vision: bool = True
    cache_features: bool = True
    gradient_checkpointing: bool = True
    lora: Lora | None = None
    eval_questions: int = 64
    eval_every: int = 50
    eval_sessions: int = 8
    save_every: int = 50

    def __post_init__(self) -> None:
        _batches(self.batch_size, self.micro_batch_size)
        if self.cache_features and not self.freeze_vision:
            raise ValueError("cache_features needs freeze_vision: features of a tower in training go stale")


@dataclass(frozen=True)
class GRPORecipe:
    """steps of questions_per_step groups of num_rollouts each, used for updates_per_step updates.

    max_refills: times that groups without signal are replaced in a step. kl_weight: towards the policy before training.
    parity_limit: mean |log-probability of sampler − trainer| of a step above which the run stops.
    max_sessions: rollouts that a process's engine feeds together. pool_tokens: what its pages hold, see `Engine`; None
    is max_sessions whole conversations, more than a large model's memory has room for. share_prompt: run what a
    question's rollouts have in common once for those of a micro-batch (`pack`); pays where the glance is most of a
    conversation, and takes an attention mask of its own, tokens x tokens of a micro-batch's question.
    """

    optimisation: Optimisation = field(default_factory=lambda: Optimisation(1e-6))
    steps: int = 100
    questions_per_step: int = 128
    num_rollouts: int = 16
    updates_per_step: int = 4
    micro_batch_size: int = 1
    temperature: float = 1.0
    clip: ClipBounds = field(default_factory=ClipBounds)
    kl_weight: float = 0.001
    entropy_weight: float = 0.001
    sampler_cap: float = 2.0
    reward: RewardConfig = field(default_factory=RewardConfig)
    max_refills: int = 3
    parity_limit: float = 0.05
    collapse: CollapseLimits = field(default_factory=CollapseLimits)
    freeze_vision: bool = True
    cache_features: bool = True
    gradient_checkpointing: bool = True
    lora: Lora | None = None
    eval_questions: int = 64
    eval_every: int = 10
    save_every: int = 10
    max_sessions: int = 64
    pool_tokens: int | None = None
    share_prompt: bool = False

    def __post_init__(self) -> None:
        if self.num_rollouts < 2:
            raise ValueError(f"num_rollouts must be 2 or more to be compared, got {self.num_rollouts}")
        if self.share_prompt and self.questions_per_step % self.updates_per_step:
            raise ValueError(
                f"share_prompt keeps a question's rollouts in one update: questions_per_step {self.questions_per_step} "
                f"must be a multiple of updates_per_step {self.updates_per_step}"
            )
        if self.max_sessions < self.num_rollouts:
            raise ValueError(f"max_sessions {self.max_sessions} must hold a question's {self.num_rollouts} rollouts")
        if not self.temperature > 0:
            raise ValueError(f"temperature must be above 0, got {self.temperature}")
        if (self.questions_per_step * self.num_rollouts) % self.updates_per_step:
            raise ValueError(
                f"{self.questions_per_step} x {self.num_rollouts} rollouts cannot be split in {self.updates_per_step}"
            )
        _batches(self.questions_per_step * self.num_rollouts // self.updates_per_step, self.micro_batch_size)
        if self.cache_features and not self.freeze_vision:
            raise ValueError("cache_features needs freeze_vision: features of a tower in training go stale")


@dataclass(frozen=True)
class WorldLessons:
    """What a recipe for the rendered world needs beside the rest: its base is made here, its questions are rendered.

    worlds, num_videos: by family of questions. curriculum: of the base (`train/tiny`). fewer_zooms: the share of
    questions that are held under a lower limit of zooms. exemplars, eval_questions: how many questions are distilled,
    and how many fresh ones of each family are asked in the end. rl_videos: by family, further videos for RL alone,
    since rollouts of a question whose answer was learned are all alike; without them RL asks SFT's questions.
    """

    curriculum: Curriculum
    worlds: Mapping[str, SyntheticConfig]
    num_videos: Mapping[str, int]
    questions_per_video: int = 2
    fewer_zooms: float = 0.0
    exemplars: int = 1000
    eval_questions: int = 400
    rl_videos: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not set(self.rl_videos) <= set(self.worlds):
            raise ValueError(f"rl_videos are of {sorted(self.rl_videos)}, the worlds {sorted(self.worlds)}")
        if set(self.worlds) != set(self.num_videos):
            raise ValueError(f"worlds {sorted(self.worlds)} and num_videos {sorted(self.num_videos)} differ")


@dataclass(frozen=True)
class Recipe:
    """base: a hub id or folder; "" where `world` says how to make one."""

    name: str
    base: str
    zoom: ZoomConfig
    world: WorldLessons | None = None
    reflection: ReflectionRecipe = field(default_factory=ReflectionRecipe)
    sft: SFTRecipe = field(default_factory=SFTRecipe)
    grpo: GRPORecipe = field(default_factory=GRPORecipe)
    seed: int = 0


def _batches(batch_size: int, micro_batch_size: int) -> None:
    if micro_batch_size < 1 or batch_size < 1 or batch_size % micro_batch_size:
        raise ValueError(f"batch_size {batch_size} must be a multiple of micro_batch_size {micro_batch_size}")


def scaled(recipe: Recipe, factor: float) -> Recipe:
    """The same recipe with less (or more) of everything that takes time: a rehearsal, not a training.

    What is left is at least what each stage needs to run at all.
    """
    if not factor > 0:
        raise ValueError(f"the scale must be above 0, got {factor}")

    def some(number: int, least: int = 1) -> int:
        return max(least, round(number * factor))

    world, sft, grpo = recipe.world, recipe.sft, recipe.grpo
    if world is not None:
        world = replace(
            world,
            curriculum=world.curriculum.scaled(some(world.curriculum.num_steps, len(world.curriculum.stages))),
            num_videos={family: some(number, 4) for family, number in world.num_videos.items()},
            rl_videos={family: some(number, 2) for family, number in world.rl_videos.items()},
            exemplars=some(world.exemplars, 4),
            eval_questions=some(world.eval_questions, 2),
        )
    return replace(
        recipe,
        world=world,
        sft=replace(sft, eval_questions=min(sft.eval_questions, some(sft.eval_questions, 2))),
        grpo=replace(
            grpo,
            steps=some(grpo.steps, 2),
            eval_questions=min(grpo.eval_questions, some(grpo.eval_questions, 2)),
        ),
    )
