"""The only loop: takes what many sessions want fed, packs it ragged, runs the model once, gives each its token.

A session is admitted when the pool can hold its `max_total_tokens`, so pages never run out under a running session.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch

from .attention import Ragged
from .cache import BlockTable, PagePool
from .clips import FrameSource
from .config import Sampling, ZoomConfig
from .models import Checkpoint
from .models.base import Features
from .patches import grid_for
from .sampler import choose
from .session import Done, Feed, Fetch, Session, Vocabulary
from .types import Event, Finished, TextDelta, TurnEnded, TurnOpened, ZoomCall
from .video import VideoReadError
from .vision import encode_clip


@dataclass
class _Active:
    """A session in progress with what belongs to it alone."""

    number: int
    session: Session
    video: FrameSource
    table: BlockTable
    generator: torch.Generator
    stage_ms: dict[str, float] = field(default_factory=dict)  # of the turn about to open


@dataclass(frozen=True)
class Job:
    """A question that waits for room. `open_video` is called on admission, so waiting jobs hold no files."""

    open_video: Callable[[], FrameSource]
    question: str
    config: ZoomConfig
    sampling: Sampling


class Engine:
    """Runs up to `max_sessions` conversations at once over one paged pool; more wait in a queue.

    max_total_tokens: the longest conversation that the pool is made for. max_step_tokens bounds what is fed in one
    run of the model; a single longer run is still fed whole.
    """

    def __init__(
        self, checkpoint: Checkpoint, *, max_sessions: int = 1, max_total_tokens: int, max_step_tokens: int = 16384
    ) -> None:
        if max_sessions < 1:
            raise ValueError(f"max_sessions must be 1 or more, got {max_sessions}")
        self.checkpoint = checkpoint
        self.model = model = checkpoint.model
        self.max_step_tokens = max_step_tokens
        block_size = 32 if model.device.type == "cpu" else 256
        self._blocks_a_session = -(-max_total_tokens // block_size)
        self.pool = PagePool(
            num_layers=model.num_layers,
            num_kv_heads=model.num_kv_heads,
            head_dim=model.head_dim,
            num_blocks=max_sessions * self._blocks_a_session,
            block_size=block_size,
            dtype=model.dtype,
            device=model.device,
        )
        self.vocabulary = Vocabulary(
            tokenizer=checkpoint.tokenizer,
            image_token_id=model.image_token_id,
            end_of_turn_id=checkpoint.end_of_turn_id,
            end_ids=checkpoint.end_ids,
            merge=model.merge,
            grid_hw=lambda height, width, config: grid_for(height, width, config=config, spec=checkpoint.patch_spec),
        )
        self.tokens_fed = 0  # to the language model, since the engine was made
        self._banned = torch.tensor(checkpoint.banned_ids, dtype=torch.int64, device=model.device)
        self._waiting: deque[tuple[int, Job]] = deque()
        self._active: list[_Active] = []
        self._count = 0

    def add(self, job: Job) -> int:
        """Queue a question. Its number comes back in every event of its session."""
        if -(-job.config.max_total_tokens // self.pool.block_size) > self._blocks_a_session:
            raise ValueError(f"max_total_tokens {job.config.max_total_tokens} is more than this engine was made for")
        self._waiting.append((self._count, job))
        self._count += 1
        return self._count - 1

    def cancel(self, number: int) -> None:
        """End a session at the next step; its trajectory so far comes back as Finished. ValueError if none runs."""
        for active in self._active:
            if active.number == number:
                active.session.cancel()
                return
        raise ValueError(f"session {number} is not running")

    def run(self) -> Iterator[Event]:
        """All events until nothing is left to do."""
        while self._waiting or self._active:
            yield from self.step()

    def step(self) -> list[Event]:
        """Admit, fetch, run the model once, and report. An exception leaves every session where it was."""
        events: list[Event] = []
        self._admit()
        for active in self._active:
            if isinstance(active.session.action, Fetch):
                self._fetch(active, active.session.action, events)
        self._feed(events)
        for active in [a for a in self._active if isinstance(a.session.action, Done)]:
            self._retire(active)
            events.append(Finished(active.number, active.session.trajectory))
        return events

    def close(self) -> None:
        """Drop what runs and waits; give back pages and files."""
        self._waiting.clear()
        for active in list(self._active):
            self._retire(active)

    # ------------------------------------------------------------ inside

    def _admit(self) -> None:
        while self._waiting and self.pool.num_blocks >= (len(self._active) + 1) * self._blocks_a_session:
            number, job = self._waiting.popleft()
            video = job.open_video()
            session = Session(job.question, video.info, self.vocabulary, job.config, job.sampling)
            generator = torch.Generator(self.model.device).manual_seed(job.sampling.seed)
            self._active.append(_Active(number, session, video, BlockTable(self.pool), generator))

    def _retire(self, active: _Active) -> None:
        self._active.remove(active)
        active.table.truncate(0)
        active.video.close()

    def _fetch(self, active: _Active, fetch: Fetch, events: list[Event]) -> None:
        session, started = active.session, time.perf_counter()
        try:
            clip = active.video.frames_at(fetch.timestamps)
            session.splice(clip)
        except ValueError as error:
            if fetch.call is None:  # without a glance there is nothing to ask about: the user's file is at fault
                self._retire(active)
                raise
            if not isinstance(error, VideoReadError):
                raise
            session.unreadable(str(error))
            clip = None
        active.stage_ms["decode"] = (time.perf_counter() - started) * 1e3
        if fetch.call is not None:
            accepted = isinstance(session.turn.outcome, ZoomCall)
            events.append(TurnEnded(active.number, session.turn, clip if accepted else None))

    def _feed(self, events: list[Event]) -> None:
        batch: list[tuple[_Active, Feed]] = []
        room = self.max_step_tokens
        for active in self._active:
            feed = active.session.action
            if isinstance(feed, Feed) and (not batch or len(feed.run.ids) <= room):
                batch.append((active, feed))
                room -= len(feed.run.ids)
        if not batch:
            return
        started = time.perf_counter()
        try:
            logits, vision_ms = self._run_model(batch)
        except BaseException:
            for active, _ in batch:
                active.table.truncate(active.session.num_fed)
            raise
        sessions = [active.session for active, _ in batch]
        tokens, logprobs = choose(
            logits, self._banned, [s.sampling for s in sessions], [active.generator for active, _ in batch]
        )
        elapsed = (time.perf_counter() - started) * 1e3 - vision_ms
        for (active, feed), token, logprob in zip(batch, tokens, logprobs, strict=True):
            self._deliver(active, feed, token, logprob, elapsed, events)

    def _run_model(self, batch: list[tuple[_Active, Feed]]) -> tuple[torch.Tensor, float]:
        """Logits [S, V] of the batch and the milliseconds that vision took of it."""
        device, spec = self.model.device, self.checkpoint.patch_spec
        features: list[Features] = []
        rows: list[int] = []
        slots, total, vision_ms = [], 0, 0.0
        for active, feed in batch:
            if feed.clip is not None:
                encoded, stages = encode_clip(feed.clip, self.model, spec=spec, config=active.session.config)
                features.append(encoded)
                vision_ms += sum(stages.values())
                active.stage_ms |= stages
                rows += [total + i for i, token in enumerate(feed.run.ids) if token == self.model.image_token_id]
            slots.append(active.table.extend(len(feed.run.ids)))
            total += len(feed.run.ids)
        images = Features.cat(features) if features else None
        if images is not None and len(rows) != len(images.embeds):
            raise AssertionError(f"{len(rows)} image tokens, {len(images.embeds)} visual features")
        logits = self.model.forward(
            torch.tensor([i for _, feed in batch for i in feed.run.ids], device=device),
            Ragged.pack([a.table for a, _ in batch], slots, [feed.positions for _, feed in batch], device),
            self.pool,
            torch.tensor(rows, device=device) if images is not None else None,
            images,
        )
        self.tokens_fed += total
        return logits, vision_ms

    def _deliver(
        self, active: _Active, feed: Feed, token: int, logprob: float, elapsed: float, events: list[Event]
    ) -> None:
        session = active.session
        delta = session.accept(token, logprob)
        turn = session.turn
        if feed.opens_turn:
            turn.milliseconds |= {**active.stage_ms, "prefill": elapsed}
            active.stage_ms = {}
            events.append(TurnOpened(active.number, turn, feed.clip))
        else:
            turn.milliseconds["generate"] = turn.milliseconds.get("generate", 0.0) + elapsed
        if delta:
            events.append(TextDelta(active.number, delta))
        ended = turn.outcome is not None or isinstance(session.action, Done)
        if ended and not isinstance(session.action, Fetch):  # a turn that zooms ends when its clip is there
            events.append(TurnEnded(active.number, turn, None))
