"""vLLM's `AsyncLLM` on an event loop in a thread of its own, and what conversations ask of it."""

from __future__ import annotations

import asyncio
import itertools
import threading
import warnings
from collections import deque
from collections.abc import AsyncGenerator, Coroutine, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, TypeVar

from ..config import ZoomConfig
from ..engine import Session
from ..models import CheckpointInfo, vocabulary_of
from .prompts import PlacedFrame, prompt_of, sampling_params, stop_ids
from .self_check import appending_is_exact
from .stream import Stream

T = TypeVar("T")


class Room:
    """How many conversations may hold pages at once; first come, first served. Used on one event loop.

    vLLM does not take pages from a request that waits for its next prompt: if such requests held all of them, none
    could ever go on.
    """

    def __init__(self, max_sessions: int, max_tokens: int) -> None:
        self._sessions, self._tokens = max_sessions, max_tokens
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def place(self, num_tokens: int) -> AsyncGenerator[None, None]:
        """Wait until a conversation of `num_tokens` has room; it is given back at the end."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((num_tokens, turn))
        try:
            self._admit()
            await turn
            yield
        finally:
            if turn.done() and not turn.cancelled():
                self._sessions, self._tokens = self._sessions + 1, self._tokens + num_tokens
            else:
                self._waiting.remove((num_tokens, turn))
            self._admit()

    def _admit(self) -> None:
        while self._waiting and self._sessions and self._tokens >= self._waiting[0][0]:
            if self._waiting[0][1].done():  # cancelled, and about to leave
                return
            num_tokens, turn = self._waiting.popleft()
            self._sessions, self._tokens = self._sessions - 1, self._tokens - num_tokens
            turn.set_result(None)


class EngineDied(RuntimeError):
    """vLLM's process is gone, with all conversations that it held."""


