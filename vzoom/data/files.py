"""Files that survive a kill and a full disk: one that is replaced as a whole, one that only grows, a folder's lock.

An error names its file. After one, what was acknowledged before is on the disk and can be read.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from vzoom import __version__

Json = dict[str, Any]

LOCK = ".lock"
_VERSION_LENGTH = 80
_DAMAGED = (ValueError, RecursionError)  # what reading broken JSON or text raises


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let an OSError say which file it is about: those of `write` and `fsync` do not know."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = os.fspath(path)
        raise


def write_atomically(path: Path, text: str) -> None:
    """Replace a file in one move: a kill or a full disk leaves the old text or the new one, never a part.

    Args:
        path: the file. `path` + ".part" beside it holds the text until it is on the disk.
        text: the whole new content.

    Raises:
        OSError: the disk is full, or may not be written. It names the file.
    """
    part = path.with_name(path.name + ".part")
    with naming(path):
        try:
            with part.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        except OSError:
            part.unlink(missing_ok=True)
            raise


def write_json(path: Path, data: Any) -> None:
    """`write_atomically` of JSON. NaN and infinity are refused: other programs cannot read them."""
    write_atomically(path, json.dumps(data, indent=1, allow_nan=False) + "\n")


def read_json(path: Path, fields: Mapping[str, type | tuple[type, ...]] | None = None, *, mend: str) -> Json:
    """The JSON object that a file holds.

    Args:
        path: the file.
        fields: what it must hold, and of which types.
        mend: what the user can do if it is damaged.

    Raises:
        ValueError: it is damaged. The message names the file and says how to mend it.
        OSError: it cannot be read.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except _DAMAGED as error:
        raise ValueError(f"{path} is damaged ({error}): {mend}") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path} is damaged (it holds no JSON object): {mend}")
    for name, kinds in (fields or {}).items():
        if not isinstance(data.get(name), kinds):
            raise ValueError(f"{path} is damaged (its {name} is {data.get(name)!r}): {mend}")
    return data


class Lock:
    """A folder, or a file, that one process at a time works on. A process that ends lets go of it, however it ends.

    Args:
        path: the lock's own file, as FOLDER/.lock; its folder is made if it is missing.
        what: the folder or file that it stands for; None is the lock's folder.
        wait: wait for the other process, instead of refusing.

    Attributes:
        earlier_version: the vzoom that worked there before, if it was another one; else None.

    Raises:
        ValueError: another process works there.
        OSError: the folder may not be written.
    """

    def __init__(self, path: Path, *, what: Path | None = None, wait: bool = False) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._what = what or path.parent
        self._file = path.open("a+b", buffering=0)
        try:
            with naming(path):
                _hold(self._file, self._what, wait=wait)
                self._file.seek(0)
                before = self._file.read(_VERSION_LENGTH).decode("utf-8", "replace").strip()
                if before != __version__:
                    self._file.truncate(0)
                    self._file.write(__version__.encode())
        except BaseException:
            self._file.close()
            raise
        self.earlier_version = before if before not in ("", __version__) else None

    def note(self) -> str | None:
        """A line about the other version that worked there before; None if there was none."""
        if self.earlier_version is None:
            return None
        return (
            f"{self._what} was left by vzoom {self.earlier_version}, this is {__version__}: what is made from now on "
            "may differ from what is there"
        )

    def close(self) -> None:
        """Let others in."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _hold(file: IO[Any], what: Path, *, wait: bool = False) -> None:
    """Lock an open file. ValueError if another process does."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        raise ValueError(f"{what} is in use by another process: wait for it, or name another folder") from None


class AppendOnly:
    """A file of lines that only grows. A line is on the disk as a whole, or not at all, whatever happens.

    Args:
        path: the file; it is made if it is missing. A line that a kill cut short is dropped.

    Attributes:
        lines: what it held when it was opened, without the line ends.

    Raises:
        ValueError: another process holds the file.
        OSError: it may not be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with naming(path):
            self._file = path.open("a+b", buffering=0)
            try:
                _hold(self._file, path)
                self._file.seek(0)
                held = self._file.readall()
                self._num_bytes = held.rfind(b"\n") + 1
                if self._num_bytes < len(held):
                    self._file.truncate(self._num_bytes)
            except BaseException:
                self._file.close()
                raise
        self.lines = held[: self._num_bytes].split(b"\n")[:-1]

    def add(self, line: bytes) -> None:
        """Append one line, without its end. It is on the disk when this returns."""
        assert b"\n" not in line, "a line is one line"
        rest = memoryview(line + b"\n")
        with naming(self.path):
            try:
                while rest:
                    rest = rest[self._file.write(rest) :]
                os.fsync(self._file.fileno())
            except BaseException:
                self._file.truncate(self._num_bytes)  # or the next line would continue this one
                raise
        self._num_bytes += len(line) + 1

    def clear(self) -> None:
        """Drop all lines."""
        with naming(self.path):
            self._file.truncate(0)
        self._num_bytes = 0

    def close(self) -> None:
        self._file.close()


class JsonLines:
    """A file of JSON objects, one per line, that only grows. Opening it drops a line that a kill cut short.

    Args:
        path: the file; it and its folder are made if they are missing.

    Raises:
        ValueError: another process holds the file, or a whole line is no JSON object.
        OSError: the file may not be written.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._file = AppendOnly(self.path)
        try:
            self.rows = [self._read(number, line) for number, line in enumerate(self._file.lines, 1)]
        except BaseException:
            self.close()
            raise

    def add(self, row: Json) -> None:
        """Append one object. It is on the disk when this returns. May be called from any thread."""
        line = json.dumps(row, allow_nan=False, ensure_ascii=False).encode()
        with self._lock:
            self._file.add(line)
            self.rows.append(row)

    def close(self) -> None:
        self._file.close()

    def _read(self, number: int, line: bytes) -> Json:
        try:
            row = json.loads(line)
        except _DAMAGED as error:
            raise ValueError(f"{self.path}, line {number} is damaged ({error}): {_MEND_LINE}") from error
        if not isinstance(row, dict):
            raise ValueError(f"{self.path}, line {number} is damaged (it is no JSON object): {_MEND_LINE}")
        return row


_MEND_LINE = "remove this line, and what it held is made again"
