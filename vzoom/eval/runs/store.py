"""One SQLite file of predictions: what a run asked, what was answered, and what it cost.

    run          one row: the settings as JSON. A file that was begun with other settings is refused.
    items        what was asked, by `position` in the benchmark
    predictions  what was answered: verdict, trajectory as JSON without times, counts and estimates
    parts        of answers that were judged in parts: how many are right, and how many there are
    timings      milliseconds, which no two runs share

A block of predictions is one transaction, so a kill leaves whole blocks. `content_hash` is over all but the timings:
a run that was killed and resumed, or done by many processes, has the hash of an undisturbed one.

FORMAT 1 had no table of parts, and kept their count in a sentence only. A file of format 1 is read if nothing in it was
judged in parts.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from ...types import STAGES
from ..item import Item, Parts

T = TypeVar("T")

FORMAT = 2
_TYPES = {int: "INTEGER", float: "REAL", str: "TEXT"}
_MEND = "remove it and run the same command of `vzoom eval` again, which makes what is lost again"


@dataclass(frozen=True)
class Prediction:
    """What was answered about one item.

    Args:
        position: of the item in the benchmark.
        answer: the text between the answer tags; None if there was none.
        verdict: kind of the `Verdict`; said, detail: as there.
        stop_reason: why the conversation that counted ended; "" for a missing video.
        failure: see `scores.failures`.
        trajectory: `Trajectory.to_json` of the conversation that counted, without times; "" for a missing video.
        conversations: that the policy held.
        frames: of all of them; so are zooms, tokens_prefilled, tokens_sampled and flops.
        kv_bytes: of the largest.
        confidence: of the answer; -1 if the policy asked for none.
        seed: of the conversations.
    """

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
class ItemTiming:
    """Wall milliseconds by stage. Runs of the model are shared: each conversation counts the whole run."""

    position: int
    decode: float
    patches: float
    vision: float
    prefill: float
    generate: float


assert tuple(f.name for f in fields(ItemTiming))[1:] == STAGES

_ITEM_COLUMNS = tuple(f.name for f in fields(Item) if f.name != "benchmark")  # that is in the settings


def _columns(cls: type) -> str:
    hints = get_type_hints(cls)
    kinds = {name: _TYPES[kind if kind in _TYPES else str] for name, kind in hints.items()}
    return ", ".join(f"{n} {k} PRIMARY KEY" if n == "position" else f"{n} {k}" for n, k in kinds.items())


_PARTS_TABLE = "TABLE parts (position INTEGER PRIMARY KEY, num_right INTEGER, num_parts INTEGER)"


@dataclass(frozen=True)
class PredictionRow:
    """One item with what became of it. parts: if the answer was judged in parts."""

    item: Item
    prediction: Prediction
    timing: ItemTiming
    parts: Parts | None = None


class Store:
    """A file that is written. Use as a context.

    Args:
        path: the file; it is begun if it is missing.
        settings: all that decides what it holds, in JSON's types.

    Raises:
        ValueError: it holds another run, is damaged, or is no such file.
        OSError: the disk is full, or may not be written.
    """

    def __init__(self, path: str | os.PathLike[str], settings: Mapping[str, Any]) -> None:
        self.path = Path(path)
        text = json.dumps(settings, sort_keys=True)
        with _named(self.path):
            if not self.path.exists():
                _begin(self.path, text)
            self._db = sqlite3.connect(self.path, timeout=60.0)
            try:
                _check_whole(self._db, self.path)
                check_same(_settings(self._db, self.path), json.loads(text), self.path)
                if _format(self._db) < FORMAT:
                    _refuse_sentences(self._db, self.path)
                    with self._db:
                        self._db.execute(f"CREATE {_PARTS_TABLE}")
                        self._db.execute("UPDATE run SET format = ?", (FORMAT,))
            except BaseException:
                self._db.close()
                raise

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def add(self, rows: Iterable[PredictionRow]) -> None:
        """Add all of the rows or, after a kill or on a full disk, none. They are on the disk when this returns."""
        with _named(self.path), self._db:
            for row in rows:
                position = row.prediction.position
                self._insert("items", (position, *_item_row(row.item)))
                self._insert("predictions", tuple(vars(row.prediction).values()))
                self._insert("timings", tuple(vars(row.timing).values()))
                if row.parts is not None:
                    self._insert("parts", (position, *row.parts))

    def _insert(self, table: str, values: Sequence[object]) -> None:
        # Half of a surrogate pair, which JSON can hold and UTF-8 cannot, is kept as "?".
        held = [v.encode("utf-8", "replace").decode() if isinstance(v, str) else v for v in values]
        self._db.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(held))})", held)


def _begin(path: Path, settings: str) -> None:
    """Make an empty file, and move it into place when it is whole: other processes may look at it at any time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.new")
    part.unlink(missing_ok=True)
    try:
        db = sqlite3.connect(part)
        try:
            with db:
                db.execute("CREATE TABLE run (format INTEGER, settings TEXT)")
                names = ", ".join(f"{name} TEXT" for name in _ITEM_COLUMNS)
                db.execute(f"CREATE TABLE items (position INTEGER PRIMARY KEY, {names})")
                db.execute(f"CREATE TABLE predictions ({_columns(Prediction)})")
                db.execute(f"CREATE {_PARTS_TABLE}")
                db.execute(f"CREATE TABLE timings ({_columns(ItemTiming)})")
                db.execute("INSERT INTO run VALUES (?, ?)", (FORMAT, settings))
        finally:
            db.close()
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _item_row(item: Item) -> tuple[str | None, ...]:
    held = {**vars(item), "options": json.dumps(item.options), "evidence": json.dumps(item.evidence)}
    return tuple(held[name] for name in _ITEM_COLUMNS)


