"""Settings as frozen dataclasses, checked when they are made.

Each docstring says what the fields mean: the command line and docs/reference.md are made of it (`settings_of`).

The defaults are VideoZoomer's (arXiv 2512.22315): 64 glance frames at 0.5 fps, 4 zooms of at most 16 frames,
at most 100 352 pixels per frame (128 visual tokens), 4 096 new tokens per turn, 32 768 tokens in all.
"""

from __future__ import annotations

import inspect
import json
import math
import re
import sys
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from .protocol import (
    LONG_VIDEO_SECONDS,
    Protocol,
    builtin_names,
    builtin_protocol,
    protocol_from_dict,
    protocol_to_dict,
)

DEFAULT_PROTOCOL = "vzoom"

GlanceFrames = Literal["exact", "keyframe"]
VideoBackend = Literal["auto", "pyav", "dali"]
SeekMode = Literal["exact", "approximate"]


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
    """One field of a settings dataclass: its type, its default, and what its class's docstring says about it."""

    name: str
    kind: Any
    default: Any
    meaning: str


def settings_of(cls: type) -> dict[str, Setting]:
    """The fields of a settings dataclass by name, as its docstring describes them under `Attributes:` or `Args:`.

    Raises:
        ValueError: the docstring leaves a field out.
    """
    kinds, meanings = get_type_hints(cls), _described(inspect.cleandoc(cls.__doc__ or ""))
    silent = [one.name for one in fields(cls) if one.name not in meanings]
    if silent and sys.flags.optimize < 2:  # `python -OO` leaves docstrings out
        raise ValueError(f"the docstring of {cls.__name__} does not say what {', '.join(silent)} means")
    return {
        one.name: Setting(one.name, kinds[one.name], one.default, meanings.get(one.name, "")) for one in fields(cls)
    }


