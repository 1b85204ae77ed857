"""The only loop: takes what many sessions want fed, packs it ragged, runs the model once, gives each its token.

Pages. A session is admitted when the pool can hold what it and those before it may still write (`max_total_tokens`
each, shared pages counted once). Forks, and an engine made with `overcommit`, can ask for more than there is: then the
youngest session gives up its pages and is fed again later, token for token, which changes nothing but time.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from ..config import Sampling
from ..models import Checkpoint, FeatureCache, vocabulary_of
from ..types import Event, Failed, Finished, TextDelta, TurnEnded, TurnOpened
from ..video import CacheStats
from .batch import Fed, run_model
from .clip_reuse import ClipStore, Reuse
from .kv_cache import BlockTable, PagePool
from .media import Intake
from .request import Job
from .running import Active
from .sampler import choose
from .scheduler import Admission
from .session import Done, Feed, Fetch
from .workers import SharedVideo


@dataclass(frozen=True)
class EngineStats:
    """Since the engine was made. tokens_fed counts every token that went through the language model, tokens_refed
    those of them that were fed again after a preemption."""

    tokens_fed: int
    tokens_refed: int
    preemptions: int
    features: CacheStats


class Engine:
    """Runs up to `max_sessions` conversations at once over one paged pool; more wait in a queue.

    max_total_tokens: the longest conversation that the pool is made for. pool_tokens: the pool's size, by default
    max_sessions * max_total_tokens. overcommit: how many times over the pool may be promised; few conversations use
    all that they may, and 1 never preempts but for forks. max_step_tokens bounds what is fed in one run of the model;
    a single longer run is still fed whole.
    overlap: go on with some sessions while clips of others are decoded and encoded. Without it (the default on the
    CPU, where there is nothing to gain but wall time) who is fed together does not depend on timing. A clip is decoded
    while its call is still being written in either case.
    reuse: splice clips that another session has seen without feeding them again ("rotate", "rotate+first16"; see
    `reuse.py`). Approximate: Trajectory.is_exact says where it happened. Not for training.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        max_total_tokens: int,
        max_sessions: int = 1,
        pool_tokens: int | None = None,
        overcommit: float = 1.0,
        max_step_tokens: int = 16384,
        overlap: bool | None = None,
        feature_cache: FeatureCache | None = None,
        reuse: Reuse = "off",
    ) -> None:
        self.checkpoint = checkpoint
        self.model = model = checkpoint.model
        self.max_step_tokens = max_step_tokens
        self._intake = Intake(
            checkpoint,
            FeatureCache() if feature_cache is None else feature_cache,
            overlap=model.device.type == "cuda" if overlap is None else overlap,
            max_step_tokens=max_step_tokens,
        )
        block_size = 32 if model.device.type == "cpu" else 256
        self._blocks_a_session = -(-max_total_tokens // block_size)
        num_blocks = max_sessions * self._blocks_a_session if pool_tokens is None else pool_tokens // block_size
        if pool_tokens is not None and num_blocks < self._blocks_a_session:
            raise ValueError(f"pool_tokens {pool_tokens} does not hold one session of {max_total_tokens} tokens")
        self.pool = PagePool(
            num_layers=model.num_layers,
            num_kv_heads=model.num_kv_heads,
            head_dim=model.head_dim,
            num_blocks=num_blocks,
            block_size=block_size,
            dtype=model.dtype,
            device=model.device,
        )
        self._clips = ClipStore(self.pool, reuse, model.merge)
        self._admission = Admission(self.pool, self._clips, max_sessions=max_sessions, overcommit=overcommit)
        self.vocabulary = vocabulary_of(checkpoint)
        self.tokens_fed = self.tokens_refed = 0
        self._banned = torch.tensor(checkpoint.banned_ids, dtype=torch.int64, device=model.device)
        self._waiting: deque[tuple[int, Job]] = deque()
        self._active: list[Active] = []  # oldest first
        self._count = 0

    def add(self, job: Job) -> int:
        """Queue a question. Its number comes back in every event of its session; that of rollout i is i higher."""
        if -(-job.config.max_total_tokens // self.pool.block_size) > self._blocks_a_session:
            raise ValueError(f"max_total_tokens {job.config.max_total_tokens} is more than this engine was made for")
        limit = self._admission.max_sessions
        if not 1 <= job.num_rollouts <= limit:
            raise ValueError(f"num_rollouts must be 1 to max_sessions ({limit}), got {job.num_rollouts}")
        number = self._count
        self._waiting.append((number, job))
        self._count += job.num_rollouts
        return number

    def fork(self, number: int, samplings: Sequence[Sampling]) -> list[int]:
        """Branch a running session once for each of `samplings`; the numbers of the branches.

        They part behind what the session feeds next, so that a clip on its way is fed once for all. ValueError where
        no such session runs.
        """
        active = self._find(number)
        numbers = list(range(self._count, self._count + len(samplings)))
        self._count += len(samplings)
        active.forks += zip(numbers, samplings, strict=True)
        return numbers

    def cancel(self, number: int) -> None:
        """End a session at the next step; its trajectory so far comes back as Finished. ValueError if none runs."""
        active = self._find(number)
        if active.forks:  # they are not cancelled with it
            (first, sampling), *rest = active.forks
            heir = active.branch(first, sampling)
            heir.forks, active.forks = rest, []
            self._active.append(heir)
        active.session.cancel()

    def run(self) -> Iterator[Event]:
        """All events until nothing is left to do."""
        while self._waiting or self._active:
            yield from self.step()

    def step(self) -> list[Event]:
        """Admit, take clips in, run the model once, and report. An exception leaves every session where it was."""
        events: list[Event] = []
        self._admit(events)
        for active in list(self._active):
            if isinstance(active.session.action, Fetch) and (
                error := self._intake.fetch(active, active.session.action, events)
            ):
                self._fail(active, error, events)
        self._intake.encode(self._active)
        if batch := self._select():
            self._feed(batch, events)
        else:
            self._intake.wait(self._active)
        for active in [a for a in self._active if isinstance(a.session.action, Done)]:
            self._retire(active)
            events.append(Finished(active.number, active.session.trajectory))
        return events

    def stats(self) -> EngineStats:
        return EngineStats(self.tokens_fed, self.tokens_refed, self._admission.preemptions, self._intake.cache.stats())

    def close(self) -> None:
        """Drop what runs and waits; give back pages and files."""
        self._waiting.clear()
        for active in list(self._active):
            self._retire(active)
        self._clips.clear()
        self._intake.close()

    # ------------------------------------------------------------ who runs

    def _find(self, number: int) -> Active:
        for active in self._active:
            if active.number == number:
                return active
        raise ValueError(f"session {number} is not running")

    def _admit(self, events: list[Event]) -> None:
        while self._waiting and self._admission.has_room(self._waiting[0][1], self._active):
            number, job = self._waiting.popleft()
            numbers = range(number, number + job.num_rollouts)
            samplings = [replace(job.sampling, seed=job.sampling.seed + i) for i in range(job.num_rollouts)]
            try:
                video = job.open_video()
            except (ValueError, OSError) as error:
                events += [Failed(n, error) for n in numbers]
                continue
            try:
                session = job.session(job.question, video.info, self.vocabulary, job.config, samplings[0])
            except ValueError as error:
                video.close()
                events += [Failed(n, error) for n in numbers]
                continue
            generator = torch.Generator(self.model.device).manual_seed(samplings[0].seed)
            forks = list(zip(numbers[1:], samplings[1:], strict=True))
            self._active.append(
                Active(number, session, SharedVideo(video), BlockTable(self.pool), generator, forks=forks)
            )

    def _retire(self, active: Active) -> None:
        self._active.remove(active)
        active.release()

    def _fail(self, active: Active, error: Exception, events: list[Event]) -> None:
        self._retire(active)
        events += [Failed(number, error) for number in (active.number, *(n for n, _ in active.forks))]

    # ------------------------------------------------------------ feeding

    def _select(self) -> list[Fed]:
        """Who is fed in this step, oldest first, each with pages for its run."""
        batch: list[Fed] = []
        room = self.max_step_tokens
        for active in self._active:
            feed = active.session.action
            if not isinstance(feed, Feed):
                continue
            if active.unseen(feed) and not (active.encoding and active.encoding.future.done()):
                continue
            count = active.run_length(feed)
            # Those behind it, which may lose their pages here, are not in the batch yet.
            if (batch and count > room) or not self._admission.make_room(active, count, self._active):
                continue
            ids, positions = active.run(feed)
            length = active.table.length
            # A glance opens its session, and what is fed again after a preemption is fed in full.
            move = self._clips.find(feed) if 0 < length == active.session.num_fed else None
            batch.append(Fed(active, feed, ids, positions, active.table.extend(count), length, move))
            room -= count
        return batch

    def _feed(self, batch: list[Fed], events: list[Event]) -> None:
        """Run the model, part the forks, sample, and hand each session its token."""
        started = time.perf_counter()
        takers: list[tuple[Active, Feed]] = []
        try:
            logits = self._run_model(batch)
            for fed in batch:
                active = fed.active
                if fed.feed.clip is not None:
                    active.stage_ms |= active.encoding.future.result()[1] if active.encoding else {}
                takers.append((active, fed.feed))
                takers += [(active.branch(number, sampling), fed.feed) for number, sampling in active.forks]
            rows = [row for row, fed in enumerate(batch) for _ in range(1 + len(fed.active.forks))]
            tokens, logprobs = choose(
                logits if len(rows) == len(batch) else logits[rows],
                self._banned,
                [active.session.sampling for active, _ in takers],
                [active.generator for active, _ in takers],
            )
        except BaseException:
            self._roll_back(batch, [active for active, _ in takers if active not in self._active])
            raise
        finally:
            for fed in batch:
                fed.let_go()
        elapsed = (time.perf_counter() - started) * 1e3
        self._active += [active for active, _ in takers if active not in self._active]
        for fed in batch:
            if fed.move is None and fed.length > 0:
                self._clips.keep(fed.feed, fed.active.table)
        reused = [fed.move.end - fed.move.first if fed.move else 0 for fed in batch]
        for row, (active, feed), token, logprob in zip(rows, takers, tokens, logprobs, strict=True):
            active.forks, active.encoding = [], None
            if feed.clip is not None:
                active.clips.append(feed.clip)
            self._deliver(active, feed, token, logprob, elapsed, events)
            if feed.opens_turn:
                active.session.turn.num_reused = reused[row]
            self._intake.foresee(active)

    def _roll_back(self, batch: list[Fed], branches: list[Active]) -> None:
        """As if the batch had never been fed. What was encoded is kept, what failed is encoded again."""
        for branch in branches:
            branch.release()
        for fed in batch:
            fed.undo()
        for active in self._active:
            if active.encoding and active.encoding.future.done() and active.encoding.future.exception():
                active.encoding = None

    def _run_model(self, batch: list[Fed]) -> torch.Tensor:
        logits = run_model(self.model, self.pool, batch)
        self.tokens_fed += sum(piece.stop - piece.start for fed in batch for piece in fed.pieces())
        self.tokens_refed += sum(fed.active.session.num_fed - fed.length for fed in batch)
        return logits

    def _deliver(
        self, active: Active, feed: Feed, token: int, logprob: float, elapsed: float, events: list[Event]
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
