"""Who gives up pages when they run out. Admission and whole conversations are in test_engine.py and stress.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from vzoom.engine.clip_reuse import ClipStore
from vzoom.engine.kv_cache import BlockTable, PagePool
from vzoom.engine.running_session import RunningSession
from vzoom.engine.scheduler import Scheduler

SIZE = 32  # tokens per page


def running(pool: PagePool, request_id: int, num_pages: int) -> RunningSession:
    table = BlockTable(pool)
    table.extend(num_pages * SIZE)
    nothing: Any = None  # the pages are all that counts here
    return RunningSession(request_id, nothing, nothing, table, torch.Generator())


@pytest.fixture
def scheduler() -> Scheduler:
    """Three sessions with two pages each; two pages of eight are free."""
    pool = PagePool(num_layers=1, num_kv_heads=1, head_dim=8, num_blocks=8, block_size=SIZE)
    made = Scheduler(
        pool,
        ClipStore(pool, "off", 2),
        max_sessions=3,
        max_total_tokens=8 * SIZE,
        max_step_tokens=8 * SIZE,
        overcommit=3.0,
    )
    made.sessions += [running(pool, i, num_pages=2) for i in range(3)]
    return made


def pages(scheduler: Scheduler) -> list[int]:
    return [len(session.table.blocks) for session in scheduler.sessions]


def test_the_youngest_session_gives_up_its_pages_first(scheduler: Scheduler) -> None:
    oldest = scheduler.sessions[0]
    assert scheduler._make_room(oldest, 2 * SIZE)
    assert (pages(scheduler), scheduler.preemptions) == ([2, 2, 2], 0)  # there was room
    assert scheduler._make_room(oldest, 3 * SIZE)
    assert (pages(scheduler), scheduler.preemptions) == ([2, 2, 0], 1)
    assert scheduler._make_room(oldest, 6 * SIZE)
    assert (pages(scheduler), scheduler.preemptions) == ([2, 0, 0], 2)


def test_a_session_never_takes_the_pages_of_an_older_one(scheduler: Scheduler) -> None:
    *_, youngest = scheduler.sessions
    assert not scheduler._make_room(youngest, 3 * SIZE)
    assert (pages(scheduler), scheduler.preemptions) == ([2, 2, 2], 0)


def test_a_session_without_pages_leaves_some_for_older_ones(scheduler: Scheduler) -> None:
    _, second, youngest = scheduler.sessions
    youngest.preempt()
    assert not scheduler._make_room(youngest, SIZE)  # four are free, and each older session may want four
    second.preempt()
    assert scheduler._make_room(youngest, 2 * SIZE)
    assert not scheduler._make_room(youngest, 3 * SIZE)
    assert pages(scheduler) == [2, 0, 0]
