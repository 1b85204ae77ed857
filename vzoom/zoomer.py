"""`vzoom.load(...)` and `Zoomer.ask(...)`: the front door."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from importlib.resources import files
from os import PathLike
from pathlib import Path
from typing import Any

from .config import Sampling, VideoOptions, ZoomConfig
from .engine import Engine, Outcome, Request, Reuse
from .models import Checkpoint, FeatureCache, load_checkpoint
from .protocol import Protocol, load_protocol
from .report import Report, answer_card
from .types import Clip, Event, Failed, Trajectory, shortened
from .video import CacheStats, ClipCache, VideoInput

EMBEDDED = "embedded"


@dataclass(frozen=True)
class Result:
    """An answer, and how it was reached. A notebook shows it as a card.

    Attributes:
        trajectory: the conversation, token for token.
        glance: the frames of the whole video that opened it; None in a protocol without a glance.
        clips: clips[i] is what trajectory.zooms[i] brought.
        seconds: wall time from the start of the call to this answer.
        model: the name that the model was loaded by.
        config: the settings that the conversation was held under, its protocol among them.
        warnings: why the answer may be worse than it could be: the model is prompted in a protocol that it was not
            trained in.
    """

    trajectory: Trajectory
    glance: Clip | None
    clips: list[Clip]
    seconds: float
    model: str
    config: ZoomConfig = field(default_factory=ZoomConfig)
    warnings: tuple[str, ...] = ()

    @property
    def answer(self) -> str | None:
        """The text of the answer; None if the model gave none (trajectory.stop_reason says why)."""
        return self.trajectory.answer

    @property
    def report(self) -> Report:
        """A self-contained HTML page of this result: `result.report.save("out.html")`."""
        return Report(self)

    def __repr__(self) -> str:
        stop = str(self.trajectory.stop_reason) if self.trajectory.stop_reason else None
        zooms = ", ".join(f"{start:.2f}-{end:.2f} s" for start, end in self.trajectory.zoom_spans)
        return (
            f"Result(answer={shortened(self.answer)!r}, stop_reason={stop!r}, zooms=[{zooms}], "
            f"frames={self.trajectory.num_frames}, seconds={self.seconds:.2f})"
        )

    def _repr_html_(self) -> str:
        """What a notebook shows: question, answer, timeline. Nothing is loaded from anywhere."""
        return answer_card(self)


def embedded_path() -> Path:
    """The folder of the small model that comes with the package."""
    return Path(str(files("vzoom") / "synthetic" / "embedded"))


def load(
    model: str | PathLike[str] = EMBEDDED,
    *,
    device: str = "auto",
    dtype: str = "auto",
    revision: str | None = None,
    adapter: str | PathLike[str] | None = None,
    protocol: str | PathLike[str] | Protocol | None = None,
    system: str | None = None,
    config: ZoomConfig | None = None,
    limits: Mapping[str, Any] | None = None,
    video: VideoOptions | None = None,
    max_sessions: int = 1,
    progress: Callable[[str], None] | None = None,
) -> Zoomer:
    """Load a Qwen2-VL, Qwen2.5-VL or Qwen3-VL checkpoint.

    Args:
        model: a folder, a hub id such as "Qwen/Qwen2.5-VL-7B-Instruct", or "embedded": the small model of the package,
            which knows nothing but vzoom's synthetic videos. A LoRA adapter of PEFT stands for its base with it.
        device: "auto" (CUDA if torch sees it), "cpu", "cuda" or "cuda:N".
        dtype: "auto" (the checkpoint's own; float32 on a CPU that does not multiply in it), "float32", "bfloat16" or
            "float16".
        revision: a branch, a tag or a commit of a hub id.
        adapter: a LoRA adapter of PEFT, a folder or hub id, that is merged into the model.
        protocol: how the model is prompted and read: the name of a built-in protocol, or a `protocol.toml`. If not
            given: the `protocol.toml` or `vzoom.json` of the checkpoint, else the built-in protocol of its hub id,
            else one for models that were not trained to zoom, with a warning (`Zoomer.checkpoint.warnings`).
        system: a system text that replaces that of the protocol.
        config: replaces the checkpoint's own `vzoom.json`, with its protocol.
        limits: fields of `ZoomConfig` that replace those of the config.
        video: how videos are read; its device is that of the model.
        max_sessions: conversations at once that memory must suffice for, beside the weights.
        progress: called with a line of text while the weights are read.

    Raises:
        OSError: there is no such checkpoint, or the hub does not answer.
        ValueError: it is of another family, the device or dtype is not available, its files do not hold what its
            config.json describes, it does not fit in the free memory, or its adapter or quantisation is not one that
            vzoom reads, or the protocol lacks texts that must be learned or given. The message says what would do.
    """
    path = embedded_path() if model == EMBEDDED else model
    own = {} if config is None else {one.name: getattr(config, one.name) for one in fields(config)}
    asked = own.pop("protocol", None) if protocol is None else protocol
    changes = {**own, **(limits or {})}
    checkpoint = load_checkpoint(
        str(path),
        device=device,
        dtype=dtype,
        revision=revision,
        adapter=None if adapter is None else str(adapter),
        protocol=load_protocol(asked) if isinstance(asked, str | PathLike) else asked,
        system=system,
        limits=changes,
        max_sessions=max_sessions,
        progress=progress,
    )
    name = str(model) if adapter is None else f"{model} with {adapter}"
    return Zoomer(checkpoint, config=checkpoint.config.override(**changes), name=name, video=video)


class Zoomer:
    """A loaded model that answers questions about videos.

    Args:
        checkpoint: the model.
        config: replaces the checkpoint's own.
        name: what results call the model.
        video: how videos are read; its device is that of the model.

    Attributes:
        clip_cache: decoded frames, kept between questions.
        feature_cache: what the vision tower made of frames, kept between questions. Clear it when the tower's weights
            change.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        config: ZoomConfig | None = None,
        name: str | None = None,
        video: VideoOptions | None = None,
    ) -> None:
        self.checkpoint = checkpoint
        self.config = config or checkpoint.config
        self.name = name or checkpoint.name
        options = replace(video or VideoOptions(), device=str(checkpoint.model.device))
        self.clip_cache = ClipCache(options=options)
        self.feature_cache = FeatureCache()

    @property
    def is_embedded(self) -> bool:
        """Whether this is the small model of the package."""
        return self.name == EMBEDDED

    def ask(
        self,
        video: VideoInput,
        question: str,
        *,
        max_zooms: int | None = None,
        sampling: Sampling | None = None,
        on_event: Callable[[Event], None] | None = None,
    ) -> Result:
        """Answer one question.

        Args:
            video: as for `open_video`; or an open video, a reader or an object of your own with `info`, `frames_at`
                and `close`, which stays yours to close.
            question: the text, options included.
            max_zooms: replaces that of the config.
            sampling: as the checkpoint's generation_config.json says if not given; greedy if it says nothing.
            on_event: called with text and zooms as they happen.

        Raises:
            VideoError: the file is not a readable video. (A ValueError, like the others.)
            ValueError: the question is empty, or the glance does not fit in max_total_tokens.
        """
        return self.ask_many([(video, question)], max_zooms=max_zooms, sampling=sampling, on_event=on_event)[0]

    def ask_many(
        self,
        questions: Iterable[tuple[VideoInput, str]],
        *,
        max_zooms: int | None = None,
        sampling: Sampling | None = None,
        on_event: Callable[[Event], None] | None = None,
        max_sessions: int = 8,
        reuse: Reuse = "off",
    ) -> list[Result]:
        """Answer many questions in one batch.

        Args:
            questions: (video, question) pairs; videos as for `ask`.
            max_zooms: replaces that of the config.
            sampling: greedy if not given; pair i samples with seed sampling.seed + i.
            on_event: called with text and zooms as they happen.
            max_sessions: questions that are answered at once.
            reuse: "rotate" or "rotate+first16" splices clips that an earlier question of this call has seen without
                feeding them again. Approximate: result.trajectory.is_exact says where it happened. See
                `vzoom/engine/clip_reuse.py`.

        Returns:
            The results, in the order of the questions. Their `seconds` count from the start of the call.

        Raises:
            ValueError: as `ask` does, for the first question that fails; the others are then dropped. To keep them,
                use `Engine.run`, whose outcomes carry one error each.
        """
        config = self.config.override(max_zooms=max_zooms)
        base = sampling or self.checkpoint.sampling
        # One seed for all would draw the same numbers in every session.
        requests = [
            self.request(video, question, config=config, sampling=replace(base, seed=base.seed + i))
            for i, (video, question) in enumerate(questions)
        ]
        return self._run(requests, on_event, max_sessions=min(max_sessions, len(requests)), reuse=reuse)

    def rollouts(
        self,
        video: VideoInput,
        question: str,
        num_rollouts: int,
        *,
        max_zooms: int | None = None,
        sampling: Sampling | None = None,
        on_event: Callable[[Event], None] | None = None,
    ) -> list[Result]:
        """Answer one question several times in one batch. The glance is encoded and fed once for all.

        Args:
            video: as for `ask`.
            question: the text, options included.
            num_rollouts: how many answers.
            max_zooms: replaces that of the config.
            sampling: temperature 1 if not given; rollout i samples with seed sampling.seed + i.
            on_event: called with text and zooms as they happen.

        Returns:
            num_rollouts results.

        Raises:
            ValueError: num_rollouts is below 1, or as `ask` does.
        """
        if num_rollouts < 1:
            raise ValueError(f"num_rollouts must be 1 or more, got {num_rollouts}")
        request = self.request(
            video,
            question,
            config=self.config.override(max_zooms=max_zooms),
            sampling=sampling or Sampling(temperature=1.0),
            num_rollouts=num_rollouts,
        )
        return self._run([request], on_event, max_sessions=num_rollouts)

    def request(
        self,
        video: VideoInput,
        question: str,
        *,
        config: ZoomConfig | None = None,
        sampling: Sampling | None = None,
        num_rollouts: int = 1,
    ) -> Request:
        """A request for an `Engine` of this model, whose frames go through this zoomer's cache.

        Args:
            video: as for `ask`. It is opened when the engine gets to it.
            question: the text, options included.
            config: this zoomer's if not given.
            sampling: greedy if not given.
            num_rollouts: how many answers.
        """
        return Request.about(
            video,
            question,
            checkpoint=self.checkpoint,
            clip_cache=self.clip_cache,
            config=config or self.config,
            sampling=sampling,
            num_rollouts=num_rollouts,
        )

    def cache_stats(self) -> dict[str, CacheStats]:
        """Hits and misses so far: "frames" of decoding, "features" of the vision tower."""
        return {"frames": self.clip_cache.stats(), "features": self.feature_cache.stats()}

    def _run(
        self,
        requests: list[Request],
        on_event: Callable[[Event], None] | None,
        *,
        max_sessions: int,
        reuse: Reuse = "off",
    ) -> list[Result]:
        """Results of all rollouts of all requests, in order. Raises the first error."""
        if not requests:
            return []

        def watch(event: Event) -> None:
            if on_event is not None:
                on_event(event)
            if isinstance(event, Failed):
                raise event.error

        with Engine(
            self.checkpoint,
            max_sessions=max_sessions,
            max_total_tokens=requests[0].config.max_total_tokens,
            feature_cache=self.feature_cache,
            reuse=reuse,
        ) as engine:
            outcomes = engine.run(requests, on_event=watch)
        return [
            self._result(outcome, request.config)
            for request, group in zip(requests, outcomes, strict=True)
            for outcome in group
        ]

    def _result(self, outcome: Outcome, config: ZoomConfig) -> Result:
        trajectory, glance = outcome.unwrap(), outcome.glance
        warnings = self.checkpoint.warnings
        return Result(trajectory, glance, list(outcome.clips), outcome.seconds, self.name, config, warnings)
