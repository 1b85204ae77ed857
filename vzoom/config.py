"""Settings as frozen dataclasses, checked when they are made.

The defaults are VideoZoomer's (arXiv 2512.22315): 64 glance frames at 0.5 fps, 4 zooms of at most 16 frames,
at most 100 352 pixels a frame (128 visual tokens), 4 096 new tokens a turn, 32 768 tokens in all.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

FramePolicy = Literal["exact", "videozoomer"]
ResizeRule = Literal["videozoomer", "direct"]
PromptStyle = Literal["full", "brief"]


def _positive(**values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name} must be above 0, got {value!r}")


@dataclass(frozen=True)
class ZoomConfig:
    """How a conversation looks at its video. Saved beside a checkpoint as `vzoom.json`.

    frame_policy "exact" samples half-open intervals at the asked rate and never repeats a frame; "videozoomer"
    reproduces the public code's frame choice. resize "videozoomer" shrinks with Lanczos to `max_pixels`, then
    resizes like Hugging Face's processor; "direct" only does the latter.
    """

    glance_fps: float = 0.5
    glance_max_frames: int = 64
    max_zooms: int = 4
    zoom_max_frames: int = 16
    min_pixels: int = 3136
    max_pixels: int = 100352
    max_frames: int = 128
    max_new_tokens: int = 4096
    max_total_tokens: int = 32768
    answer_reserve: int = 512
    frame_policy: FramePolicy = "exact"
    resize: ResizeRule = "videozoomer"
    prompt: PromptStyle = "full"

    def __post_init__(self) -> None:
        _positive(
            glance_fps=self.glance_fps,
            glance_max_frames=self.glance_max_frames,
            zoom_max_frames=self.zoom_max_frames,
            min_pixels=self.min_pixels,
            max_frames=self.max_frames,
            max_new_tokens=self.max_new_tokens,
            answer_reserve=self.answer_reserve,
        )
        if self.max_zooms < 0:
            raise ValueError(f"max_zooms must be 0 or more, got {self.max_zooms}")
        if self.min_pixels > self.max_pixels:
            raise ValueError(f"min_pixels {self.min_pixels} is above max_pixels {self.max_pixels}")
        if self.answer_reserve >= self.max_total_tokens:
            raise ValueError(f"answer_reserve {self.answer_reserve} leaves nothing of {self.max_total_tokens} tokens")
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")

    def override(self, **changes: Any) -> ZoomConfig:
        """A copy with the fields that are not None replaced."""
        return replace(self, **{k: v for k, v in changes.items() if v is not None})

    @classmethod
    def from_dict(cls, data: dict[str, Any], source: str) -> ZoomConfig:
        """The contents of a `vzoom.json`. ValueError names `source` and an unknown field, or a value out of range."""
        unknown = set(data) - {f.name for f in fields(cls)}
        if unknown:
            raise ValueError(f"vzoom.json of {source}: unknown field {', '.join(sorted(unknown))}")
        return cls(**data)

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")


_CHOICES = {
    "frame_policy": ("exact", "videozoomer"),
    "resize": ("videozoomer", "direct"),
    "prompt": ("full", "brief"),
}


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen, as transformers' GenerationConfig has it.

    temperature 0 is greedy; top_k 0, top_p 1, min_p 0 and repetition_penalty 1 are off. The penalty holds for greedy
    decoding too; the others do not.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature must be 0 or more, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], got {self.top_p}")
        if self.top_k < 0:
            raise ValueError(f"top_k must be 0 or more, got {self.top_k}")
        if not 0 <= self.min_p <= 1:
            raise ValueError(f"min_p must be from 0 to 1, got {self.min_p}")
        if not 0 < self.repetition_penalty < math.inf:
            raise ValueError(f"repetition_penalty must be above 0, got {self.repetition_penalty}")
