"""One SQLite file of predictions: what a run asked, what was answered, and what it cost.

    run          one row: the settings as JSON. A file that was begun with other settings is refused.
    items        what was asked, by `position` in the benchmark
    predictions  what was answered: verdict, trajectory as JSON without times, counts and estimates
    timings      milliseconds, which no two runs share

A block of predictions is one transaction, so a kill leaves whole blocks. `content_hash` is over all but the timings:
a run that was killed and resumed, or done by many processes, has the hash of an undisturbed one.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_type_hints

from ...types import STAGES
from ..item import Item

FORMAT = 1
_TYPES = {int: "INTEGER", float: "REAL", str: "TEXT"}


@dataclass(frozen=True)
class Prediction:
    """Of item `position`. trajectory: `Trajectory.to_json` of the conversation that counted, without times, or "" for
    a missing video. frames, zooms, tokens, flops: of all conversations that the policy held; kv_bytes: of the largest.
    confidence: -1 where the policy asked for none."""

    position: int
    answer: str | None
    verdict: str
    said: str | None
    detail: str
    stop_reason: str
    failure: str
    trajectory: str
    conversations: int
    frames: int
    zooms: int
    tokens_prefilled: int
    tokens_sampled: int
    flops: float
    kv_bytes: int
    confidence: float
    seed: int


@dataclass(frozen=True)
class Timing:
    """Wall milliseconds by stage. Runs of the model are shared: each conversation in one counts it in full."""

    position: int
    decode: float
    patches: float
    vision: float
    prefill: float
    generate: float


assert tuple(f.name for f in fields(Timing))[1:] == STAGES

_ITEM_COLUMNS = tuple(f.name for f in fields(Item) if f.name != "benchmark")  # that is in the settings


def _columns(cls: type) -> str:
    hints = get_type_hints(cls)
    kinds = {name: _TYPES[kind if kind in _TYPES else str] for name, kind in hints.items()}
    return ", ".join(f"{n} {k} PRIMARY KEY" if n == "position" else f"{n} {k}" for n, k in kinds.items())


class Store:
    """Opens `path`, or begins it. ValueError where it holds another run, or is no such file. Use as a context."""

    def __init__(self, path: str | os.PathLike[str], settings: Mapping[str, Any]) -> None:
        self.path = Path(path)
        text = json.dumps(settings, sort_keys=True)
        if not self.path.exists():
            _begin(self.path, text)
        self._db = sqlite3.connect(self.path, timeout=60.0)
        try:
            check_same(_settings(self._db, self.path), json.loads(text), self.path)
        except BaseException:
            self._db.close()
            raise

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def add(self, rows: Iterable[tuple[Item, Prediction, Timing]]) -> None:
        """All or, after a kill, none of them; on the disk when it returns."""
        with self._db:
            for item, prediction, timing in rows:
                values = (prediction.position, *_item_row(item))
                self._insert("items", values)
                self._insert("predictions", tuple(vars(prediction).values()))
                self._insert("timings", tuple(vars(timing).values()))

    def _insert(self, table: str, values: Sequence[object]) -> None:
        self._db.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(values))})", values)


def _begin(path: Path, settings: str) -> None:
    """An empty file, moved into place when it is whole: other processes may look at it at any time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.new")
    part.unlink(missing_ok=True)
    db = sqlite3.connect(part)
    with db:
        db.execute("CREATE TABLE run (format INTEGER, settings TEXT)")
        names = ", ".join(f"{name} TEXT" for name in _ITEM_COLUMNS)
        db.execute(f"CREATE TABLE items (position INTEGER PRIMARY KEY, {names})")
        db.execute(f"CREATE TABLE predictions ({_columns(Prediction)})")
        db.execute(f"CREATE TABLE timings ({_columns(Timing)})")
        db.execute("INSERT INTO run VALUES (?, ?)", (FORMAT, settings))
    db.close()
    part.replace(path)


def _item_row(item: Item) -> tuple[str | None, ...]:
    held = {**vars(item), "options": json.dumps(item.options), "evidence": json.dumps(item.evidence)}
    return tuple(held[name] for name in _ITEM_COLUMNS)


