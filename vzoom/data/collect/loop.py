"""Collects conversations in parallel and keeps them in order.

    kept/            records, as `store.Writer` writes them
    rejected.jsonl   what was not kept: id, reason, detail and every turn
    summary.json     counts and costs, when all is done

Results are written in the order of the items, in whatever order they finish. So a run that was killed and resumed
leaves the same bytes as one that was not.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from ..files import JsonLines, write_json
from ..record import Record
from ..store import Writer
from .progress import Say, silence

_AHEAD = 8  # conversations per worker that may finish before the first one does
_NO_REPLY = "no_reply"
_MOST_SILENT = 3  # so many items in a row without a reply mean that the expert is gone


class HasId(Protocol):
    """One conversation to be had. `id`: of the record that it becomes."""

    @property
    def id(self) -> str: ...


I = TypeVar("I", bound=HasId)  # noqa: E741


@dataclass(frozen=True)
class Rejected:
    """A conversation that is not kept. reason: one word, for counting. turns: what was written."""

    id: str
    reason: str
    detail: str
    turns: tuple[str, ...] = ()


@dataclass(frozen=True)
class Passed:
    """There was nothing to do, for this reason."""

    reason: str


Collected = Record | Rejected | Passed


class Stopped(Exception):
    """The run cannot continue now, through no fault of an item. The text tells the user why."""


class NoReply(Exception):
    """Nobody answered about an item this time. It is passed over, and asked again when the run is resumed."""


@dataclass(frozen=True)
class CollectSummary:
    """Counts of a run.

    Args:
        items: how many were to be worked through.
        kept: records that were kept, those of earlier runs in the folder included.
        rejected: by reason.
        passed: items with nothing to do, by reason.
        stopped: why the run ended early; None if all is done.
    """

    items: int
    kept: int
    rejected: dict[str, int]
    passed: dict[str, int]
    stopped: str | None = None


def collect(
    items: Sequence[I],
    work: Callable[[I], Collected],
    out: Path,
    *,
    concurrency: int,
    shard_records: int = 512,
    stop: Callable[[], None] = lambda: None,
    say: Say = silence,
    costs: Callable[[], str] = lambda: "",
) -> CollectSummary:
    """Work through `items`, `concurrency` of them at once. Items that the folder already holds are not done again.

    Args:
        items: what to do, in the order in which results are written.
        work: makes the conversation of one item. Its exceptions end the run, except two: `Stopped`, which becomes
            `CollectSummary.stopped`, and `NoReply`, which passes the item over.
        out: the folder of the run.
        concurrency: items in work at once.
        shard_records: records per Parquet shard.
        stop: called at the end, so that nothing new is begun in threads that still run.
        say: told after every item, together with what `costs` returns.
        costs: what was spent so far, as a text to append.

    Returns:
        Counts of the whole folder.

    Raises:
        ValueError: `concurrency` is below 1, or another process writes the folder.
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
            refused = stack.enter_context(closing(JsonLines(out / "rejected.jsonl")))
            for number, row in enumerate(refused.rows, 1):
                if not isinstance(row.get("id"), str) or not isinstance(row.get("reason"), str):
                    raise ValueError(f"{refused.path}, line {number} is damaged (no id and reason): remove this line")
                reasons[row["id"]] = row["reason"]
            pool = stack.enter_context(ThreadPoolExecutor(concurrency, "vzoom-collect"))
            stack.callback(pool.shutdown, wait=False, cancel_futures=True)
            stack.callback(stop)
            waiting: deque[tuple[I, Future[Collected] | None]] = deque()
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
    return CollectSummary(len(items), kept, dict(sorted(rejected.items())), dict(sorted(passed.items())), stopped)


def write_summary(path: Path, found: CollectSummary, **more: Any) -> None:
    """Write the counts of a finished run as JSON, in one move.

    Args:
        path: the file.
        found: the counts.
        more: further fields, in JSON's types.
    """
    counts = {name: value for name, value in asdict(found).items() if name != "stopped"}
    write_json(path, counts | more)


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 90 else f"{minutes} min" if minutes < 90 else f"{minutes / 60:.1f} h"
