"""What pretraining does, as data: stages of mixed drills with their learning rates."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ...config import ZoomConfig
from ...synthetic import SyntheticConfig
from .model import Shape


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
    """families: what is asked, in which world. batch_sizes: rows of a batch of each kind. nothing: how often the
    frames of `reading` miss what is asked for. side: of a frame in pixels. num_videos: distinct training videos,
    drawn behind the check_videos that are never trained on."""

    name: str
    stages: tuple[Stage, ...]
    zoom: ZoomConfig
    shape: Shape = field(default_factory=Shape)
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