def read_settings(path: Path) -> dict[str, Any]:
    """What a file was begun with.

    Raises:
        ValueError: the file is missing, or is no run of `vzoom eval`.
    """
    with _reading(path) as db:
        return _settings(db, path)


def read_rows(path: Path) -> list[PredictionRow]:
    """All that a file holds, in order of position.

    Raises:
        ValueError: the file is missing, or is no run of `vzoom eval`.
    """
    with _reading(path) as db:
        benchmark = _settings(db, path)["benchmark"]
        return [_row(values, benchmark, path) for values in db.execute(_JOINED)]


def read_positions(path: Path) -> set[int]:
    """Positions of the predictions that a file holds."""
    with _reading(path) as db:
        return {position for (position,) in db.execute("SELECT position FROM predictions")}


def content_hash(path: Path) -> str:
    """SHA-256, in hex, of settings, items, predictions and parts, in order of position; not of the timings.

    Raises:
        ValueError: the file is missing, or is no run of `vzoom eval`.
    """
    with _reading(path) as db:
        digest = hashlib.sha256(json.dumps(_settings(db, path), sort_keys=True).encode())
        for table in ("items", "predictions", "parts"):
            for row in db.execute(f"SELECT * FROM {table} ORDER BY position"):
                if any(isinstance(value, bytes) for value in row):  # nothing is written as such
                    raise ValueError(f"{path} is damaged (position {row[0]} of {table}): {_MEND}")
                digest.update(json.dumps(row).encode() + b"\n")
        return digest.hexdigest()


def merge(parts: Sequence[Path], out: Path, settings: Mapping[str, Any]) -> None:
    """Make one file of several, in order of position, and move it into place when it is whole."""
    unfinished = out.with_name(f"{out.name}.{os.getpid()}.part")
    unfinished.unlink(missing_ok=True)
    found = {row.prediction.position: row for path in parts for row in read_rows(path)}
    try:
        with Store(unfinished, settings) as store:
            store.add(row for _, row in sorted(found.items()))
        unfinished.replace(out)
    finally:
        unfinished.unlink(missing_ok=True)


def check_same(held: Mapping[str, Any], wanted: Mapping[str, Any], path: Path) -> None:
    """Compare settings. ValueError names what differs."""
    changed = sorted(key for key in {*held, *wanted} if held.get(key) != wanted.get(key))
    if changed:
        shown = "; ".join(f"{key} was {held.get(key)!r}, now {wanted.get(key)!r}" for key in changed)
        raise ValueError(f"{path} was begun with other settings ({shown}): name another folder, or repeat them")


_JOINED = (
    f"SELECT {', '.join(f'items.{name}' for name in _ITEM_COLUMNS)}, "
    f"{', '.join(f'predictions.{f.name}' for f in fields(Prediction))}, "
    f"{', '.join(f'timings.{f.name}' for f in fields(ItemTiming))}, parts.num_right, parts.num_parts "
    "FROM predictions JOIN items USING (position) JOIN timings USING (position) LEFT JOIN parts USING (position) "
    "ORDER BY position"
)


