"""`VllmEngine`: the engine of `vzoom.load(model, engine="vllm")`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue
from typing import Any

from ..config import Sampling, ZoomConfig
from ..engine import Capabilities, ConversationEngine, Request
from ..models import CheckpointInfo
from ..protocol import Vocabulary
from ..types import Event, Failed, Finished
from ..video import FrameSource
from .conversation import Conversation
from .server import EngineDied, Server
from .settings import engine_args

_WAIT_SECONDS = 0.05  # that a step waits for an event, so that whoever drives it can look after other things


@dataclass(frozen=True)
class VllmStats:
    """Counts since the engine was made, as vLLM's scheduler says.

    Attributes:
        tokens_fed: that went through the language model.
        frames_encoded: that went through the vision tower.
        preemptions: how often a conversation lost its pages.
    """

    tokens_fed: int
    frames_encoded: int
    preemptions: int


class VllmEngine(ConversationEngine):
    """Conversations of a checkpoint that vLLM runs, in processes of its own.

    Args:
        info: the checkpoint.
        config: bounds frames and pixels.
        max_total_tokens: the longest conversation.
        max_sessions: conversations at once; fewer, if vLLM's KV cache holds fewer.
        dtype: "auto", "float32", "bfloat16" or "float16".
        settings: other settings of vLLM (`AsyncEngineArgs`): tensor_parallel_size, quantization, …
        untagged_answers: as for `Engine`.

    Raises:
        ImportError: vLLM is not installed.
        ValueError: a setting is unknown, vLLM does not start with this model, or its KV cache does not hold one
            conversation.
    """

    capabilities = Capabilities("vllm", shares_pages=False, reuses_clips=False)

    def __init__(
        self,
        info: CheckpointInfo,
        *,
        config: ZoomConfig,
        max_total_tokens: int,
        max_sessions: int = 1,
        dtype: str = "auto",
        settings: Mapping[str, Any] | None = None,
        untagged_answers: bool | None = None,
    ) -> None:
        args = engine_args(
            info,
            config=config,
            dtype=dtype,
            max_sessions=max_sessions,
            max_total_tokens=max_total_tokens,
            settings=settings or {},
        )
        self._max_sessions, self._max_total_tokens = max_sessions, max_total_tokens
        self.server = Server(info, args, config=config, max_sessions=max_sessions, untagged_answers=untagged_answers)
        self._events: SimpleQueue[Event] = SimpleQueue()
        self._num_ids = 0
        self._live: set[int] = set()  # ids that have no last event yet
        self._running: dict[int, Conversation] = {}  # written on the event loop
        self._tasks: dict[int, asyncio.Task[None]] = {}  # likewise

    @property
    def vocabulary(self) -> Vocabulary:
        """What sessions know of the model."""
        return self.server.vocabulary

    @property
    def is_idle(self) -> bool:
        return not self._live

    def add(self, request: Request) -> int:
        config = request.config
        if config.max_total_tokens > self._max_total_tokens:
            raise ValueError(f"max_total_tokens {config.max_total_tokens} is more than this engine was made for")
        if config.protocol.frame.encoding == "video":
            raise ValueError(
                f"protocol {config.protocol.name} shows frames as video tokens, which cannot be appended with engine "
                "vllm: take engine vzoom"
            )
        if not 1 <= request.num_rollouts <= self._max_sessions:
            raise ValueError(
                f"num_rollouts must be 1 to max_sessions ({self._max_sessions}), got {request.num_rollouts}"
            )
        ids = self._new_ids(request.num_rollouts)
        self._on_loop(self._begin, ids, request)
        return ids[0]

    def fork(self, request_id: int, samplings: Sequence[Sampling]) -> list[int]:
        running = self._find(request_id)
        ids = list(self._new_ids(len(samplings)))
        self._on_loop(running.forks.extend, list(zip(ids, samplings, strict=True)))
        return ids

    def cancel(self, request_id: int) -> None:
        running = self._find(request_id)

        def end() -> None:
            if request_id in self._tasks:
                running.is_cancelled = True
                self._tasks[request_id].cancel()

        self._on_loop(end)

    def abort(self, request_ids: Collection[int]) -> None:
        gone = self._live.intersection(request_ids)
        self._live -= gone
        self.server.call(self._ended(gone))

    def step(self) -> list[Event]:
        """What happened; waits a moment if nothing has.

        Raises:
            EngineDied: vLLM's process is gone.
        """
        try:
            found = [self._events.get(timeout=_WAIT_SECONDS)]
        except Empty:
            return []
        while not self._events.empty():
            found.append(self._events.get())
        events = [event for event in found if event.request_id in self._live]
        self._live -= {event.request_id for event in events if isinstance(event, Finished | Failed)}
        for event in events:
            if isinstance(event, Failed) and isinstance(event.error, EngineDied):
                raise event.error
        return events

    def drop(self) -> None:
        self.abort(set(self._live))

    def stats(self) -> VllmStats:
        """Counts since the engine was made."""
        return VllmStats(**vars(self.server.counts))

    def close(self) -> None:
        self.drop()
        self.server.close()

    # ------------------------------------------------------------ inside

    def _new_ids(self, count: int) -> range:
        self._num_ids += count
        ids = range(self._num_ids - count, self._num_ids)
        self._live.update(ids)
        return ids

    def _find(self, request_id: int) -> Conversation:
        running = self._running.get(request_id)
        if running is None or request_id not in self._live:
            raise ValueError(f"request {request_id} is not running")
        return running

    def _on_loop(self, call: Callable[..., object], *args: Any) -> None:
        self.server.loop.call_soon_threadsafe(call, *args)

    # ------------------------------------------------------------ on the event loop

    def _begin(self, ids: range, request: Request) -> None:
        self._start(ids[0], self._opened(ids, request))

    def _start(self, request_id: int, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks[request_id] = task
        task.add_done_callback(lambda _: self._tasks.pop(request_id))

    async def _opened(self, ids: range, request: Request) -> None:
        """Open the video and hold the first conversation of a request; its rollouts branch off after the glance."""
        samplings = [replace(request.sampling, seed=request.sampling.seed + i) for i in range(len(ids))]
        async with self.server.room.place(request.config.max_total_tokens):
            try:
                video = await asyncio.to_thread(request.open_video)
            except Exception as error:  # noqa: BLE001  it ends this request alone
                self._fail(ids, error)
                return
            async with _Shared(video) as shared:
                try:
                    session = request.session(
                        request.question, video.info, self.server.vocabulary, request.config, samplings[0]
                    )
                except Exception as error:  # noqa: BLE001  it ends this request alone
                    self._fail(ids, error)
                    return

                def branch(other: Conversation) -> None:
                    shared.holders += 1
                    self._start(other.request_id, self._branched(other, shared))

                first = Conversation(ids[0], session, video, self.server, self._events.put, branch)
                first.forks = list(zip(ids[1:], samplings[1:], strict=True))
                await self._held(first)

    async def _branched(self, conversation: Conversation, shared: _Shared) -> None:
        async with shared, self.server.room.place(conversation.session.config.max_total_tokens):
            await self._held(conversation)

    async def _held(self, conversation: Conversation) -> None:
        self._running[conversation.request_id] = conversation
        try:
            await conversation.run()
        finally:
            del self._running[conversation.request_id]

    def _fail(self, ids: range, error: Exception) -> None:
        for number in ids:
            self._events.put(Failed(number, error))

    async def _ended(self, ids: Collection[int]) -> None:
        """End the tasks of conversations that nobody wants any more; their forks that are wanted go on."""
        tasks = [self._tasks[number] for number in ids if number in self._tasks]
        for running in list(self._running.values()):
            running.forks = [fork for fork in running.forks if fork[0] not in ids]
            if running.request_id in ids:
                running.part()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


class _Shared:
    """A video that several conversations read; closed when the last of them leaves."""

    def __init__(self, video: FrameSource) -> None:
        self.video, self.holders = video, 1

    async def __aenter__(self) -> _Shared:
        return self

    async def __aexit__(self, *error: object) -> None:
        self.holders -= 1
        if not self.holders:
            await asyncio.to_thread(self.video.close)
