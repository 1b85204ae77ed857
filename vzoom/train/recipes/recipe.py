"""A recipe: everything that training does, as frozen data. Recipes are functions; the command line picks one by name.

The defaults are VideoZoomer's (arXiv 2512.22315).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from ...config import ZoomConfig
from ...protocol import Protocol
from ...synthetic import SyntheticConfig
from ..pretrain.curriculum import Curriculum
from ..rl.collapse import CollapseLimits
from ..rl.reward import RewardConfig


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters on the projections of the language model (peft).

    Args:
        rank: width of an adapter.
        alpha: an adapter's output is scaled by alpha / rank.
        dropout: probability of dropping an adapter's input.
    """

    rank: int = 64
    alpha: int = 128
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha < 1 or not 0 <= self.dropout < 1:
            raise ValueError(f"need rank ≥ 1, alpha ≥ 1 and 0 ≤ dropout < 1, got {self}")


@dataclass(frozen=True)
class Optimisation:
    """How weights are updated.

    Args:
        learning_rate: the peak rate of AdamW.
        muon_learning_rate: the peak rate of Muon, which then trains the matrices; None trains everything with AdamW.
        weight_decay: of AdamW.
        warmup: the fraction of all updates in which the rates rise.
        schedule: what the rates do after the warm-up.
        max_grad_norm: a larger gradient is scaled down to this norm.
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
class ClipBounds:
    """A token's probability ratio counts between 1 − low and 1 + high. The defaults are VideoZoomer's.

    Args:
        low: below 1.
        high: low or more; above it leaves rare tokens room to grow (clip-higher, DAPO, arXiv 2503.14476).
    """

    low: float = 0.2
    high: float = 0.27

    def __post_init__(self) -> None:
        if not 0 < self.low < 1 or not self.high >= self.low:
            raise ValueError(f"need 0 < low < 1 and high ≥ low, got low {self.low}, high {self.high}")


@dataclass(frozen=True)
class ReflectionRecipe:
    """How reflections are collected and mixed in.

    Args:
        ratio: reflections per exemplar in the data of SFT.
        rollouts: the student's attempts per question.
        temperature: of the student's sampling.
    """

    ratio: float = 0.25
    rollouts: int = 1
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.ratio < 0 or self.rollouts < 1:
            raise ValueError(f"need ratio ≥ 0 and rollouts ≥ 1, got {self.ratio}, {self.rollouts}")


@dataclass(frozen=True)
class SFTRecipe:
    """Supervised fine-tuning.

    Args:
        optimisation: how weights are updated.
        epochs: passes over the data.
        batch_size: conversations per update, over all processes.
        micro_batch_size: conversations per forward pass and process.
        freeze_vision: leave the vision tower and its projector as they are.
        cache_features: encode each frame once; needs freeze_vision.
        gradient_checkpointing: compute activations again in the backward pass, to save memory.
        lora: train adapters only; None trains all weights.
        eval_questions: how many held-out questions choose the best checkpoint; 0 keeps the last.
        eval_every: updates between two evaluations.
        eval_sessions: held-out questions that are answered at once.
        save_every: updates between two checkpoints of the trainer.
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
    """Reinforcement learning by group-relative policy optimisation.

    Args:
        optimisation: how weights are updated.
        steps: rounds of rolling out and learning.
        questions_per_step: groups per step, over all processes.
        num_rollouts: rollouts per question: the size of a group.
        updates_per_step: updates that a step's rollouts are split into.
        micro_batch_size: rollouts per forward pass and process.
        temperature: of the rollouts.
        clip: bounds of the probability ratio.
        kl_weight: of the divergence from the policy before training.
        entropy_weight: of the policy's entropy.
        importance_cap: largest importance weight between trainer and engine.
        reward: what a rollout earns.
        max_refills: how often a step replaces groups without signal.
        max_logprob_mismatch: a step stops the run if the mean |log-probability of the engine - that of the trainer|
            is above.
        collapse: a policy beyond these limits stops the run.
        freeze_vision: leave the vision tower and its projector as they are.
        cache_features: encode each frame once; needs freeze_vision.
        gradient_checkpointing: compute activations again in the backward pass, to save memory.
        lora: train adapters only; None trains all weights.
        eval_questions: how many held-out questions choose the best checkpoint; 0 keeps the last.
        eval_every: steps between two evaluations.
        save_every: steps between two checkpoints of the trainer.
        max_sessions: rollouts that the engine of a process runs together.
        pool_tokens: what the pages of that engine hold (`Engine`). None makes room for max_sessions whole
            conversations, which is more than the memory beside a large model.
        share_prompt: compute what a question's rollouts have in common once per micro-batch (`rl/shared_prompt.py`).
            It pays if the glance is most of a conversation, and needs an attention mask of tokens x tokens of that
            question.
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
    importance_cap: float = 2.0
    reward: RewardConfig = field(default_factory=RewardConfig)
    max_refills: int = 3
    max_logprob_mismatch: float = 0.05
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
class SyntheticData:
    """What a recipe for rendered videos has beside the rest: it pretrains its own base and renders its questions.

    Args:
        curriculum: how the base is pretrained.
        configs: what videos look like, by family of questions.
        num_videos: training videos by family.
        questions_per_video: questions about each of them.
        fewer_zooms: the share of questions that are asked under a lower limit of zooms.
        exemplars: how many questions the expert answers.
        eval_questions: fresh questions per family in the final evaluation.
        rl_videos: further videos by family that only RL asks about: the rollouts of a question whose answer was
            learned are all alike. Without any, RL asks the questions of SFT.
    """

    curriculum: Curriculum
    configs: Mapping[str, SyntheticConfig]
    num_videos: Mapping[str, int]
    questions_per_video: int = 2
    fewer_zooms: float = 0.0
    exemplars: int = 1000
    eval_questions: int = 400
    rl_videos: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not set(self.rl_videos) <= set(self.configs):
            raise ValueError(f"rl_videos are of {sorted(self.rl_videos)}, configs of {sorted(self.configs)}")
        if set(self.configs) != set(self.num_videos):
            raise ValueError(f"configs are of {sorted(self.configs)}, num_videos of {sorted(self.num_videos)}")


@dataclass(frozen=True)
class Recipe:
    """All of a training.

    Args:
        name: what the command line calls it.
        base: the checkpoint to begin with, a folder or a hub id; "" if `synthetic` says how to make one.
        zoom: how every conversation is held.
        synthetic: rendered videos to learn from; None trains on questions of your own.
        reflection: how reflections are collected and mixed in.
        sft: supervised fine-tuning.
        grpo: reinforcement learning.
        seed: of data, training and rollouts.
    """

    name: str
    base: str
    zoom: ZoomConfig
    synthetic: SyntheticData | None = None
    reflection: ReflectionRecipe = field(default_factory=ReflectionRecipe)
    sft: SFTRecipe = field(default_factory=SFTRecipe)
    grpo: GRPORecipe = field(default_factory=GRPORecipe)
    seed: int = 0


def _batches(batch_size: int, micro_batch_size: int) -> None:
    if micro_batch_size < 1 or batch_size < 1 or batch_size % micro_batch_size:
        raise ValueError(f"batch_size {batch_size} must be a multiple of micro_batch_size {micro_batch_size}")


def in_protocol(recipe: Recipe, protocol: Protocol) -> Recipe:
    """The same recipe, every conversation of which is held in another protocol: in pretraining, SFT, GRPO, evaluation
    and in the vzoom.json that is written. Its limits stay.

    Args:
        recipe: the recipe.
        protocol: the protocol.
    """
    synthetic = recipe.synthetic
    if synthetic is not None:
        curriculum = synthetic.curriculum
        zoom = replace(curriculum.zoom, protocol=protocol)
        synthetic = replace(synthetic, curriculum=replace(curriculum, zoom=zoom))
    return replace(recipe, zoom=replace(recipe.zoom, protocol=protocol), synthetic=synthetic)


def scaled(recipe: Recipe, factor: float) -> Recipe:
    """The same recipe with less (or more) of everything that takes time: a rehearsal, not a training.

    Args:
        recipe: the recipe.
        factor: 0.01 leaves a hundredth, and at least what each stage needs to run at all.

    Returns:
        The smaller recipe.

    Raises:
        ValueError: the factor is not above 0.
    """
    if not factor > 0:
        raise ValueError(f"the scale must be above 0, got {factor}")

    def some(number: int, least: int = 1) -> int:
        return max(least, round(number * factor))

    synthetic, sft, grpo = recipe.synthetic, recipe.sft, recipe.grpo
    if synthetic is not None:
        curriculum = synthetic.curriculum
        synthetic = replace(
            synthetic,
            curriculum=curriculum.scaled(some(curriculum.num_steps, len(curriculum.stages))),
            num_videos={family: some(number, 4) for family, number in synthetic.num_videos.items()},
            rl_videos={family: some(number, 2) for family, number in synthetic.rl_videos.items()},
            exemplars=some(synthetic.exemplars, 4),
            eval_questions=some(synthetic.eval_questions, 2),
        )
    return replace(
        recipe,
        synthetic=synthetic,
        sft=replace(sft, eval_questions=min(sft.eval_questions, some(sft.eval_questions, 2))),
        grpo=replace(
            grpo,
            steps=some(grpo.steps, 2),
            eval_questions=min(grpo.eval_questions, some(grpo.eval_questions, 2)),
        ),
    )