def _described(text: str) -> dict[str, str]:
    """What a docstring in Google's style says about each name."""
    section = re.search(r"^(?:Attributes|Args):\n(.*?)(?:^\w+:\n|\Z)", text, re.DOTALL | re.MULTILINE)
    entries = re.split(r"^ {4}(?=\w+: )", section[1], flags=re.MULTILINE)[1:] if section else []
    pairs = (" ".join(entry.split()).split(": ", 1) for entry in entries)
    return {name: meaning.removesuffix(".") for name, meaning in pairs}


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
        max_zooms: zooms that the model may make, in max_zooms + 1 turns at most; 0 answers from the glance alone.
        zoom_max_frames: frames of one zoom at most; a call for more is refused.
        min_pixels: smaller frames are enlarged to so many pixels (height times width).
        max_pixels: larger frames are shrunk to so many pixels. A visual token covers 28 x 28 pixels in Qwen2-VL and
            Qwen2.5-VL, 32 x 32 in Qwen3-VL.
        max_frames: frames of a conversation at most, glance and zooms together.
        max_new_tokens: tokens that the model may write in one turn at most.
        max_total_tokens: tokens of a conversation at most: prompt, frames, turns.
        answer_reserve: tokens of max_total_tokens that no clip may take, so that room for the answer is left.
        glance: "exact" shows the frames at the glance's times; "keyframe" the keyframe at or before each, with its own
            time: many times cheaper, but a group of frames early, and fewer frames if the file has fewer keyframes.
        protocol: what the model is shown and how it writes: texts, frame rules, grammar. See docs/protocols.md.

    Raises:
        ValueError: a field is out of range. The message names it and its value.
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
    glance: GlanceFrames = "exact"
    protocol: Protocol = field(default_factory=lambda: builtin_protocol(DEFAULT_PROTOCOL))

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
        if not isinstance(self.protocol, Protocol):
            raise ValueError(f"protocol must be a Protocol, such as load_protocol gives, got {self.protocol!r}")
        if self.glance not in get_args(GlanceFrames):
            raise ValueError(f"glance must be one of {', '.join(get_args(GlanceFrames))}, got {self.glance!r}")
        if self.answer_reserve >= self.max_total_tokens:
            raise ValueError(f"answer_reserve {self.answer_reserve} leaves nothing of {self.max_total_tokens} tokens")

    def override(self, **changes: Any) -> ZoomConfig:
        """A copy with new values in the fields of `changes` that are not None.

        Raises:
            TypeError: a field is unknown.
            ValueError: a value is out of range.
        """
        return replace(self, **{k: v for k, v in changes.items() if v is not None})

    @classmethod
    def of(cls, protocol: Protocol, **changes: Any) -> ZoomConfig:
        """The settings of conversations in a protocol: its limits, and the defaults for what it does not say.

        Args:
            protocol: the protocol.
            changes: fields that have other values than the protocol's; None changes nothing.

        Raises:
            ValueError: a value is out of range.
        """
        limits = {
            "glance_fps": protocol.glance.fps,
            "glance_max_frames": protocol.glance.max_frames,
            "zoom_max_frames": protocol.zoom.max_frames,
            "min_pixels": protocol.pixels.min,
            "max_pixels": protocol.pixels.max,
            "max_zooms": protocol.limits.max_zooms,
            "max_frames": protocol.limits.max_frames,
            "max_new_tokens": protocol.limits.max_new_tokens,
            "max_total_tokens": protocol.limits.max_total_tokens,
        }
        return cls(protocol=protocol).override(**limits).override(**changes)

    def for_video(self, duration_seconds: float) -> ZoomConfig:
        """The settings for a video of this length: of a long one the protocol may make the frames smaller."""
        long_box = self.protocol.pixels.long_box
        if long_box is None or duration_seconds <= LONG_VIDEO_SECONDS:
            return self
        return replace(self, protocol=self.protocol.override(pixels={"box": long_box, "long_box": None}))

    @classmethod
    def from_dict(cls, data: dict[str, Any], source: str, *, protocol: Protocol | None = None) -> ZoomConfig:
        """Check the contents of a `vzoom.json`.

        Args:
            data: field names and their values; fields that are left out have the protocol's limits. `protocol` is the
                name of a built-in protocol or a table as `protocol_to_dict` gives it. `frame_policy`, `resize` and
                `prompt`, which files of vzoom 1 hold in its place, are read.
            source: where it comes from, for the message.
            protocol: replaces that of `data`.

        Raises:
            ValueError: a field is unknown, or a value is out of range.
        """
        file = f"vzoom.json of {source}"
        unknown = set(data) - {f.name for f in fields(cls)} - set(_OLD_CHOICES)
        if unknown:
            raise ValueError(f"{file}: unknown field {', '.join(sorted(unknown))}")
        numbers = {name: value for name, value in data.items() if name not in ("protocol", *_OLD_CHOICES)}
        for name, kind in get_type_hints(cls).items():
            value: Any = numbers.get(name)
            if name not in numbers or kind not in (int, float):
                continue
            # true is a number to Python, and so are NaN and infinity to its JSON.
            is_number = isinstance(value, (int, float) if kind is float else int) and not isinstance(value, bool)
            if not (is_number and abs(value) <= 2**53):
                raise ValueError(f"{file}: {name} is {repr(value)[:80]}")
        own = protocol or _protocol_in(data, file)
        try:
            return cls.of(own, **numbers)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{file}: {error}") from None

    def to_dict(self) -> dict[str, Any]:
        """What a `vzoom.json` holds: all fields; of a built-in protocol the name, of another one the whole table."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        name = self.protocol.name
        is_builtin = name in builtin_names() and builtin_protocol(name) == self.protocol
        return {**values, "protocol": name if is_builtin else protocol_to_dict(self.protocol)}

    def save(self, path: Path) -> None:
        """Write the settings to `path` as JSON, as `from_dict` reads them. OSError if that is not possible."""
        path.write_text(json.dumps(self.to_dict(), indent=1) + "\n")


# What files of vzoom 1 said of the protocol, and its values. "brief" and "full" are the two protocols of today.
_OLD_CHOICES: dict[str, tuple[str, ...]] = {
    "prompt": ("full", "brief"),
    "frame_policy": ("exact", "videozoomer"),
    "resize": ("videozoomer", "direct"),
}


def _protocol_in(data: dict[str, Any], file: str) -> Protocol:
    """The protocol that a `vzoom.json` names, holds, or describes in the words of vzoom 1."""
    told = data.get("protocol")
    old = {name: data.get(name, allowed[0]) for name, allowed in _OLD_CHOICES.items()}
    for name, allowed in _OLD_CHOICES.items():
        if old[name] not in allowed:
            raise ValueError(f"{file}: {name} must be one of {', '.join(allowed)}, got {old[name]!r}")
    if told is None:
        base = builtin_protocol("vzoom-brief" if old["prompt"] == "brief" else "vzoom")
        if (old["frame_policy"], old["resize"]) == ("exact", "videozoomer"):
            return base
        return base.override(
            name=f"{base.name}, {old['frame_policy']} frames, {old['resize']} resizing",
            glance={"rule": old["frame_policy"]},
            zoom={"rule": old["frame_policy"]},
            pixels={"resize": old["resize"]},
        )
    if isinstance(told, str):
        if told not in builtin_names():
            raise ValueError(f"{file}: protocol {told!r} is none of {', '.join(builtin_names())}")
        return builtin_protocol(told)
    return protocol_from_dict(told, f"{file}, protocol")


# The fields that may be set for one run. The others are how a checkpoint was trained: they stay in its vzoom.json.
LIMITS = {name: one for name, one in settings_of(ZoomConfig).items() if one.kind in (int, float) or name == "glance"}


@dataclass(frozen=True)
class VideoOptions:
    """How videos are read. None of it changes which frame is on display at a time.

    Attributes:
        backend: who decodes: "pyav" on the CPU; "dali", NVIDIA DALI, on a GPU (VP8, VP9 and MJPEG on the CPU too);
            "auto" takes DALI if the model is on a GPU whose decoder can read the file, else PyAV, and says why.
        stream: number of the video stream in its file, as ffprobe counts; without it the largest that is no cover
            picture.
        num_threads: threads that decode one video.
        deadline_seconds: the longest that opening a video, or reading some of its frames, may take.
        max_packets: the most packets that opening a video, or reading some of its frames, may read.
        device: where "auto" and "dali" leave the frames: "cpu", or a GPU such as "cuda:0".
        seek_mode: "exact" knows when every frame is displayed, which takes reading some containers through;
            "approximate" believes what the header says about length and rate, so that any container opens at once.
        max_frame_pixels: frames of more pixels are refused. A decoder holds up to 17 of them.
        follow_playlists: whether a file may be a playlist (HLS, DASH, ffconcat), whose files are then opened.

    Raises:
        ValueError: a field is out of range. The message names it and its value.
    """

    backend: VideoBackend = "auto"
    stream: int | None = None
    num_threads: int = 1
    deadline_seconds: float = 300.0
    max_packets: int = 5_000_000
    device: str = "cpu"
    seek_mode: SeekMode = "exact"
    max_frame_pixels: int = 8192 * 4320
    follow_playlists: bool = False

    def __post_init__(self) -> None:
        _positive(
            num_threads=self.num_threads,
            deadline_seconds=self.deadline_seconds,
            max_packets=self.max_packets,
            max_frame_pixels=self.max_frame_pixels,
        )
        if self.seek_mode not in get_args(SeekMode):
            raise ValueError(f"seek_mode must be exact or approximate, got {self.seek_mode!r}")
        if self.backend not in get_args(VideoBackend):
            raise ValueError(f"backend must be auto, pyav or dali, got {self.backend!r}")
        if self.stream is not None and self.stream < 0:
            raise ValueError(f"stream must be 0 or more, got {self.stream}")


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen, with the meanings of transformers' GenerationConfig.

    Attributes:
        temperature: divides the logits; 0 takes the most likely token (greedy).
        top_p: draw from the smallest set of tokens that holds so much probability; 1 is off.
        top_k: draw from the k most likely tokens; 0 is off.
        min_p: leave out tokens that are less likely than min_p times the most likely one; 0 is off.
        repetition_penalty: divides the logits of tokens that came before, in greedy decoding too; 1 is off.
        seed: of the random stream. Rollout i of a request adds i to it.

    Raises:
        ValueError: a field is out of range.
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
