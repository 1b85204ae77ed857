"""Annotation files as rows that know their file and line, so that an error can name them.

Nothing here is read with a default: a field that is missing, or of another kind than the published schema has, is a
ValueError.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from ...data import arrow

_SPACE = re.compile(r"[\s,]*")


@dataclass(frozen=True)
class AnnotationRow:
    """One object of an annotation. source: "file:line", or "file, row 3" in a Parquet file."""

    data: Mapping[str, Any]
    source: str

    def fail(self, problem: str) -> NoReturn:
        """ValueError with file, line and how to mend it."""
        raise ValueError(
            f"{self.source}: {problem}. Is this the file as it was published? `vzoom eval --list` says which is read"
        )

    def text(self, key: str) -> str:
        """A text that is not empty."""
        value = self._get(key)
        if not isinstance(value, str) or not value.strip():
            self.fail(f"{key} must be text, got {value!r}")
        return value.strip()

    def number(self, key: str) -> float:
        value = self._get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            self.fail(f"{key} must be a number, got {value!r}")
        return float(value)

    def integer(self, key: str) -> int:
        value = self.number(key)
        if value != int(value):
            self.fail(f"{key} must be a whole number, got {value}")
        return int(value)

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts. Numbers count: some options are numbers."""
        value = self._get(key)
        if not isinstance(value, list) or not all(isinstance(v, str | int | float) for v in value):
            self.fail(f"{key} must be a list of texts, got {value!r}")
        return tuple(str(v).strip() for v in value)

    def rows(self, key: str) -> list[AnnotationRow]:
        """A list of objects."""
        value = self._get(key)
        if not isinstance(value, list) or not all(isinstance(v, dict) for v in value):
            self.fail(f"{key} must be a list of objects, got {value!r}")
        return [AnnotationRow(v, self.source) for v in value]

    def _get(self, key: str) -> Any:
        if key not in self.data:
            self.fail(f"{key} is missing, there are only {', '.join(sorted(self.data))}")
        return self.data[key]


def locate(root: Path, folders: Sequence[str], name: str) -> Path:
    """An annotation file below one of the folders. FileNotFoundError that says where it was looked for."""
    looked = [root / folder / name for folder in folders]
    for path in looked:
        if path.is_file():
            return path
    raise FileNotFoundError(f"no {name}: looked for {', '.join(map(str, looked))}. Give the folder of the data set")


def json_rows(path: Path) -> Iterator[AnnotationRow]:
    """The objects of a JSON list, each with the line that it begins in."""
    text = _read(path)
    begin = _SPACE.match(text)
    at = begin.end() if begin else 0
    if text[at : at + 1] != "[":
        raise ValueError(f"{path}:1: the file must hold a JSON list")
    decoder, at, line, counted = json.JSONDecoder(), at + 1, 1, 0
    while True:
        gap = _SPACE.match(text, at)
        at = gap.end() if gap else at
        if text[at : at + 1] == "]":
            return
        try:
            value, end = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}:{error.lineno}: no JSON ({error.msg}): fetch the file again") from error
        line, counted = line + text.count("\n", counted, at), at
        yield _row(value, f"{path}:{line}")
        at = end


def jsonl_rows(path: Path) -> Iterator[AnnotationRow]:
    """One object per line; empty lines are passed over."""
    for number, line in enumerate(_read(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}:{number}: no JSON ({error.msg}): fetch the file again") from error
        yield _row(value, f"{path}:{number}")


def parquet_rows(path: Path, columns: Sequence[str]) -> Iterator[AnnotationRow]:
    """The named columns of a Parquet file, row by row. ImportError, naming the extra, without pyarrow."""
    with arrow().parquet.ParquetFile(path) as file:
        missing = sorted(set(columns) - set(file.schema_arrow.names))
        if missing:
            raise ValueError(f"{path}: column {', '.join(missing)} is missing, there are {file.schema_arrow.names}")
        number = 0
        for batch in file.iter_batches(batch_size=256, columns=list(columns)):
            for value in batch.to_pylist():
                yield _row(value, f"{path}, row {number}")
                number += 1


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no UTF-8 text: {error}") from error


def _row(value: Any, source: str) -> AnnotationRow:
    if not isinstance(value, dict):
        raise ValueError(f"{source}: must be an object, got {type(value).__name__}")
    return AnnotationRow(value, source)
