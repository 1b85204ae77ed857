"""What happens in a procedural video, drawn from a seed: scenes with a colour, brief events inside them.

A scene is long enough for the glance to see its colour and where it begins. An event is a shape that flashes for half a
second. No frame of the default glance shows one, unless `SyntheticConfig.lingering` lets some events stay so long that
it does. Times are seconds, intervals half-open.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..config import ZoomConfig
from ..protocol import glance_timestamps
from ..types import VideoInfo

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "gray")
SHAPES = ("star", "heart", "moon", "square", "triangle", "cross", "ring", "bolt")

_PUBLIC, _TRAINING = 0, 1  # spawn keys: two namespaces of seeds that never meet
_GUARD_SECONDS = 1e-3  # a reader may round a timestamp by half a tick of the container's clock


@dataclass(frozen=True)
class SyntheticConfig:
    """How hard the videos are.

    Args:
        duration_seconds: from 32 to 3600.
        fps: frames per second.
        frame_size: height and width in pixels.
        num_scenes: fewest and most scenes, each of its own colour.
        scene_seconds: shortest and longest scene.
        scene_step_seconds: a scene begins at a multiple of this.
        events_per_scene: fewest and most.
        event_seconds: how long a shape is seen, at most 0.5.
        event_step_seconds: a shape appears at a multiple of this.
        distractors: how many wrong options of `which` are shapes that other scenes of the video show.
        lingering: the share of events that stay for a step of the default glance, so that it shows them. Questions
            about these need no zoom.

    Raises:
        ValueError: a value is out of range, or two do not fit together.
    """

    duration_seconds: float = 64.0
    fps: int = 8
    frame_size: int = 168
    num_scenes: tuple[int, int] = (5, 7)
    scene_seconds: tuple[float, float] = (8.0, 14.0)
    scene_step_seconds: float = 2.0
    events_per_scene: tuple[int, int] = (1, 1)
    event_seconds: float = 0.5
    event_step_seconds: float = 0.5
    distractors: int = 3
    lingering: float = 0.0

    def __post_init__(self) -> None:
        if not 32 <= self.duration_seconds <= 3600:
            raise ValueError(f"duration_seconds must be from 32 to 3600, got {self.duration_seconds}")
        if not 4 <= self.fps <= 60:
            raise ValueError(f"fps must be from 4 to 60, got {self.fps}")
        if not 56 <= self.frame_size <= 1080 or self.frame_size % 2:
            raise ValueError(f"frame_size must be an even number from 56 to 1080, got {self.frame_size}")
        low, high = self.num_scenes
        if not 2 <= low <= high <= len(COLOURS):
            raise ValueError(f"num_scenes must be in 2..{len(COLOURS)} (one colour each), got {self.num_scenes}")
        shortest, longest = self.scene_seconds
        if not 0 < shortest <= longest:
            raise ValueError(f"scene_seconds must be (shortest, longest), got {self.scene_seconds}")
        if low * shortest > self.duration_seconds or high * longest < self.duration_seconds:
            raise ValueError(
                f"{low}..{high} scenes of {shortest:g}..{longest:g} s cannot fill {self.duration_seconds:g} s: "
                "widen scene_seconds or num_scenes"
            )
        if not 0 <= self.events_per_scene[0] <= self.events_per_scene[1]:
            raise ValueError(f"events_per_scene must be (fewest, most), got {self.events_per_scene}")
        if not 0 < self.event_seconds <= 0.5:
            raise ValueError(f"event_seconds must be above 0 and at most 0.5, got {self.event_seconds}")
        if self.event_seconds > self.event_step_seconds:
            raise ValueError(
                f"event_seconds {self.event_seconds} is above event_step_seconds {self.event_step_seconds}: "
                "neighbouring events would overlap"
            )
        for name in ("duration_seconds", "scene_step_seconds", "event_seconds", "event_step_seconds"):
            if not _whole(getattr(self, name) * self.fps):
                raise ValueError(f"{name} {getattr(self, name)} is not a whole number of frames at {self.fps} fps")
        if not _whole(self.duration_seconds / self.scene_step_seconds):
            raise ValueError(
                f"duration_seconds {self.duration_seconds:g} is not a multiple of scene_step_seconds "
                f"{self.scene_step_seconds:g}: lengthen the video or choose another step"
            )
        if not 0 <= self.distractors <= 3:
            raise ValueError(f"distractors must be 0..3, got {self.distractors}")
        if not 0 <= self.lingering <= 1:
            raise ValueError(f"lingering must be from 0 to 1, got {self.lingering}")
        if self.lingering and self.events_per_scene[1] > 1:
            raise ValueError(
                f"lingering events need a scene of their own, got events_per_scene {self.events_per_scene}"
            )


@dataclass(frozen=True)
class Scene:
    """A part of a video, in one colour.

    Args:
        start_seconds: when it begins.
        end_seconds: when the next one begins.
        colour: one of `COLOURS`.
        style: picks the landscape; it has no meaning.
    """

    start_seconds: float
    end_seconds: float
    colour: str
    style: int


@dataclass(frozen=True)
class SyntheticEvent:
    """A shape that is seen for a while.

    Args:
        start_seconds: of the first frame that shows it.
        end_seconds: of the first frame after it.
        scene: the number of its scene, from 0.
        shape: one of `SHAPES`.
        x: of its centre, from 0 to 1 of the frame's width.
        y: of its centre, from 0 to 1 of the frame's height.
    """

    start_seconds: float
    end_seconds: float
    scene: int
    shape: str
    x: float
    y: float


@dataclass(frozen=True)
class SyntheticVideo:
    """A whole video as facts: `render` draws them, and questions are asked about them.

    Args:
        config: that it was drawn from.
        scenes: in order; they fill the video.
        events: in order.
    """

    config: SyntheticConfig
    scenes: tuple[Scene, ...]
    events: tuple[SyntheticEvent, ...]

    @property
    def num_frames(self) -> int:
        """Of the whole video."""
        return round(self.config.duration_seconds * self.config.fps)

    def info(self, path: str = "") -> VideoInfo:
        """What a reader would say of the rendered file at `path`."""
        size = self.config.frame_size
        return VideoInfo(path, self.config.duration_seconds, float(self.config.fps), size, size)

    def events_in(self, scene: int) -> list[SyntheticEvent]:
        """The events of scene number `scene`, from 0."""
        return [event for event in self.events if event.scene == scene]


def make_video(seed: int, config: SyntheticConfig | None = None) -> SyntheticVideo:
    """The video of a public seed. Every public seed is held out: training draws from another namespace.

    Args:
        seed: 0 or more.
        config: None is the default.

    Raises:
        ValueError: the seed is below 0, or the config cannot be met.
    """
    return _draw(np.random.default_rng(_sequence(seed, _PUBLIC)), config or SyntheticConfig())


def make_training_video(index: int, config: SyntheticConfig | None = None) -> SyntheticVideo:
    """Video number `index` of the training set. No seed of `make_video` gives the same random numbers.

    Args:
        index: 0 or more.
        config: None is the default.

    Raises:
        ValueError: the index is below 0, or the config cannot be met.
    """
    return _draw(np.random.default_rng(_sequence(index, _TRAINING)), config or SyntheticConfig())


def _sequence(seed: int, namespace: int) -> np.random.SeedSequence:
    if seed < 0:
        raise ValueError(f"seed must be 0 or more, got {seed}")
    return np.random.SeedSequence(seed, spawn_key=(namespace,))


def _draw(rng: np.random.Generator, config: SyntheticConfig) -> SyntheticVideo:
    lengths = _scene_lengths(rng, config)
    colours = rng.permutation(COLOURS)
    scenes, start = [], 0.0
    for i, length in enumerate(lengths):
        scenes.append(Scene(start, start + length, str(colours[i]), int(rng.integers(1 << 16))))
        start += length
    video = SyntheticVideo(config, tuple(scenes), ())
    glance = glance_timestamps(video.info(), ZoomConfig())
    deck: list[str] = []
    events: list[SyntheticEvent] = []
    for i, scene in enumerate(scenes):
        length = config.event_seconds
        starts = _hidden_starts(scene, config, glance)
        if config.lingering and rng.random() < config.lingering:
            length = glance[1] - glance[0]
            starts = _starts(scene, config, length).tolist() or starts
        count = int(rng.integers(config.events_per_scene[0], config.events_per_scene[1] + 1))
        if count > len(starts):
            raise ValueError(
                f"the scene from {scene.start_seconds:g} to {scene.end_seconds:g} s has room for "
                f"{len(starts)} hidden events, not {count}: lower events_per_scene"
            )
        for at in sorted(rng.choice(starts, size=count, replace=False)):
            deck = deck or [str(s) for s in rng.permutation(SHAPES)]  # shapes repeat only once all were shown
            x, y = rng.uniform(0.45, 0.55, size=2)
            events.append(SyntheticEvent(float(at), float(at) + length, i, deck.pop(), float(x), float(y)))
    for event in events:
        if event.end_seconds - event.start_seconds > config.event_seconds:
            continue
        seen = [t for t in glance if event.start_seconds - _GUARD_SECONDS <= t < event.end_seconds]
        assert not seen, f"glance frames {seen} show event {event}"
    return SyntheticVideo(config, tuple(scenes), tuple(events))


def _scene_lengths(rng: np.random.Generator, config: SyntheticConfig) -> list[float]:
    """Random lengths within scene_seconds, multiples of the step, that fill the video."""
    step = config.scene_step_seconds
    total = round(config.duration_seconds / step)
    low, high = math.ceil(config.scene_seconds[0] / step - 1e-9), math.floor(config.scene_seconds[1] / step + 1e-9)
    counts = [n for n in range(config.num_scenes[0], config.num_scenes[1] + 1) if n * low <= total <= n * high]
    if not counts:
        raise ValueError(
            f"no number of scenes in {config.num_scenes} fills {config.duration_seconds:g} s "
            f"with lengths in {config.scene_seconds}: widen scene_seconds or num_scenes"
        )
    lengths = np.full(int(rng.choice(counts)), low)
    while (spare := total - int(lengths.sum())) > 0:
        open_scenes = np.flatnonzero(lengths < high)
        chunk = max(1, spare // (2 * len(lengths)))
        i = int(rng.choice(open_scenes))
        lengths[i] += min(chunk, high - lengths[i], spare)
    return [float(n * step) for n in lengths]


def _hidden_starts(scene: Scene, config: SyntheticConfig, glance: list[float]) -> list[float]:
    """Times at which an event can begin in this scene without any glance frame showing it."""
    starts, length = _starts(scene, config, config.event_seconds), config.event_seconds
    times = np.asarray(glance)
    shown = np.searchsorted(times, starts + length) > np.searchsorted(times, starts - _GUARD_SECONDS)
    return starts[~shown].tolist()


def _starts(scene: Scene, config: SyntheticConfig, length_seconds: float) -> np.ndarray:
    """Times at which an event of this length can begin in this scene."""
    step = config.event_step_seconds
    last = math.floor((scene.end_seconds - length_seconds) / step + 1e-9)
    return np.arange(math.ceil(scene.start_seconds / step - 1e-9), last + 1) * step


def _whole(x: float) -> bool:
    return abs(x - round(x)) < 1e-6
