"""Small files that survive a kill: one that is replaced as a whole, and one that only grows."""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Json = dict[str, Any]


def write_atomically(path: Path, text: str) -> None:
    """Replace a file in one move: a kill leaves the old text or the new one, never a part.

    Args:
        path: the file. `path` + ".part" beside it holds the text until it is on the disk.
        text: the whole new content.
    """
    part = path.with_name(path.name + ".part")
    with part.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


class JsonLines:
    """A file of JSON objects, one per line, that only grows. Opening it drops a line that a kill cut short.

    Args:
        path: the file; it and its folder are made if they are missing.

    Raises:
        ValueError: another process holds the file, or a whole line is no JSON object.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("a+b")
        self._lock = threading.Lock()
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise ValueError(f"{path} is being written by another process") from None
        try:
            self.rows = list(self._recover())
        except ValueError:
            self._file.close()
            raise

    def add(self, row: Json) -> None:
        """Append one object. It is on the disk when this returns. May be called from any thread."""
        line = json.dumps(row, allow_nan=False, ensure_ascii=False).encode() + b"\n"
        with self._lock:
            self._file.write(line)
            self._file.flush()
            os.fsync(self._file.fileno())
            self.rows.append(row)

    def close(self) -> None:
        self._file.close()

    def _recover(self) -> Iterator[Json]:
        self._file.seek(0)
        whole = 0
        for number, line in enumerate(self._file):
            if not line.endswith(b"\n"):
                self._file.truncate(whole)
                return
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{self.path}, line {number + 1}: {error}") from error
            if not isinstance(row, dict):
                raise ValueError(f"{self.path}, line {number + 1} is no JSON object")
            whole += len(line)
            yield row
