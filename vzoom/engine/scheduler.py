"""Who runs: which requests begin, which runs are fed in a step, and which session gives up its pages when they run out.

Admission: a request begins when the pool can hold all that it and the running sessions may still write
(`max_total_tokens` each, shared pages counted once). Selection: a step feeds, oldest session first, every run whose
visual features are ready, up to `max_step_tokens`. Preemption: forks, and an engine made with `overcommit`, can ask for
more pages than there are. Then the youngest session gives up its pages, and its tokens are fed again later at the same
positions, which changes nothing but time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from .clip_reuse import ClipStore, Move
from .kv_cache import PagePool
from .request import Request
from .running_session import RunningSession
from .session import NeedTokens

_SPARE = 4  # pages left for each older session when a session without pages gets its first


@dataclass(frozen=True)
class ScheduledRun:
    """The tokens of one session in one step, with pages for them.

    Attributes:
        ids: the n tokens.
        positions: int64 [3, n] (time, row, column).
        slots: int64 [n], where their keys and values go.
        num_cached: tokens of the session that were in its pages before.
        move: the tokens that are not fed but moved from another session, if any.
    """

    running: RunningSession
    need: NeedTokens
    ids: list[int]
    positions: np.ndarray
    slots: np.ndarray
    num_cached: int
    move: Move | None

    def pieces(self) -> list[slice]:
        """The parts of the run that are fed. What follows a moved clip is fed as a sequence of its own."""
        if self.move is None:
            return [slice(0, len(self.ids))]
        return [slice(0, self.move.first), slice(self.move.end, len(self.ids))]

    def release_move(self) -> None:
        """Give back the pages that the clip was moved from."""
        if self.move is not None:
            self.running.table.pool.release(self.move.blocks)

    def undo(self) -> None:
        """As if the run had never been fed."""
        self.running.table.truncate(self.num_cached)


class Scheduler:
    """Hands out the pages of `pool` to requests and their sessions.

    If pages are needed, clips that are only held for reuse are evicted first, then the youngest sessions lose theirs.

    Attributes:
        waiting: (request id, request), first come, first served.
        sessions: the admitted ones, oldest first.
        preemptions: how often a session lost its pages.
    """

    def __init__(
        self,
        pool: PagePool,
        clips: ClipStore,
        *,
        max_sessions: int,
        max_total_tokens: int,
        max_step_tokens: int,
        overcommit: float,
    ) -> None:
        if max_sessions < 1:
            raise ValueError(f"max_sessions must be 1 or more, got {max_sessions}")
        if overcommit < 1:
            raise ValueError(f"overcommit must be 1 or more, got {overcommit}")
        self.waiting: deque[tuple[int, Request]] = deque()
        self.sessions: list[RunningSession] = []
        self.preemptions = 0
        self._pool, self._clips = pool, clips
        self._max_sessions, self._max_step_tokens, self._overcommit = max_sessions, max_step_tokens, overcommit
        self._blocks_per_session = self._blocks_for(max_total_tokens)
        self._num_ids = 0

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits and nothing runs."""
        return not (self.waiting or self.sessions)

    def add(self, request: Request) -> int:
        """Queue a request; the request id of its first rollout. ValueError if it can never be admitted."""
        if self._blocks_for(request.config.max_total_tokens) > self._blocks_per_session:
            raise ValueError(
                f"max_total_tokens {request.config.max_total_tokens} is more than this engine was made for"
            )
        if not 1 <= request.num_rollouts <= self._max_sessions:
            raise ValueError(
                f"num_rollouts must be 1 to max_sessions ({self._max_sessions}), got {request.num_rollouts}"
            )
        (first, *_) = self.new_ids(request.num_rollouts)
        self.waiting.append((first, request))
        return first

    def new_ids(self, count: int) -> range:
        """`count` request ids that nobody has."""
        self._num_ids += count
        return range(self._num_ids - count, self._num_ids)

    def find(self, request_id: int) -> RunningSession:
        """ValueError if no session with this request id is running."""
        for running in self.sessions:
            if running.request_id == request_id:
                return running
        raise ValueError(f"request {request_id} is not running")

    # ------------------------------------------------------------ admission

    def admit(self) -> Iterator[tuple[int, Request]]:
        """Take requests out of the queue as long as there is room; the caller adds their sessions to `sessions`."""
        while self.waiting and self._has_room(self.waiting[0][1]):
            yield self.waiting.popleft()

    def _has_room(self, request: Request) -> bool:
        """Whether all that the request and the running sessions may write fits, shared pages counted once."""
        if sum(1 + len(running.forks) for running in self.sessions) + request.num_rollouts > self._max_sessions:
            return False
        if not self.sessions:
            return True
        promised = self._pool.num_blocks - self._pool.num_free
        promised += sum(running.blocks_to_come() for running in self.sessions)
        own = request.num_rollouts * self._blocks_for(request.config.max_total_tokens)
        return promised + own <= self._pool.num_blocks * self._overcommit

    def _blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self._pool.block_size)

    # ------------------------------------------------------------ selection

    def select(self, sessions: Sequence[RunningSession]) -> list[ScheduledRun]:
        """The runs of this step, oldest session first, each with its pages taken.

        Args:
            sessions: those of `sessions` that may run.
        """
        runs: list[ScheduledRun] = []
        room = self._max_step_tokens
        for running in sessions:
            need = running.session.action
            if not isinstance(need, NeedTokens):
                continue
            if running.clips_to_encode(need) and not (
                running.pending_features and running.pending_features.future.done()
            ):
                continue
            count = running.num_tokens_to_run(need)
            # Younger sessions, which may lose their pages here, are not in the step yet.
            if (runs and count > room) or not self._make_room(running, count):
                continue
            ids, positions = running.tokens_to_run(need)
            num_cached = running.table.length
            # Not a glance, which opens its session, nor what is fed again after a preemption.
            move = self._clips.find(need) if 0 < num_cached == running.session.num_fed else None
            slots = running.table.extend(count)
            runs.append(ScheduledRun(running, need, ids, positions, slots, num_cached, move))
            room -= count
        return runs

    # ------------------------------------------------------------ preemption

    def _make_room(self, running: RunningSession, count: int) -> bool:
        """Free pages for `count` more tokens of a session, if need be those of younger sessions.

        False if older sessions hold them. A session without pages also leaves some for each older session, which would
        preempt it at once otherwise. The oldest session always gets what it needs.
        """
        at = self.sessions.index(running)
        older, younger = self.sessions[:at], self.sessions[at + 1 :]
        spare = 0 if running.table.blocks else _SPARE * sum(1 for other in older if other.table.blocks)
        while running.table.blocks_for(count) + spare > self._pool.num_free:
            if self._clips.evict():
                continue
            victim = next((other for other in reversed(younger) if other.table.blocks), None)
            if victim is None:
                return False
            victim.preempt()
            self.preemptions += 1
        return True
