"""The only loop: packs what many sessions want fed, runs the model once, and gives each session its token.

Who runs is decided in `scheduler.py`; how clips come in, in `media.py`.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

from ..config import Sampling
from ..models import Checkpoint, FeatureCache, check_modules, check_pool, vocabulary_of
from ..types import Event, Failed, Finished
from ..video import CacheStats
from .batch import run_model
from .clip_reuse import ClipStore, Reuse
from .interface import NO_NUMBERS, Capabilities, ConversationEngine, give_token
from .kv_cache import BlockTable, PagePool
from .media import Media
from .request import Request
from .running_session import RunningSession, SharedVideo
from .sampler import choose
from .scheduler import ScheduledRun, Scheduler
from .session import Done, NeedFrames, NeedTokens, Session


@dataclass(frozen=True)
class EngineStats:
    """Counts since the engine was made.

    Attributes:
        tokens_fed: every token that went through the language model.
        tokens_refed: those of them that were fed again after a preemption.
        preemptions: how often a session lost its pages.
        features: hits and misses of the feature cache.
    """

    tokens_fed: int
    tokens_refed: int
    preemptions: int
    features: CacheStats


class Engine(ConversationEngine):
    """Holds up to `max_sessions` conversations at once over one paged pool; more requests wait in a queue.

        with Engine(checkpoint, max_total_tokens=32768, max_sessions=8) as engine:
            (outcomes,) = engine.run([request])

    Args:
        checkpoint: the model.
        max_total_tokens: the longest conversation that the pool is made for.
        max_sessions: conversations at once.
        pool_tokens: the pool's size; max_sessions * max_total_tokens if not given.
        overcommit: how many times over the pool may be promised. Few conversations use all that they may; at 1 only
            forks can cause a preemption.
        max_step_tokens: how many tokens are fed in one run of the model. A longer run of one session is still fed
            whole.
        overlap: let some sessions run while clips of others are decoded and encoded. The default is yes on CUDA and no
            on the CPU, where it only gains wall time. Without it, who is fed together does not depend on timing. In
            either case a clip is decoded while its call is still being written.
        feature_cache: visual features, shared with other engines; one of its own if not given.
        reuse: "rotate" or "rotate+first16" splices clips that another session has seen without feeding them again (see
            `clip_reuse.py`). Approximate: Trajectory.is_exact says where it happened. Not for training.
        untagged_answers: whether a turn that ends without any tag is the answer (Trajectory.answer_is_untagged) and not
            refused. If not given: yes for a checkpoint that was not trained for tags.

    Raises:
        ValueError: a setting is out of range, or the pool does not hold one conversation or fit in the free memory.
    """

    capabilities = Capabilities("vzoom", shares_pages=True, reuses_clips=True)

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
        untagged_answers: bool | None = None,
    ) -> None:
        self._pid = os.getpid()
        check_modules(checkpoint.model.hf)  # they may have been wrapped since they were loaded
        self.checkpoint = checkpoint
        self.model = model = checkpoint.model
        accepts_untagged = not checkpoint.knows_tags if untagged_answers is None else untagged_answers
        self.vocabulary = replace(vocabulary_of(checkpoint), untagged_answers=accepts_untagged)
        self.tokens_fed = self.tokens_refed = 0
        block_size = 32 if model.device.type == "cpu" else 256
        blocks_per_session = -(-max_total_tokens // block_size)
        num_blocks = max_sessions * blocks_per_session if pool_tokens is None else pool_tokens // block_size
        if pool_tokens is not None and num_blocks < blocks_per_session:
            raise ValueError(f"pool_tokens {pool_tokens} does not hold one session of {max_total_tokens} tokens")
        if max_total_tokens > model.max_positions:
            raise ValueError(
                f"max_total_tokens {max_total_tokens} is more than the {model.max_positions} positions that "
                f"{checkpoint.name} was made for (max_position_embeddings of its config.json): lower it"
            )
        if model.device.type == "cpu":  # where memory is given out before it is there; a GPU's allocator refuses
            token_bytes = 2 * model.num_layers * model.num_kv_heads * model.head_dim * model.dtype.itemsize
            check_pool(num_blocks * block_size * token_bytes, checkpoint.name, model.device)
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
        self._scheduler = Scheduler(
            self.pool,
            self._clips,
            max_sessions=max_sessions,
            max_total_tokens=max_total_tokens,
            max_step_tokens=max_step_tokens,
            overcommit=overcommit,
        )
        self._media = Media(
            checkpoint,
            FeatureCache() if feature_cache is None else feature_cache,
            overlap=model.device.type == "cuda" if overlap is None else overlap,
            max_step_tokens=max_step_tokens,
        )
        self._banned = torch.tensor(checkpoint.banned_ids, dtype=torch.int64, device=model.device)

    # ------------------------------------------------------------ what a caller asks

    @property
    def is_idle(self) -> bool:
        return self._scheduler.is_idle

    def add(self, request: Request) -> int:
        self._check_process()
        return self._scheduler.add(request)

    def fork(self, request_id: int, samplings: Sequence[Sampling]) -> list[int]:
        running = self._scheduler.find(request_id)
        branch_ids = list(self._scheduler.new_ids(len(samplings)))
        running.forks += zip(branch_ids, samplings, strict=True)
        return branch_ids

    def cancel(self, request_id: int) -> None:
        running = self._scheduler.find(request_id)
        self._bequeath(running)
        running.session.cancel()

    def abort(self, request_ids: Collection[int]) -> None:
        """As `ConversationEngine.abort`; the pages are free when this returns."""
        waiting = self._scheduler.waiting
        kept = [(first, request) for first, request in waiting if first not in request_ids]
        waiting.clear()
        waiting.extend(kept)
        for running in list(self._scheduler.sessions):
            running.forks = [fork for fork in running.forks if fork[0] not in request_ids]
            if running.request_id in request_ids:
                self._bequeath(running)
                self._retire(running)

    def step(self) -> list[Event]:
        """Admit requests, take clips in, run the model once, and report what happened.

        What a request or its session raises ends that conversation alone, with `Failed`. A run of the model that fails
        (out of memory, say) leaves every session as it was; the sessions that were in it are then fed alone, one in a
        step, and one whose own run fails as well ends with `Failed`. An interrupt is raised, and leaves every session
        as it was.
        """
        self._check_process()
        events: list[Event] = []
        self._admit(events)
        for running in list(self._scheduler.sessions):
            need = running.session.action
            if isinstance(need, NeedFrames):
                with self._isolated(running, events):
                    self._media.fetch(running, need, events)
        sessions = self._scheduler.sessions
        suspect = [running for running in sessions if running.error is not None][:1]
        others = [running for running in sessions if running.error is None]
        self._media.encode(suspect)
        self._media.encode(others)
        if runs := self._scheduler.select(suspect) or self._scheduler.select(others):
            self._feed(runs, events)
        else:
            self._media.wait(sessions)
        for running in [s for s in sessions if isinstance(s.session.action, Done)]:
            self._retire(running)
            events.append(Finished(running.request_id, running.session.trajectory))
        return events

    def stats(self) -> EngineStats:
        """Counts since the engine was made."""
        return EngineStats(self.tokens_fed, self.tokens_refed, self._scheduler.preemptions, self._media.cache.stats())

    def drop(self) -> None:
        self._scheduler.waiting.clear()
        for running in list(self._scheduler.sessions):
            self._retire(running)

    def close(self) -> None:
        """Drop what runs and waits; give back pages and files."""
        self.drop()
        self._clips.clear()
        self._media.close()

    # ------------------------------------------------------------ sessions come and go

    def _admit(self, events: list[Event]) -> None:
        for first, request in self._scheduler.admit():
            request_ids = range(first, first + request.num_rollouts)
            samplings = [replace(request.sampling, seed=request.sampling.seed + i) for i in range(len(request_ids))]
            try:
                video = SharedVideo(request.open_video())
            except Exception as error:  # noqa: BLE001  it ends this request alone
                events += [Failed(i, error) for i in request_ids]
                continue
            try:
                info = video.video.info
                session = request.session(request.question, info, self.vocabulary, request.config, samplings[0])
            except Exception as error:  # noqa: BLE001  it ends this request alone
                video.release()
                events += [Failed(i, error) for i in request_ids]
                continue
            running = RunningSession(
                first,
                session,
                video,
                BlockTable(self.pool),
                torch.Generator(self.model.device).manual_seed(samplings[0].seed),
                forks=list(zip(request_ids[1:], samplings[1:], strict=True)),
            )
            self._scheduler.sessions.append(running)

    @contextmanager
    def _isolated(self, running: RunningSession, events: list[Event]) -> Iterator[None]:
        """What is raised inside ends this conversation alone."""
        try:
            yield
        except Exception as error:  # noqa: BLE001  of this session, whatever it is: the others must not pay for it
            self._fail(running, error, events)

    def _bequeath(self, running: RunningSession) -> None:
        """A session that ends before its forks have branched off leaves them to the first of them."""
        if running.forks:
            (first, sampling), *rest = running.forks
            heir = running.branch(first, sampling)
            heir.forks, running.forks = rest, []
            self._scheduler.sessions.append(heir)

    def _retire(self, running: RunningSession) -> None:
        self._scheduler.sessions.remove(running)
        running.release()

    def _fail(self, running: RunningSession, error: Exception, events: list[Event]) -> None:
        self._retire(running)
        events += [Failed(i, error) for i in (running.request_id, *(i for i, _ in running.forks))]

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise ValueError(
                "this engine was made before fork(), and its threads are not here: make one in this process"
            )

    # ------------------------------------------------------------ feeding

    def _feed(self, runs: list[ScheduledRun], events: list[Event]) -> None:
        """Run the model, part the forks, sample, and hand each session its token."""
        started = time.perf_counter()
        sessions = self._scheduler.sessions
        takers: list[tuple[RunningSession, NeedTokens]] = []
        try:
            logits = self._run_model(runs)
            for run in runs:
                running = run.running
                if run.need.clip is not None:
                    running.stage_ms |= running.pending_features.future.result()[1] if running.pending_features else {}
                takers.append((running, run.need))
                takers += [(running.branch(i, sampling), run.need) for i, sampling in running.forks]
            rows = [row for row, run in enumerate(runs) for _ in range(1 + len(run.running.forks))]
            tokens, logprobs = choose(
                logits if len(rows) == len(runs) else logits[rows],
                self._banned,
                [running.session.sampling for running, _ in takers],
                [running.generator for running, _ in takers],
                [_history(running.session, need) for running, need in takers],
            )
        except BaseException as error:
            self._roll_back(runs, [running for running, _ in takers if running not in sessions])
            if not isinstance(error, Exception):
                raise
            for running in [run.running for run in runs]:
                if running.error is None:
                    running.error = error
                else:  # it was alone in this run
                    self._fail(running, error, events)
            return
        finally:
            for run in runs:
                run.release_move()
        elapsed = (time.perf_counter() - started) * 1e3
        sessions += [running for running, _ in takers if running not in sessions]
        sound = {row for row, logprob in zip(rows, logprobs, strict=True) if not math.isnan(logprob)}
        for row, run in enumerate(runs):
            if run.move is None and run.num_cached > 0 and row in sound:
                self._clips.keep(run.need, run.running.table)
        reused = [run.move.end - run.move.first if run.move else 0 for run in runs]
        for row, (running, need), token, logprob in zip(rows, takers, tokens, logprobs, strict=True):
            running.forks, running.pending_features, running.error = [], None, None
            if math.isnan(logprob):
                self._fail(running, ValueError(NO_NUMBERS), events)
                continue
            running.clips += need.clips
            with self._isolated(running, events):
                events += give_token(
                    running.session,
                    need,
                    token,
                    logprob,
                    request_id=running.request_id,
                    stage_ms=running.stage_ms,
                    elapsed_ms=elapsed,
                )
                if need.opens_turn:
                    running.session.turn.num_reused = reused[row]
                self._media.prefetch(running)

    def _roll_back(self, runs: list[ScheduledRun], branches: list[RunningSession]) -> None:
        """As if the runs had never been fed. Features that were computed are kept, those that failed are not."""
        for branch in branches:
            branch.release()
        for run in runs:
            run.undo()
        for running in self._scheduler.sessions:
            pending = running.pending_features
            if pending and pending.future.done() and pending.future.exception():
                running.pending_features = None

    def _run_model(self, runs: list[ScheduledRun]) -> torch.Tensor:
        logits = run_model(self.model, self.pool, runs)
        self.tokens_fed += sum(piece.stop - piece.start for run in runs for piece in run.pieces())
        self.tokens_refed += sum(run.running.session.num_fed - run.num_cached for run in runs)
        return logits


def _history(session: Session, need: NeedTokens) -> list[int]:
    """All ids up to the token that is sampled next, if a repetition penalty needs them: they are copied each time."""
    if session.sampling.repetition_penalty == 1:
        return []
    return session.trajectory.ids[: session.num_fed] + need.span.ids
