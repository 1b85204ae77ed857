"""`vzoom.load(...)` and `Zoomer.ask(...)`: the front door."""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from importlib.resources import files
from importlib.util import find_spec
from os import PathLike
from pathlib import Path
from typing import Any, Literal, Self, get_args, overload

import torch

from .config import Sampling, VideoOptions, ZoomConfig, missing_extra
from .engine import (
    ConversationEngine,
    Engine,
    EngineSize,
    EngineThread,
    Message,
    Outcome,
    Request,
    Reuse,
    Submission,
)
from .models import (
    Checkpoint,
    CheckpointInfo,
    FeatureCache,
    check_modules,
    is_known_family,
    load_checkpoint,
    load_checkpoint_info,
)
from .protocol import Protocol, load_protocol
from .report import Report, answer_card
from .types import Clip, Event, Failed, Trajectory, shortened
from .video import CacheStats, ClipCache, VideoInput
from .vllm import VllmEngine

EMBEDDED = "embedded"
EngineName = Literal["auto", "vzoom", "vllm"]
_VLLM_SESSIONS = 64  # that vLLM is started for at least: it takes long to start it anew for more


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
    engine: EngineName = "vzoom",
    vllm: Mapping[str, Any] | None = None,
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
            else one for models that were not trained to zoom, with a warning (`Zoomer.info.warnings`).
        system: a system text that replaces that of the protocol.
        config: replaces the checkpoint's own `vzoom.json`, with its protocol.
        limits: fields of `ZoomConfig` that replace those of the config.
        video: how videos are read; its device is that of the model.
        max_sessions: conversations that are held at once, if several threads ask; memory must suffice for them, beside
            the weights. `ask_many` and `rollouts` can ask for more.
        engine: who runs the model. "vzoom": this process, exact to the last bit of what transformers computes. "vllm":
            vLLM, in processes of its own, started with the first question; for many GPUs and model families that vzoom
            has not. "auto": vLLM where settings for it are given or the family is not one of vzoom's, else vzoom.
        vllm: settings of vLLM (`AsyncEngineArgs`), such as {"tensor_parallel_size": 2}.
        progress: called with a line of text while the weights are read.

    Raises:
        ImportError: vLLM is asked for and not installed.
        OSError: there is no such checkpoint, or the hub does not answer.
        ValueError: it is of another family, the device or dtype is not available, its files do not hold what its
            config.json describes, it does not fit in the free memory, or its adapter or quantisation is not one that
            vzoom reads, or the protocol lacks texts that must be learned or given. The message says what would do.
    """
    path = embedded_path() if model == EMBEDDED else model
    own = {} if config is None else {one.name: getattr(config, one.name) for one in fields(config)}
    asked = own.pop("protocol", None) if protocol is None else protocol
    changes = {**own, **(limits or {})}
    name = str(model) if adapter is None else f"{model} with {adapter}"
    if engine not in get_args(EngineName):
        raise ValueError(f"engine must be one of {', '.join(get_args(EngineName))}, got {engine!r}")
    if engine == "vzoom" and vllm:
        raise ValueError(f"settings of vLLM ({', '.join(vllm)}) with engine vzoom: give engine='vllm'")
    if engine == "vllm" or (engine == "auto" and (vllm or not is_known_family(str(path), revision=revision))):
        if device not in ("auto", "cpu", "cuda"):
            raise ValueError(f"device {device!r} with engine vllm: vLLM takes the devices that it sees, use auto")
        if find_spec("vllm") is None:
            raise missing_extra("vllm", "vllm")
        info = load_checkpoint_info(
            str(path),
            revision=revision,
            adapter=None if adapter is None else str(adapter),
            protocol=load_protocol(asked) if isinstance(asked, str | PathLike) else asked,
            system=system,
        )
        config = info.config.override(**changes)
        return Zoomer(
            info, config=config, name=name, video=video, max_sessions=max_sessions, vllm=dict(vllm or {}), dtype=dtype
        )
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
    config = checkpoint.config.override(**changes)
    return Zoomer(checkpoint, config=config, name=name, video=video, max_sessions=max_sessions)


class Zoomer:
    """A loaded model that answers questions about videos. A context manager.

    All methods may be called from many threads at once: one engine on a thread of its own serves them, and stays warm
    between questions. Answers are those of the same questions asked one after the other. After fork() the child makes
    an engine of its own; a model on CUDA cannot be used there.

    Args:
        checkpoint: the model; without its weights vLLM runs it.
        config: replaces the checkpoint's own.
        name: what results call the model.
        video: how videos are read; its device is that of the model.
        max_sessions: conversations at once, if several threads ask.
        vllm: settings of vLLM, if it runs the model.
        dtype: in which vLLM runs the model.

    Attributes:
        info: what is known of the checkpoint, whoever runs it.
        engine: the name of the engine: "vzoom" or "vllm".
        clip_cache: decoded frames, kept between questions.
        feature_cache: what the vision tower made of frames, kept between questions. Clear it when the tower's weights
            change.
    """

    def __init__(
        self,
        checkpoint: CheckpointInfo,
        *,
        config: ZoomConfig | None = None,
        name: str | None = None,
        video: VideoOptions | None = None,
        max_sessions: int = 1,
        vllm: Mapping[str, Any] | None = None,
        dtype: str = "auto",
    ) -> None:
        self.info = checkpoint
        self.config = own_config = config or checkpoint.config
        self.name = name or checkpoint.name
        self.engine = "vzoom" if isinstance(checkpoint, Checkpoint) else "vllm"
        self.device = checkpoint.model.device if isinstance(checkpoint, Checkpoint) else torch.device("cpu")
        self.clip_cache = ClipCache(options=replace(video or VideoOptions(), device=str(self.device)))
        self.feature_cache = feature_cache = FeatureCache()
        smallest = EngineSize(max_sessions, self.config.max_total_tokens)
        if not isinstance(checkpoint, Checkpoint):
            smallest = replace(smallest, max_sessions=max(max_sessions, _VLLM_SESSIONS))

        def make_engine(size: EngineSize) -> ConversationEngine:
            if isinstance(checkpoint, Checkpoint):
                return _make_engine(checkpoint, feature_cache, size)
            if size.reuse != "off":
                raise ValueError(f"reuse {size.reuse!r} with engine vllm: it splices no clips of other conversations")
            return VllmEngine(
                checkpoint,
                config=own_config,
                max_sessions=size.max_sessions,
                max_total_tokens=size.max_total_tokens,
                dtype=dtype,
                settings=vllm or {},
            )

        self._engine_thread = EngineThread(make_engine, smallest)
        # The thread does not know the zoomer, and ends with it.
        weakref.finalize(self, self._engine_thread.stop).atexit = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Give back what is held beside the weights: the engine with its pages, and the caches.

        What is being answered ends with an error, and nothing can be asked any more.
        """
        self._engine_thread.close()
        self.clip_cache.clear()
        self.feature_cache.clear()

    @property
    def checkpoint(self) -> Checkpoint:
        """The checkpoint with its weights. ValueError if vLLM holds them."""
        if not isinstance(self.info, Checkpoint):
            raise ValueError(f"this needs the weights of {self.name} in this process: load it with engine vzoom")
        return self.info

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

    async def aask(
        self,
        video: VideoInput,
        question: str,
        *,
        max_zooms: int | None = None,
        sampling: Sampling | None = None,
        on_event: Callable[[Event], None] | None = None,
    ) -> Result:
        """`ask` for asyncio. A task that is cancelled gives its pages back at once.

        Args:
            video: as for `ask`; so are all the others.

        Raises:
            ValueError: as `ask` does.
        """
        config = self.config.override(max_zooms=max_zooms)
        async with contextlib.aclosing(self._messages(video, question, config, sampling)) as messages:
            async for message in messages:
                if isinstance(message, Outcome):
                    return self._result(message, config)
                if on_event is not None:
                    on_event(message)
        raise AssertionError("a conversation without an outcome")

    async def stream(
        self,
        video: VideoInput,
        question: str,
        *,
        max_zooms: int | None = None,
        sampling: Sampling | None = None,
    ) -> AsyncIterator[Event]:
        """Answer one question: `async for event in zoomer.stream(video, question)`.

        Who stops early (`break`, a task that is cancelled) drops the conversation; its pages are given back at once.

        Args:
            video: as for `ask`; so are all the others.

        Yields:
            Text and zooms as they happen; the last is `Finished`, with the trajectory.

        Raises:
            ValueError: as `ask` does.
        """
        config = self.config.override(max_zooms=max_zooms)
        async with contextlib.aclosing(self._messages(video, question, config, sampling)) as messages:
            async for message in messages:
                if isinstance(message, Outcome):
                    message.unwrap()
                elif not isinstance(message, Failed):
                    yield message

    @overload
    def ask_many(
        self,
        questions: Iterable[tuple[VideoInput, str]],
        *,
        max_zooms: int | None = None,
        sampling: Sampling | None = None,
        on_event: Callable[[Event], None] | None = None,
        max_sessions: int = 8,
        reuse: Reuse = "off",
        return_exceptions: Literal[False] = False,
    ) -> list[Result]: ...

    @overload
    def ask_many(
        self,
        questions: Iterable[tuple[VideoInput, str]],
        *,
        max_zooms: int | None = None,
        sampling: Sampling | None = None,
        on_event: Callable[[Event], None] | None = None,
        max_sessions: int = 8,
        reuse: Reuse = "off",
        return_exceptions: Literal[True],
    ) -> list[Result | Exception]: ...

    def ask_many(
        self,
        questions: Iterable[tuple[VideoInput, str]],
        *,
        max_zooms: int | None = None,
        sampling: Sampling | None = None,
        on_event: Callable[[Event], None] | None = None,
        max_sessions: int = 8,
        reuse: Reuse = "off",
        return_exceptions: bool = False,
    ) -> list[Result] | list[Result | Exception]:
        """Answer many questions in one batch.

        Args:
            questions: (video, question) pairs; videos as for `ask`.
            max_zooms: replaces that of the config.
            sampling: as for `ask`; pair i samples with seed sampling.seed + i.
            on_event: called with text and zooms as they happen; event.request_id is the number of the pair, from 0.
            max_sessions: questions that are answered at once.
            reuse: "rotate" or "rotate+first16" splices clips that an earlier question has seen without feeding them
                again. Approximate: result.trajectory.is_exact says where it happened. See
                `vzoom/engine/clip_reuse.py`.
            return_exceptions: put the error of a question that fails in its place, and answer the others. By default
                the first error is raised, and the other questions are dropped.

        Returns:
            The results, in the order of the questions. Their `seconds` count from the start of the call.

        Raises:
            ValueError: as `ask` does, for the first question that fails, unless return_exceptions is set.
        """
        config = self.config.override(max_zooms=max_zooms)
        base = sampling or self.info.sampling
        # One seed for all would draw the same numbers in every session.
        requests = [
            self.request(video, question, config=config, sampling=replace(base, seed=base.seed + i))
            for i, (video, question) in enumerate(questions)
        ]
        size = EngineSize(min(max_sessions, max(1, len(requests))), config.max_total_tokens, reuse)
        found = self._run(requests, size, on_event, raise_first=not return_exceptions)
        return [one.error if one.error is not None else self._result(one, config) for one in found]

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
            on_event: called with text and zooms as they happen; event.request_id is the number of the rollout, from 0.

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
        size = EngineSize(num_rollouts, request.config.max_total_tokens)
        return [self._result(outcome, request.config) for outcome in self._run([request], size, on_event)]

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
            checkpoint=self.info,
            clip_cache=self.clip_cache,
            config=config or self.config,
            sampling=sampling,
            num_rollouts=num_rollouts,
        )

    def hold(self, requests: Sequence[Request], *, max_sessions: int) -> list[list[Outcome]]:
        """Hold the conversations of requests that `request` made.

        Args:
            requests: asked in one batch.
            max_sessions: conversations at once.

        Returns:
            By request, in order: one outcome per rollout, an error in it where there is one.
        """
        size = EngineSize(max_sessions, max((one.config.max_total_tokens for one in requests), default=0))
        left = iter(self._run(requests, size, None, raise_first=False))
        return [[next(left) for _ in range(request.num_rollouts)] for request in requests]

    def cache_stats(self) -> dict[str, CacheStats]:
        """Hits and misses so far: "frames" of decoding, "features" of the vision tower."""
        return {"frames": self.clip_cache.stats(), "features": self.feature_cache.stats()}

    def _check_modules(self) -> None:
        if isinstance(self.info, Checkpoint):
            check_modules(self.info.model.hf)

    def _run(
        self,
        requests: Sequence[Request],
        size: EngineSize,
        on_event: Callable[[Event], None] | None,
        *,
        raise_first: bool = True,
    ) -> list[Outcome]:
        """Outcomes of all rollouts of all requests, in order."""
        if not requests:
            return []
        outcomes: dict[int, Outcome] = {}

        self._check_modules()
        with contextlib.closing(
            self._engine_thread.replies(requests, size, with_events=on_event is not None)
        ) as messages:
            for message in messages:
                if isinstance(message, Outcome):
                    outcomes[message.request_id] = message
                    if raise_first:
                        message.unwrap()
                elif on_event is not None:
                    on_event(message)
        return [outcomes[number] for number in sorted(outcomes)]

    async def _messages(
        self, video: VideoInput, question: str, config: ZoomConfig, sampling: Sampling | None
    ) -> AsyncGenerator[Message, None]:
        """What happens to one question, its outcome last."""
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[list[Message]] = asyncio.Queue()
        request = self.request(video, question, config=config, sampling=sampling or self.info.sampling)

        def deliver(messages: list[Message]) -> None:
            loop.call_soon_threadsafe(queue.put_nowait, messages)

        submission = Submission([request], EngineSize(1, config.max_total_tokens), deliver, with_events=True)
        self._check_modules()
        self._engine_thread.submit(submission)
        ended = False
        try:
            while not ended:
                for message in await queue.get():
                    ended = isinstance(message, Outcome)
                    yield message
        finally:
            if not ended:
                self._engine_thread.cancel(submission)

    def _result(self, outcome: Outcome, config: ZoomConfig) -> Result:
        trajectory, glance = outcome.unwrap(), outcome.glance
        warnings = self.info.warnings
        return Result(trajectory, glance, list(outcome.clips), outcome.seconds, self.name, config, warnings)


def _make_engine(checkpoint: Checkpoint, feature_cache: FeatureCache, size: EngineSize) -> Engine:
    if checkpoint.model.device.type == "cuda" and torch.cuda._is_in_bad_fork():
        raise ValueError("CUDA cannot be used after fork(): load the model in the child, or start it with spawn")
    return Engine(
        checkpoint,
        max_sessions=size.max_sessions,
        max_total_tokens=size.max_total_tokens,
        feature_cache=feature_cache,
        reuse=size.reuse,
    )
