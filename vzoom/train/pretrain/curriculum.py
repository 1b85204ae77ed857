"""What pretraining does, as data: stages of mixed tasks with their learning rates."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ...config import ZoomConfig
from ...synthetic import SyntheticConfig
from .model import BaseShape


@dataclass(frozen=True)
class CurriculumStage:
    """One stage of a curriculum. Rates rise in a warm-up, then fall by a cosine.

    Args:
        name: for the log.
        steps: updates.
        mix: task -> how often a batch is of it (weights).
        muon_lr: the peak rate of the matrices.
        adam_lr: the peak rate of all else.
        vision_factor: on both rates for the vision tower.
        glance_frames: most frames of a glance in `scenes`.
        clip_frames: most frames of a clip in `listing` and `reading`.
        last: the fraction of the peaks that the rates end at.
    """

    name: str
    steps: int
    mix: Mapping[str, float]
    muon_lr: float = 0.01
    adam_lr: float = 2e-3
    vision_factor: float = 1.0
    glance_frames: int = 64
    clip_frames: int = 16
    last: float = 0.05


@dataclass(frozen=True)
class Curriculum:
    """All stages, and what their examples are made of.

    Args:
        name: for messages.
        stages: in order.
        zoom: how conversations are held; limits and prompt.
        shape: of the model.
        families: family of questions -> what its videos look like.
        checks: the tasks whose accuracy on held-out videos is logged.
        side: of a frame, in pixels.
        num_videos: distinct training videos per family.
        batch_sizes: task -> examples per batch.
        questions_per_video: examples in a batch that share a video, whose frames are then encoded once.
        nothing: how often the frames of `reading` miss what the question asks for.
        seed: of weights and batches.
        check_videos: videos per family that are only checked, never trained on.
        check_every: updates between two checks.
        save_every: updates between two saved states.
    """

    name: str
    stages: tuple[CurriculumStage, ...]
    zoom: ZoomConfig
    shape: BaseShape = field(default_factory=BaseShape)
    families: Mapping[str, SyntheticConfig] = field(default_factory=lambda: {"which": SyntheticConfig()})
    checks: tuple[str, ...] = ("captions", "recall", "letters", "look", "scenes", "reading", "answers")
    side: int = 56
    num_videos: int = 400
    batch_sizes: Mapping[str, int] = field(
        default_factory=lambda: {
            "captions": 12,
            "recall": 8,
            "letters": 12,
            "look": 12,
            "scenes": 6,
            "listing": 8,
            "reading": 12,
            "answers": 8,
        }
    )
    questions_per_video: int = 2
    nothing: float = 0.4
    seed: int = 0
    check_videos: int = 40
    check_every: int = 150
    save_every: int = 100

    def __post_init__(self) -> None:
        if self.zoom.protocol.frame.encoding == "video":
            raise ValueError(
                f"the curriculum {self.name} shows frames as images: its protocol's frame.encoding must be image"
            )

    @property
    def num_steps(self) -> int:
        return sum(stage.steps for stage in self.stages)

    def scaled(self, num_steps: int) -> Curriculum:
        """The same stages in about `num_steps` steps, each at least one.

        Args:
            num_steps: how many in all.

        Returns:
            The shorter (or longer) curriculum.

        Raises:
            ValueError: there are more stages than steps.
        """
        if num_steps < len(self.stages):
            raise ValueError(f"{num_steps} steps are fewer than the {len(self.stages)} stages of {self.name}")
        factor = num_steps / self.num_steps
        return replace(self, stages=tuple(replace(s, steps=max(1, round(s.steps * factor))) for s in self.stages))

    def at(self, step: int, *, warmup: int = 15) -> tuple[CurriculumStage, float]:
        """The stage of a step and the factor on its learning rates.

        Args:
            step: from 0.
            warmup: steps of a stage in which the rates rise.

        Returns:
            The stage, and a factor in (0, 1].

        Raises:
            ValueError: the step is after the last.
        """
        begin = 0
        for stage in self.stages:
            if step < begin + stage.steps:
                inside = step - begin
                cosine = stage.last + (1 - stage.last) * 0.5 * (1 + math.cos(math.pi * inside / stage.steps))
                return stage, cosine * min(1.0, (inside + 1) / warmup)
            begin += stage.steps
        raise ValueError(f"step {step} is after the last of {self.num_steps}")