@dataclass(frozen=True)
class Row:
    """One item with what became of it."""

    item: Item
    prediction: Prediction
    timing: Timing


def read_settings(path: Path) -> dict[str, Any]:
    """ValueError where the file is no run."""
    with _reading(path) as db:
        return _settings(db, path)


def read_rows(path: Path) -> list[Row]:
    """By position."""
    with _reading(path) as db:
        benchmark = _settings(db, path)["benchmark"]
        return [_row(values, benchmark) for values in db.execute(_JOINED)]


def read_positions(path: Path) -> set[int]:
    """Of the predictions that the file holds."""
    with _reading(path) as db:
        return {position for (position,) in db.execute("SELECT position FROM predictions")}


def content_hash(path: Path) -> str:
    """SHA-256 of settings, items and predictions, in order; not of the timings."""
    with _reading(path) as db:
        digest = hashlib.sha256(json.dumps(_settings(db, path), sort_keys=True).encode())
        for table in ("items", "predictions"):
            for row in db.execute(f"SELECT * FROM {table} ORDER BY position"):
                digest.update(json.dumps(row).encode() + b"\n")
        return digest.hexdigest()


def merge(parts: Sequence[Path], out: Path, settings: Mapping[str, Any]) -> None:
    """One file of all parts, in order of position, moved into place when it is whole."""
    part = out.with_name(f"{out.name}.{os.getpid()}.part")
    part.unlink(missing_ok=True)
    found = {row.prediction.position: row for path in parts for row in read_rows(path)}
    with Store(part, settings) as store:
        store.add((row.item, row.prediction, row.timing) for _, row in sorted(found.items()))
    part.replace(out)


def check_same(held: Mapping[str, Any], wanted: Mapping[str, Any], path: Path) -> None:
    """ValueError that names what differs."""
    changed = sorted(key for key in {*held, *wanted} if held.get(key) != wanted.get(key))
    if changed:
        shown = "; ".join(f"{key} was {held.get(key)!r}, now {wanted.get(key)!r}" for key in changed)
        raise ValueError(f"{path} was begun with other settings ({shown}): name another folder, or repeat them")


_JOINED = (
    f"SELECT {', '.join(f'items.{name}' for name in _ITEM_COLUMNS)}, "
    f"{', '.join(f'predictions.{f.name}' for f in fields(Prediction))}, "
    f"{', '.join(f'timings.{f.name}' for f in fields(Timing))} "
    "FROM predictions JOIN items USING (position) JOIN timings USING (position) ORDER BY position"
)


def _row(values: tuple[Any, ...], benchmark: str) -> Row:
    first, second = len(_ITEM_COLUMNS), len(_ITEM_COLUMNS) + len(fields(Prediction))
    held = dict(zip(_ITEM_COLUMNS, values, strict=False))
    held["options"] = tuple(json.loads(held["options"]))
    held["evidence"] = tuple((float(a), float(b)) for a, b in json.loads(held["evidence"]))
    item = Item(**held, benchmark=benchmark)
    return Row(item, Prediction(*values[first:second]), Timing(*values[second:]))


def _settings(db: sqlite3.Connection, path: Path) -> dict[str, Any]:
    try:
        found = db.execute("SELECT format, settings FROM run").fetchone()
    except sqlite3.DatabaseError as error:
        raise ValueError(f"{path} is no run of `vzoom eval`: {error}") from error
    if found is None:
        raise ValueError(f"{path} is no run of `vzoom eval`: it says nothing of its settings")
    if found[0] > FORMAT:
        raise ValueError(f"{path} has format {found[0]}, this version reads up to {FORMAT}: use a newer vzoom")
    return dict(json.loads(found[1]))


class _reading:
    """A connection that is closed at the end. ValueError where there is no file. It may write, because what a kill left
    half done is rolled back by whoever opens the file next."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise ValueError(f"{path} is not there: it is made by `vzoom eval`")
        self._db = sqlite3.connect(f"{path.resolve().as_uri()}?mode=rw", uri=True, timeout=60.0)

    def __enter__(self) -> sqlite3.Connection:
        return self._db

    def __exit__(self, *_: object) -> None:
        self._db.close()
