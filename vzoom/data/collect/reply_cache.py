"""What was paid for, on the disk before it is used: a kill at any moment loses nothing but what was in flight."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

Json = dict[str, Any]


class Lines:
    """A file of JSON objects, one a line, that only grows. A line that a kill cut short is dropped on opening.

    ValueError where another process holds the file, or where a line that is whole is no JSON object.
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
        """On the disk when this returns. From any thread."""
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


class Ledger:
    """JSON objects by key. `put` returns when the object is on the disk; a key is put once."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._lines = Lines(path)
        self._found: dict[str, Json] = {}
        for number, row in enumerate(self._lines.rows):
            if not isinstance(row.get("key"), str) or not isinstance(row.get("value"), dict):
                self._lines.close()
                raise ValueError(f"{path}, line {number + 1} holds no key and value")
            self._found[row["key"]] = row["value"]

    def get(self, key: str) -> Json | None:
        return self._found.get(key)

    def put(self, key: str, value: Json) -> None:
        assert key not in self._found, "paid for twice"
        self._lines.add({"key": key, "value": value})
        self._found[key] = value

    def values(self) -> list[Json]:
        return list(self._found.values())

    def close(self) -> None:
        self._lines.close()


def key_of(request: Any) -> str:
    """A request, as JSON, by the hash of its contents."""
    return hashlib.sha256(json.dumps(request, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def same_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Remember what a folder was begun with. ValueError where it was begun with something else."""
    path = folder / "settings.json"
    if path.exists():
        before = json.loads(path.read_text())
        for name, value in json.loads(json.dumps(settings)).items():
            if before.get(name) != value:
                raise ValueError(
                    f"{folder} was begun with {name} {before.get(name)!r}, not {value!r}: name another folder, or use "
                    "the same settings to go on"
                )
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(settings, indent=1) + "\n")


def write_whole(path: Path, text: str) -> None:
    """Write a file in one move, and on the disk: a stop leaves the old one or the new one."""
    part = path.with_name(path.name + ".part")
    with part.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)
