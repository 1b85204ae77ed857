"""Who may have pages: admission by what may still be written, preemption where that was promised too often."""

from __future__ import annotations

from collections.abc import Sequence

from .clip_reuse import ClipStore
from .kv_cache import PagePool
from .request import Job
from .running import Active

_SPARE = 4  # pages left for each older session when a session without pages gets its first


class Admission:
    """Hands out the pages of `pool`. Clips that are only held for reuse give way first, then the youngest sessions."""

    def __init__(self, pool: PagePool, clips: ClipStore, *, max_sessions: int, overcommit: float) -> None:
        if max_sessions < 1:
            raise ValueError(f"max_sessions must be 1 or more, got {max_sessions}")
        if overcommit < 1:
            raise ValueError(f"overcommit must be 1 or more, got {overcommit}")
        self.max_sessions = max_sessions
        self.preemptions = 0
        self._pool, self._clips, self._overcommit = pool, clips, overcommit

    def has_room(self, job: Job, running: Sequence[Active]) -> bool:
        """Whether all that the job and those before it may write fits, shared pages counted once."""
        if sum(1 + len(active.forks) for active in running) + job.num_rollouts > self.max_sessions:
            return False
        if not running:
            return True
        promised = self._pool.num_blocks - self._pool.num_free + sum(active.blocks_to_come() for active in running)
        own = job.num_rollouts * -(-job.config.max_total_tokens // self._pool.block_size)
        return promised + own <= self._pool.num_blocks * self._overcommit

    def make_room(self, active: Active, count: int, running: Sequence[Active]) -> bool:
        """Pages for `count` more tokens of one of `running` (oldest first), if need be from sessions behind it.

        False where older sessions hold them. Who has no pages yet also leaves some for those before it: else it would
        be preempted again at once. The oldest always gets what it needs.
        """
        at = running.index(active)
        spare = 0 if active.table.blocks else _SPARE * sum(1 for older in running[:at] if older.table.blocks)
        while active.table.blocks_for(count) + spare > self._pool.num_free:
            if self._clips.evict():
                continue
            victim = next((younger for younger in reversed(running[at + 1 :]) if younger.table.blocks), None)
            if victim is None:
                return False
            victim.preempt()
            self.preemptions += 1
        return True
