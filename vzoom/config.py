"""Settings as frozen dataclasses, checked when they are made.

Each field says what it means in its annotation: the command line and docs/reference.md are made of it.

The defaults are VideoZoomer's (arXiv 2512.22315): 64 glance frames at 0.5 fps, 4 zooms of at most 16 frames,
at most 100 352 pixels a frame (128 visual tokens), 4 096 new tokens a turn, 32 768 tokens in all.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

FramePolicy = Literal["exact", "videozoomer"]
ResizeRule = Literal["videozoomer", "direct"]
PromptStyle = Literal["full", "brief"]


def missing_extra(package: str, extra: str) -> ImportError:
    """The error for a package that is not installed.

    Args:
        package: its name, as pip knows it.
        extra: the extra of vzoom that brings it.
    """
    return ImportError(
        f"{package} is not installed: run pip install '.[{extra}]' in the source tree (see docs/install.md)"
    )


@dataclass(frozen=True)
class Setting:
    """One field of a settings dataclass: `kind` is int, float, str or a Literal, `meaning` one line about it."""

    name: str
    kind: Any
    default: Any
    meaning: str


def settings_of(cls: type) -> list[Setting]:
    """The fields of a dataclass whose annotations say what they mean, in order. See `ZoomConfig`."""
    hints = get_type_hints(cls, include_extras=True)
    found = []
    for one in fields(cls):
        kind, *meaning = get_args(hints[one.name])
        assert get_origin(hints[one.name]) is Annotated, f"{cls.__name__}.{one.name} does not say what it means"
        found.append(Setting(one.name, kind, one.default, meaning[0]))
    return found


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

    glance_fps: Annotated[float, "frames per second of the glance"] = 0.5
    glance_max_frames: Annotated[int, "most frames of the glance"] = 64
    max_zooms: Annotated[int, "most zooms of a conversation; 0 answers from the glance alone"] = 4
    zoom_max_frames: Annotated[int, "most frames of one zoom"] = 16
    min_pixels: Annotated[int, "fewest pixels of a frame"] = 3136
    max_pixels: Annotated[int, "most pixels of a frame: 28 x 28 are one visual token (32 x 32 in Qwen3-VL)"] = 100352
    max_frames: Annotated[int, "most frames of a conversation, glance and zooms together"] = 128
    max_new_tokens: Annotated[int, "most tokens that the model writes in one turn"] = 4096
    max_total_tokens: Annotated[int, "most tokens of a conversation, frames included"] = 32768
    answer_reserve: Annotated[int, "tokens of max_total_tokens that zooms leave free for the answer"] = 512
    frame_policy: Annotated[FramePolicy, "exact never repeats a frame, videozoomer takes those of its code"] = "exact"
    resize: Annotated[ResizeRule, "videozoomer first shrinks to max_pixels by Lanczos, direct does not"] = "videozoomer"
    prompt: Annotated[PromptStyle, "full explains how to zoom, brief is for models trained without"] = "full"

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


# The fields that may be set for one run. The others are how a checkpoint was trained: they stay in its vzoom.json.
LIMITS = {one.name: one for one in settings_of(ZoomConfig) if one.kind in (int, float)}

_CHOICES: dict[str, tuple[str, ...]] = {
    "frame_policy": get_args(FramePolicy),
    "resize": get_args(ResizeRule),
    "prompt": get_args(PromptStyle),
}


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. temperature 0 is greedy; top_k 0 and top_p 1 are off."""

    temperature: Annotated[float, "how random the next token is; 0 always takes the likeliest one"] = 0.0
    top_p: Annotated[float, "draw from the likeliest tokens that have this probability together; 1 is off"] = 1.0
    top_k: Annotated[int, "draw from this many of the likeliest tokens; 0 is off"] = 0
    seed: Annotated[int, "seed of all that is drawn at random"] = 0

    def __post_init__(self) -> None:
        if not self.temperature >= 0:
            raise ValueError(f"temperature must be 0 or more, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], got {self.top_p}")
        if self.top_k < 0:
            raise ValueError(f"top_k must be 0 or more, got {self.top_k}")
