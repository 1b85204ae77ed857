"""A folder of Parquet shards that grows, and survives a kill at any moment.

    part-00000.parquet  part-00001.parquet  …   whole shards, each moved into place in one step
    journal.jsonl                               rows added since, one line each, on the disk when `add` returns

A Writer that opens the folder again continues the journal. What is added in the same order gives the same shards, byte
for byte, however often the writer was stopped.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from .files import LOCK, AppendOnly, Lock, naming
from .record import Record
from .rows import FORMAT, FORMAT_KEY, Row, arrow, from_row, schema, to_row
from .validate import InvalidRecord

_JOURNAL = "journal.jsonl"
_DIGESTS_KEY = b"vzoom.digests"  # beside the format, in the file's metadata: one per row group
_GROUP_ROWS = 64  # of a row group: what is read at once
_MEND = "restore it from a copy, or remove it and those after it, and run again what wrote them"


class Writer:
    """Adds records to a folder. `ids` are those that it holds already, so that finished work is not repeated.

    Leaving the `with` block writes what is left in the journal as a last, shorter shard. A kill leaves it there.

    Args:
        path: the folder; it is made if it is missing.
        shard_records: records per shard.

    Raises:
        ValueError: another process writes the folder.
        InvalidRecord: a line of the journal, or a shard, cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str], *, shard_records: int = 512) -> None:
        if shard_records < 1:
            raise ValueError(f"shard_records must be 1 or more, got {shard_records}")
        self.path, self.shard_records = Path(path), shard_records
        self.ids: set[str] = set()
        self._rows: list[Row] = []  # those in the journal
        self._num_shards = 0
        self._lock = Lock(self.path / LOCK)
        try:
            self._journal = self._recover()
        except BaseException:
            self._lock.close()
            raise
        if len(self._rows) >= self.shard_records:
            self.flush()

    def add(self, record: Record) -> None:
        """Add one record. It is on the disk when this returns.

        Raises:
            InvalidRecord: it does not pass `check`.
            ValueError: the folder holds a record with this id.
        """
        if record.id in self.ids:
            raise ValueError(f"{self.path} already holds a record {record.id!r}")
        row = to_row(record)
        self._journal.add(json.dumps(row, allow_nan=False).encode())
        self._rows.append(row)
        self.ids.add(record.id)
        if len(self._rows) >= self.shard_records:
            self.flush()

    def flush(self) -> None:
        """Write what the journal holds as a shard, however short."""
        if self._rows:
            _write_shard(self.path / f"part-{self._num_shards:05d}.parquet", self._rows)
            self._num_shards += 1
            self._rows = []
        self._journal.clear()

    def close(self) -> None:
        """Write what is left, and let others write the folder."""
        self.flush()
        self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:  # the shards are to be those of an undisturbed run: what is in the journal waits for it
            self._release()

    def _release(self) -> None:
        self._journal.close()
        self._lock.close()

    def _recover(self) -> AppendOnly:
        """Learn what the folder holds. Returns the journal."""
        for left in self.path.glob("*.parquet.part"):
            left.unlink()
        files = shards(self.path)
        self._num_shards = len(files)
        self.ids.update(id for file in files for id in _column(file, "id"))
        journal = AppendOnly(self.path / _JOURNAL)
        try:
            for number, line in enumerate(journal.lines):
                row = _journal_row(journal.path, number, line)
                if row["id"] not in self.ids:  # a kill between a shard and the clearing leaves rows in both
                    self._rows.append(row)
                    self.ids.add(row["id"])
            if not self._rows:
                journal.clear()
        except BaseException:
            journal.close()
            raise
        return journal


def _journal_row(path: Path, number: int, line: bytes) -> Row:
    try:
        row = json.loads(line)
        if not isinstance(row, dict):
            raise InvalidRecord("it is no JSON object")
        from_row(row)
    except (ValueError, RecursionError) as error:
        raise InvalidRecord(
            f"{path}, line {number + 1} is damaged ({error}): remove this line, and run again what wrote it"
        ) from error
    return row


def shards(path: str | os.PathLike[str]) -> list[Path]:
    """The Parquet files of a folder in order, () if it has none; or the one file.

    Raises:
        InvalidRecord: one in between is missing.
    """
    path = Path(path)
    if not path.is_dir():
        return [path]
    files = sorted(path.glob("part-*.parquet"))
    expected = [path / f"part-{number:05d}.parquet" for number in range(len(files))]
    if files != expected:
        gap = next(want for want, found in zip(expected, files, strict=True) if want != found)
        raise InvalidRecord(f"{path}: {gap.name} is missing")
    return files


