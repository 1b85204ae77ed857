"""Replies that were paid for: each is on the disk before it is used, so a kill loses only what was in flight."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..files import Json, JsonLines, read_json, write_json


class ReplyCache:
    """JSON objects by key, in a file that only grows.

    Args:
        path: the file, as "replies.jsonl"; it is made if it is missing.

    Raises:
        ValueError: another process holds the file, or a line of it holds no key and value.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._lines = JsonLines(path)
        self._found: dict[str, Json] = {}
        for number, row in enumerate(self._lines.rows):
            if not isinstance(row.get("key"), str) or not isinstance(row.get("value"), dict):
                self._lines.close()
                raise ValueError(f"{path}, line {number + 1} is damaged (it holds no key and value): remove this line")
            self._found[row["key"]] = row["value"]

    def get(self, key: str) -> Json | None:
        """The object of this key; None if there is none."""
        return self._found.get(key)

    def put(self, key: str, value: Json) -> None:
        """Keep an object. It is on the disk when this returns. A key is put once."""
        assert key not in self._found, "paid for twice"
        self._lines.add({"key": key, "value": value})
        self._found[key] = value

    def values(self) -> list[Json]:
        """All objects, in the order in which they were put."""
        return list(self._found.values())

    def close(self) -> None:
        """Let others open the file."""
        self._lines.close()


def key_of(request: Any) -> str:
    """The key of a request: the SHA-256 of its JSON, in hex."""
    return hashlib.sha256(json.dumps(request, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def same_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write down what a folder is begun with, or compare with what it was begun with.

    Args:
        folder: the run's folder; its `settings.json` holds the settings.
        settings: by name, in JSON's types.

    Raises:
        ValueError: the folder was begun with other settings, of which the message names the first that differs; or its
            settings are damaged.
    """
    path = folder / "settings.json"
    if path.exists():
        before = read_json(path, mend="restore it from a copy, or name another folder")
        for name, value in json.loads(json.dumps(settings)).items():
            if before.get(name) != value:
                raise ValueError(
                    f"{folder} was begun with {name} {before.get(name)!r}, not {value!r}: name another folder, or use "
                    "the same settings to resume"
                )
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, settings)
