"""Conversations that are bought in parallel and kept in order.

    kept/            records, as `store.Writer` writes them
    rejected.jsonl   what was not kept: id, reason, detail and every turn
    summary.json     counts and costs, once all is done

Results are written in the order of the items however they finish, so a run that was killed and taken up again leaves
the same bytes as one that was not.
"""

from __future__ import annotations

import json
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from ..record import Record
from ..store import Writer
from .reply_cache import Lines, write_whole

_AHEAD = 8  # conversations a slot that may be finished before the first one is
_NO_REPLY = "no_reply"
_MOST_SILENT = 3  # items in a row that nobody answers about: then nobody is there


Say = Callable[[int, int, str], None]  # (done, of how many, a line about it)


def silence(done: int, total: int, line: str) -> None:
    """Says nothing."""


class Item(Protocol):
    """One conversation to be had. `id`: of the record that it becomes."""

    @property
    def id(self) -> str: ...


I = TypeVar("I", bound=Item)  # noqa: E741


@dataclass(frozen=True)
class Rejected:
    """reason: one word, counted. turns: what was written."""

    id: str
    reason: str
    detail: str
    turns: tuple[str, ...] = ()


@dataclass(frozen=True)
class Passed:
    """Nothing was to be done, for this reason."""

    reason: str


Outcome = Record | Rejected | Passed


class Stopped(Exception):
    """The run cannot go on now, through no fault of an item: the text says why, for the user."""


class NoReply(Exception):
    """Nobody answered about an item, this time: it is passed over, and had again when the run is taken up."""


@dataclass(frozen=True)
class Harvest:
    """Counts of a run over `items`. stopped: why it ended early, None where all is done."""

    items: int
    kept: int
    rejected: dict[str, int]
    passed: dict[str, int]
    stopped: str | None = None


def harvest(
    items: Sequence[I],
    work: Callable[[I], Outcome],
    out: Path,
    *,
    concurrency: int,
    shard_records: int = 512,
    stop: Callable[[], None] = lambda: None,
    say: Say = silence,
    costs: Callable[[], str] = lambda: "",
) -> Harvest:
    """Work through `items`, `concurrency` at once; what the folder holds already is not done again.

    stop: called at the end, to keep what is in flight from going on. Exceptions of `work` end the run as they are, but
    for Stopped, which is a value, Harvest.stopped, and NoReply, of which a few are passed over. say: told after every
    item, with what `costs` adds.
    """
    if concurrency < 1:
        raise ValueError(f"concurrency must be 1 or more, got {concurrency}")
    kept, passed = 0, Counter[str]()
    reasons: dict[str, str] = {}
    stopped: str | None = None
    started, fresh, silent = time.monotonic(), 0, 0
    try:
        with ExitStack() as stack:
            # An exception leaves the last, short shard unwritten: shards are to be those of an undisturbed run.
            writer = stack.enter_context(Writer(out / "kept", shard_records=shard_records))
            refused = stack.enter_context(closing(Lines(out / "rejected.jsonl")))
            reasons |= {row["id"]: row["reason"] for row in refused.rows}
            pool = stack.enter_context(ThreadPoolExecutor(concurrency, "vzoom-harvest"))
            stack.callback(pool.shutdown, wait=False, cancel_futures=True)
            stack.callback(stop)
            waiting: deque[tuple[I, Future[Outcome] | None]] = deque()
            todo = iter(items)
            for number in range(len(items)):
                while len(waiting) < _AHEAD * concurrency and (item := next(todo, None)) is not None:
                    known = item.id in writer.ids or item.id in reasons
                    waiting.append((item, None if known else pool.submit(work, item)))
                item, future = waiting.popleft()
                if future is not None:
                    try:
                        outcome = future.result()
                        silent = 0
                    except NoReply as reason:
                        outcome, silent = Passed(_NO_REPLY), silent + 1
                        if silent >= _MOST_SILENT:
                            raise Stopped(str(reason)) from reason
                    fresh += 1
                    match outcome:
                        case Record():
                            writer.add(outcome)
                        case Rejected():
                            refused.add(asdict(outcome))
                            reasons[outcome.id] = outcome.reason
                        case Passed():
                            passed[outcome.reason] += 1
                kept += item.id in writer.ids
                if future is not None:
                    eta = (time.monotonic() - started) / fresh * (len(items) - number - 1)
                    say(number + 1, len(items), f"{kept} kept{costs()}, {_duration(eta)} left")
    except Stopped as reason:
        stopped = str(reason)
    rejected = Counter(reasons[item.id] for item in items if item.id in reasons)
    return Harvest(len(items), kept, dict(sorted(rejected.items())), dict(sorted(passed.items())), stopped)


def write_summary(path: Path, found: Harvest, **more: Any) -> None:
    counts = {name: value for name, value in asdict(found).items() if name != "stopped"}
    write_whole(path, json.dumps(counts | more, indent=1) + "\n")


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 90 else f"{minutes} min" if minutes < 90 else f"{minutes / 60:.1f} h"
