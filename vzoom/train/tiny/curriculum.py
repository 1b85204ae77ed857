"""What pretraining does, as data: stages of mixed drills with their learning rates."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ...config import ZoomConfig
from ...world.spec import WorldConfig


@dataclass(frozen=True)
class Stage:
    """mix: how often each kind of batch comes (weights). Rates are peaks: warm-up, then a cosine to `last` of them.

    vision_factor: on the rates of the vision tower. glance_frames, clip_frames: the most frames that a drill shows.
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
    """batch_sizes: rows of a batch of each kind. side: of a frame in pixels. num_videos: distinct training videos,
    drawn behind the check_videos that are never trained on."""

    name: str
    stages: tuple[Stage, ...]
    zoom: ZoomConfig
    world: WorldConfig = field(default_factory=WorldConfig)
    side: int = 56
    num_videos: int = 400
    batch_sizes: Mapping[str, int] = field(
        default_factory=lambda: {
            "captions": 12,
            "recall": 8,
            "letters": 12,
            "look": 12,
            "scenes": 6,
            "reading": 10,
            "later": 7,
            "whole": 7,
        }
    )
    questions_per_video: int = 2
    nothing: float = 0.4
    flaw_rate: float = 0.2
    seed: int = 0
    check_videos: int = 40
    check_every: int = 150
    save_every: int = 100

    @property
    def num_steps(self) -> int:
        return sum(stage.steps for stage in self.stages)

    def scaled(self, num_steps: int) -> Curriculum:
        """The same stages in about `num_steps` steps, each at least one."""
        if num_steps < len(self.stages):
            raise ValueError(f"{num_steps} steps are fewer than the {len(self.stages)} stages of {self.name}")
        factor = num_steps / self.num_steps
        return replace(self, stages=tuple(replace(s, steps=max(1, round(s.steps * factor))) for s in self.stages))

    def at(self, step: int, *, warmup: int = 15) -> tuple[Stage, float]:
        """The stage of a step and the factor on its learning rates."""
        begin = 0
        for stage in self.stages:
            if step < begin + stage.steps:
                inside = step - begin
                cosine = stage.last + (1 - stage.last) * 0.5 * (1 + math.cos(math.pi * inside / stage.steps))
                return stage, cosine * min(1.0, (inside + 1) / warmup)
            begin += stage.steps
        raise ValueError(f"step {step} is behind the last of {self.num_steps}")


def tiny() -> Curriculum:
    """The embedded model: look-ups among words, look-ups among pixels, drills, whole conversations."""
    return Curriculum(
        name="tiny",
        zoom=ZoomConfig(
            prompt="brief",
            min_pixels=56 * 56,
            max_pixels=56 * 56,
            max_new_tokens=64,
            max_total_tokens=2048,
            answer_reserve=64,
        ),
        stages=(
            Stage("recall", 420, {"recall": 1}, last=0.8),
            Stage("see", 480, {"captions": 2, "look": 3, "recall": 0.7, "letters": 1}, last=0.6),
            Stage("shapes", 220, {"captions": 4, "look": 2, "recall": 0.3, "letters": 0.3}, last=0.6),
            Stage(
                "few",
                350,
                {"captions": 1, "look": 2, "recall": 0.5, "letters": 0.7, "scenes": 3, "reading": 2},
                muon_lr=0.008,
                vision_factor=0.4,
                glance_frames=10,
                clip_frames=6,
                last=0.7,
            ),
            Stage(
                "drills",
                350,
                {"captions": 0.6, "look": 1, "letters": 0.6, "scenes": 3, "reading": 2.5},
                muon_lr=0.007,
                adam_lr=1.5e-3,
                vision_factor=0.3,
                last=0.7,
            ),
            Stage(
                "whole",
                700,
                {"captions": 0.4, "look": 0.4, "letters": 0.4, "scenes": 1.2, "reading": 1, "later": 0.6, "whole": 6},
                muon_lr=0.006,
                adam_lr=1.2e-3,
                vision_factor=0.3,
                last=0.03,
            ),
        ),
    )


CURRICULA = {"tiny": tiny}