class Server:
    """Starts vLLM.

    Args:
        info: the checkpoint.
        args: vLLM's `AsyncEngineArgs`.
        config: its pixel limits are those of the frames.
        max_sessions: conversations at once.

    Attributes:
        appends: whether clips are appended to running requests, which is tried at start. If not, each turn is a request
            of its own, whose past is found in the prefix cache.
        counts: what vLLM's scheduler says that it did.

    Raises:
        ValueError: vLLM does not start with this model and these settings, or its KV cache is too small.
    """

    def __init__(
        self, info: CheckpointInfo, args: Any, *, config: ZoomConfig, max_sessions: int, untagged_answers: bool | None
    ) -> None:
        self.patch_spec, self._banned = info.patch_spec, info.banned_ids
        accepts_untagged = not info.knows_tags if untagged_answers is None else untagged_answers
        self.vocabulary = replace(vocabulary_of(info), untagged_answers=accepts_untagged)
        self._num_tokens = len(info.tokenizer)
        self.appends = True
        self.counts = Counts()
        self._numbers = itertools.count()
        self._lora = None
        if info.adapter is not None:
            from vllm.lora.request import LoRARequest

            self._lora = LoRARequest("adapter", 1, str(info.adapter.path))
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="vzoom-vllm", daemon=True)
        self._thread.start()
        try:
            self._llm = self.call(self._started(args))
            cache = self._llm.vllm_config.cache_config
            self.num_tokens = (cache.num_gpu_blocks or 0) * cache.block_size
            if self.num_tokens < args.max_model_len:
                raise ValueError(
                    f"vLLM's KV cache holds {self.num_tokens} tokens and a conversation may take "
                    f"{args.max_model_len}: give vLLM more memory, or lower max_total_tokens"
                )
            self.room = Room(max_sessions, self.num_tokens)
            is_float32 = str(self._llm.model_config.dtype) == "torch.float32"
            self.appends = self.call(appending_is_exact(self, config, is_float32=is_float32))
            if not self.appends:
                warnings.warn(
                    f"appending to a running request of vLLM is not exact for {info.name}: each turn is sent as a "
                    "request of its own, whose past vLLM looks up in its prefix cache",
                    RuntimeWarning,
                    stacklevel=2,
                )
            self.counts.reset()
        except BaseException:
            self._stop_loop()
            raise

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` on the event loop, and wait for it."""
        future: Future[T] = asyncio.run_coroutine_threadsafe(work, self.loop)
        return future.result()

    def stream(self, params: Any) -> Stream:
        """A new request."""
        return Stream(self._llm, f"vzoom-{next(self._numbers)}", params, self._lora)

    async def rendered(self, ids: Sequence[int], frames: Sequence[PlacedFrame]) -> Any:
        """A prompt as vLLM's own processor makes it.

        Raises:
            ValueError: vLLM gives the frames other tokens than the session counted.
        """
        prompt = prompt_of(ids, frames, self.vocabulary.image_token_id)
        (made,) = await self._llm.renderer.render_cmpl_async([prompt])
        if list(made["prompt_token_ids"]) != list(ids):
            raise ValueError(
                f"vLLM makes {len(made['prompt_token_ids'])} tokens of a prompt that has {len(ids)}: its processor "
                "sees the frames in another size (min_pixels and max_pixels of --vllm mm_processor_kwargs)"
            )
        return made

    def params(self, session: Session, *, num_before: int) -> Any:
        """vLLM's sampling parameters for what the session needs."""
        return sampling_params(
            session.sampling,
            max_tokens=session.tokens_ahead,
            stop_token_ids=stop_ids(session.vocabulary, session.config.protocol, self._num_tokens),
            banned_ids=self._banned,
            num_before=num_before,
        )

    def explained(self, error: Exception) -> Exception:
        """An error in words of ours, if it says that vLLM is gone."""
        from vllm.v1.engine.exceptions import EngineDeadError

        if isinstance(error, EngineDeadError) or self._llm.errored:
            dead = EngineDied("vLLM's process ended, and what it held is lost: its messages on stderr say why")
            dead.__cause__ = error
            return dead
        return error

    def close(self) -> None:
        """End vLLM's processes and the thread."""
        self.call(self._stopped())
        del self._llm
        self._stop_loop()

    def _stop_loop(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    async def _stopped(self) -> None:
        if (handler := self._llm.output_handler) is not None:
            handler.cancel()  # it would report the end of the process as a failure
            await asyncio.wait([handler])
        self._llm.shutdown()

    async def _started(self, args: Any) -> Any:
        from vllm.v1.engine.async_llm import AsyncLLM

        counts = self.counts

        def logger(*_: Any, **__: Any) -> Any:
            return _stat_logger(counts)

        try:
            return AsyncLLM.from_engine_args(args, stat_loggers=[logger])
        except RuntimeError as error:
            raise ValueError(f"vLLM did not start: its messages on stderr say why ({error})") from error


class Counts:
    """What vLLM's scheduler did since it was started.

    Attributes:
        tokens_fed: that went through the language model.
        frames_encoded: that went through the vision tower.
        preemptions: how often a request lost its pages.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Count from 0."""
        self.tokens_fed = self.frames_encoded = self.preemptions = 0


def _stat_logger(counts: Counts) -> Any:
    from vllm.v1.metrics.loggers import StatLoggerBase

    class Listener(StatLoggerBase):
        def __init__(self) -> None:
            pass

        def record(self, scheduler_stats: Any, iteration_stats: Any, *_: Any, **__: Any) -> None:
            details = None if scheduler_stats is None else scheduler_stats.iteration_details
            if details is not None:
                counts.tokens_fed += details.num_ctx_tokens + details.num_generation_tokens
                counts.frames_encoded += details.num_encoder_inputs
            if iteration_stats is not None:
                counts.preemptions += iteration_stats.num_preempted_reqs

        def log_engine_initialized(self) -> None:
            pass

    return Listener()
