"""Settings as frozen dataclasses, checked when they are made.

Each field says what it means in its annotation: the command line and docs/reference.md are made of it.

The defaults are VideoZoomer's (arXiv 2512.22315): 64 glance frames at 0.5 fps, 4 zooms of at most 16 frames,
at most 100 352 pixels per frame (128 visual tokens), 4 096 new tokens per turn, 32 768 tokens in all.
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
    """How a conversation looks at its video. A checkpoint keeps its own as `vzoom.json`.

    Attributes:
        glance_fps: frames per second of the glance, if the video is short enough for it.
        glance_max_frames: frames of the glance at most; a longer video is shown at a lower rate.
        max_zooms: calls that the model may make. It writes at most max_zooms + 1 turns.
        zoom_max_frames: frames of one zoom at most; a call for more is refused.
        min_pixels: smaller frames are enlarged to so many pixels (height times width).
        max_pixels: larger frames are shrunk to so many pixels. A visual token covers 28 x 28 pixels in Qwen2-VL and
            Qwen2.5-VL, 32 x 32 in Qwen3-VL.
        max_frames: frames in all, glance and zooms.
        max_new_tokens: tokens that the model may write in one turn.
        max_total_tokens: tokens of the whole conversation: prompt, frames, turns.
        answer_reserve: tokens of max_total_tokens that no clip may take, so that room for the answer is left.
        frame_policy: "exact" samples half-open intervals at the requested rate and never repeats a frame;
            "videozoomer" chooses frames as VideoZoomer's public code does.
        resize: "videozoomer" shrinks with Lanczos to max_pixels, then resizes like Hugging Face's processor; "direct"
            only does the latter.
        prompt: "full" explains the tools to any model; "brief" is for models trained on it.

    Raises:
        ValueError: a field is out of range. The message names it and its value.
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
        """A copy with new values in the fields of `changes` that are not None.

        Raises:
            TypeError: a field is unknown.
            ValueError: a value is out of range.
        """
        return replace(self, **{k: v for k, v in changes.items() if v is not None})

    @classmethod
    def from_dict(cls, data: dict[str, Any], source: str) -> ZoomConfig:
        """Check the contents of a `vzoom.json`.

        Args:
            data: field names and their values; fields that are left out have their defaults.
            source: where it comes from, for the message.

        Raises:
            ValueError: a field is unknown, or a value is out of range.
        """
        unknown = set(data) - {f.name for f in fields(cls)}
        if unknown:
            raise ValueError(f"vzoom.json of {source}: unknown field {', '.join(sorted(unknown))}")
        return cls(**data)

    def save(self, path: Path) -> None:
        """Write the settings to `path` as JSON, as `from_dict` reads them. OSError if that is not possible."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")


_CHOICES: dict[str, tuple[str, ...]] = {
    "frame_policy": get_args(FramePolicy),
    "resize": get_args(ResizeRule),
    "prompt": get_args(PromptStyle),
}


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Attributes:
        temperature: divides the logits; 0 takes the most likely token (greedy).
        top_p: draw from the smallest set of tokens that holds so much probability; 1 is off.
        top_k: draw from the k most likely tokens; 0 is off.
        seed: of the random stream. Rollout i of a request adds i to it.

    Raises:
        ValueError: a field is out of range.
    """

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