def _row(values: tuple[Any, ...], benchmark: str, path: Path) -> PredictionRow:
    first, second = len(_ITEM_COLUMNS), len(_ITEM_COLUMNS) + len(fields(Prediction))
    held = dict(zip(_ITEM_COLUMNS, values, strict=False))
    try:
        held["options"] = tuple(json.loads(held["options"]))
        held["evidence"] = tuple((float(a), float(b)) for a, b in json.loads(held["evidence"]))
        item = Item(**held, benchmark=benchmark)
        parts = None if values[-1] is None else Parts(*values[-2:])
        return PredictionRow(
            item, _typed(Prediction, values[first:second]), _typed(ItemTiming, values[second:-2]), parts
        )
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise ValueError(f"{path} is damaged (position {values[first]}: {error}): {_MEND}") from error


def _typed(cls: type[T], values: Sequence[Any]) -> T:
    """A row's part as its class. TypeError if SQLite holds a value of another type."""
    for (name, kind), value in zip(get_type_hints(cls).items(), values, strict=True):
        if not isinstance(value, (get_args(kind) or (kind,)) if kind is not float else (float, int)):
            raise TypeError(f"{name} is {value!r}")
    return cls(*values)


def _format(db: sqlite3.Connection) -> int:
    return int(db.execute("SELECT format FROM run").fetchone()[0])


def _refuse_sentences(db: sqlite3.Connection, path: Path) -> None:
    """ValueError if a file of format 1 holds answers that were judged in parts."""
    if db.execute(
        "SELECT 1 FROM predictions WHERE verdict IN ('right', 'wrong') AND detail LIKE '% parts right'"
    ).fetchone():
        raise ValueError(f"{path} has format 1, which did not keep the points of its answers: run `vzoom eval` again")


def _settings(db: sqlite3.Connection, path: Path) -> dict[str, Any]:
    try:
        found = db.execute("SELECT format, settings FROM run").fetchone()
    except sqlite3.OperationalError as error:  # of another program, or begun by a command that was killed
        raise ValueError(f"{path} is no run of `vzoom eval` ({error}): {_MEND}") from error
    try:
        number, settings = int(found[0]), dict(json.loads(found[1]))
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged (it does not say its settings): {_MEND}") from error
    if number > FORMAT:
        raise ValueError(f"{path} has format {number}, this version reads up to {FORMAT}: use a newer vzoom")
    return settings


def _check_whole(db: sqlite3.Connection, path: Path) -> None:
    """ValueError if the pages of the file do not fit together."""
    if problems := [text for (text,) in db.execute("PRAGMA quick_check(1)") if text != "ok"]:
        raise ValueError(f"{path} is damaged ({' '.join(str(problems[0]).split())}): {_MEND}")


_OF_THE_DISK = {
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_READONLY: errno.EACCES,
    sqlite3.SQLITE_PERM: errno.EACCES,
    sqlite3.SQLITE_CANTOPEN: errno.EACCES,
    sqlite3.SQLITE_IOERR: errno.EIO,
    sqlite3.SQLITE_NOLFS: errno.EFBIG,
}


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turn errors of SQLite into those of the disk, or into a ValueError that says what is wrong with the file."""
    try:
        yield
    except UnicodeDecodeError as error:  # in a name, or in what SQLite says of it
        raise ValueError(f"{path} is damaged ({error}): {_MEND}") from error
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF  # the rest says more
        if code in _OF_THE_DISK:
            number = _OF_THE_DISK[code]
            raise OSError(number, os.strerror(number), str(path)) from error
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise ValueError(f"{path} is in use by another process: wait for it") from error
        raise ValueError(f"{path} is damaged, or no run of `vzoom eval` ({error}): {_MEND}") from error


@contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that is closed at the end. ValueError if there is no file, or a damaged one.

    It may write, because whoever opens a file after a kill rolls back what was left half done.
    """
    if not path.is_file():
        raise ValueError(f"{path} is not there: it is made by `vzoom eval`")
    with _named(path), closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=rw", uri=True, timeout=60.0)) as db:
        _check_whole(db, path)
        _settings(db, path)  # it is a run, and of a format that is known
        if _format(db) < 2:
            _refuse_sentences(db, path)
            db.execute(f"CREATE TEMP {_PARTS_TABLE}")  # empty, and in no file
        yield db