def read(path: str | os.PathLike[str]) -> Iterator[Record]:
    """All records of a folder or of one file, in order. What is still in a journal is not read.

    Raises:
        InvalidRecord: with file, row (from 0, in the file) and what is wrong; also for a newer format.
    """
    for file in _some(path):
        with _open(file) as parquet:
            number = 0
            for group in range(parquet.num_row_groups):
                for row in _rows(file, parquet, group):
                    yield _record(file, number, row)
                    number += 1


def read_one(path: str | os.PathLike[str], index: int) -> Record:
    """One record, without reading the others.

    Args:
        path: a folder or a file.
        index: from 0, over the whole folder.

    Raises:
        ValueError: there is no such record.
        InvalidRecord: it cannot be read.
    """
    total, wanted = 0, index
    for file in _some(path):
        with _open(file) as parquet:
            total += parquet.metadata.num_rows
            if 0 <= index < total:
                row = wanted
                for group in range(parquet.num_row_groups):
                    num_rows = parquet.metadata.row_group(group).num_rows
                    if row < num_rows:
                        return _record(file, wanted, _rows(file, parquet, group)[row])
                    row -= num_rows
            wanted = index - total
    raise ValueError(f"{path} holds {total} records: index must be from 0 to {total - 1}, got {index}")


def num_waiting(path: str | os.PathLike[str]) -> int:
    """How many records are in the folder's journal. No reader sees them until a writer moves them into a shard."""
    journal = Path(path) / _JOURNAL
    return len(journal.read_bytes().splitlines()) if journal.is_file() else 0


def _some(path: str | os.PathLike[str]) -> list[Path]:
    files = shards(path)
    if not files:
        raise InvalidRecord(f"{path} holds no part-*.parquet")
    return files


def _record(file: Path, number: int, row: Row) -> Record:
    try:
        return from_row(row)
    except InvalidRecord as error:
        raise InvalidRecord(f"{file}, row {number}: {error}") from error


def _open(file: Path) -> Any:
    """An open ParquetFile of our format."""
    pa = arrow()
    with _damage_named(file):
        parquet = pa.parquet.ParquetFile(file, page_checksum_verification=True)
    try:
        with _damage_named(file):
            written = (parquet.schema_arrow.metadata or {}).get(FORMAT_KEY)
        if written is None:
            raise InvalidRecord(f"{file} is a Parquet file, but not one of vzoom's: it has no {FORMAT_KEY.decode()}")
        if not written.isdigit():
            raise InvalidRecord(f"{file} is damaged (its format is {written!r}): {_MEND}")
        if int(written) > FORMAT:
            raise InvalidRecord(
                f"{file} has format {int(written)}, this vzoom reads up to {FORMAT}: install a newer vzoom"
            )
    except BaseException:
        parquet.close()
        raise
    return parquet


def _rows(file: Path, parquet: Any, group: int) -> list[Row]:
    """The rows of a row group."""
    with _damage_named(file):
        rows: list[Row] = parquet.read_row_group(group).to_pylist()
        digests = (parquet.schema_arrow.metadata or {}).get(_DIGESTS_KEY)
    # The checksums of pages leave out what says how to read them.
    if digests is not None and [_digest(rows).encode()] != digests.split()[group : group + 1]:
        raise InvalidRecord(f"{file} is damaged (row group {group} is not what was written): {_MEND}")
    return rows


def _digest(rows: list[Row]) -> str:
    return hashlib.blake2b(json.dumps(rows, sort_keys=True, default=repr).encode(), digest_size=16).hexdigest()


@contextmanager
def _damage_named(file: Path) -> Iterator[None]:
    """InvalidRecord with the file for what pyarrow raises about damaged ones: a plain OSError among others."""
    pa = arrow()
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the disk
        why = " ".join(str(error).split())[:200]
        raise InvalidRecord(f"{file} is damaged, or no Parquet file ({why}): {_MEND}") from error


def _column(file: Path, name: str) -> list[Any]:
    with _open(file) as parquet, _damage_named(file):
        return parquet.read(columns=[name]).column(name).to_pylist()


def _write_shard(file: Path, rows: list[Row]) -> None:
    pa = arrow()
    part = file.with_suffix(".parquet.part")
    table = pa.Table.from_pylist(rows, schema=schema())
    groups = [table.slice(start, _GROUP_ROWS).to_pylist() for start in range(0, len(rows), _GROUP_ROWS)]
    table = table.replace_schema_metadata(
        {**table.schema.metadata, _DIGESTS_KEY: " ".join(map(_digest, groups)).encode()}
    )
    with naming(file):
        try:
            with part.open("wb") as out:
                pa.parquet.write_table(
                    table, out, row_group_size=_GROUP_ROWS, compression="zstd", write_page_checksum=True
                )
                out.flush()
                os.fsync(out.fileno())
            os.replace(part, file)
        except OSError:
            part.unlink(missing_ok=True)
            raise
        folder = os.open(file.parent, os.O_RDONLY)  # the name, too, must be on the disk before the journal is emptied
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
