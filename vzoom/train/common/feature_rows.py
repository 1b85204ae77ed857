"""Rows of features under keys, in memory or in a file that outlives the run.

The file is FOLDER/rows.bin, one row after the other, and FOLDER/index.jsonl, one line per key: a line is written after
its rows are, so what a kill cut short is not in the index and is made again.
"""

from __future__ import annotations

import json
from collections.abc import Hashable
from pathlib import Path

import torch

from ...data import naming, write_atomically


class MemoryRows:
    """Rows in one tensor, which doubles when it is full."""

    def __init__(self) -> None:
        self._spans: dict[Hashable, tuple[int, int]] = {}
        self._rows = torch.empty(0, 0)
        self._num_rows = 0

    def __contains__(self, key: Hashable) -> bool:
        return key in self._spans

    def span(self, key: Hashable) -> tuple[int, int]:
        """(first row, number of rows)."""
        return self._spans[key]

    def add(self, key: Hashable, values: torch.Tensor) -> None:
        end = self._num_rows + len(values)
        if end > len(self._rows):
            grown = values.new_empty(max(end, 2 * len(self._rows), 1024), values.shape[1])
            if self._num_rows:
                grown[: self._num_rows] = self._rows[: self._num_rows]
            self._rows = grown
        self._rows[self._num_rows : end] = values
        self._spans[key] = (self._num_rows, len(values))
        self._num_rows = end

    def take(self, rows: torch.Tensor) -> torch.Tensor:
        """[len(rows), width]."""
        return self._rows.index_select(0, rows.to(self._rows.device))


class FileRows:
    """Rows in a folder that one process uses. Keys are tuples of text and numbers.

    Args:
        path: the folder.
        dtype: of the rows.
        version: what they were made by; rows of another version are dropped.

    Raises:
        ValueError: the folder is damaged.
    """

    def __init__(self, path: Path, *, dtype: torch.dtype, version: str) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self._path, self._dtype = path, dtype
        self._spans: dict[Hashable, tuple[int, int]] = {}
        self._num_rows = self._width = 0
        self._mapped: torch.Tensor | None = None
        header = {"version": version, "dtype": str(dtype)}
        index = path / "index.jsonl"
        lines = index.read_bytes().splitlines(keepends=True) if index.exists() else []
        if lines and not lines[-1].endswith(b"\n"):
            lines.pop()
        try:
            entries = [json.loads(line) for line in lines]
            if entries[:1] == [header]:
                for entry in entries[1:]:
                    self._spans[tuple(entry["key"])] = (self._num_rows, int(entry["rows"]))
                    self._num_rows += int(entry["rows"])
                    self._width = int(entry["width"])
            else:
                lines = [json.dumps(header).encode() + b"\n"]
        except (ValueError, LookupError, TypeError, OverflowError, RecursionError) as error:
            raise ValueError(f"{index} is damaged ({error}): remove {path}, and its features are made again") from error
        write_atomically(index, b"".join(lines).decode())
        wanted, rows = self._num_rows * self._width * dtype.itemsize, path / "rows.bin"
        with naming(rows), rows.open("ab") as file:
            if file.tell() < wanted:
                raise ValueError(f"{rows} is damaged (it is cut short): remove {path}, and its features are made again")
            file.truncate(wanted)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._spans

    def span(self, key: Hashable) -> tuple[int, int]:
        return self._spans[key]

    def add(self, key: tuple[str | int | float, ...], values: torch.Tensor) -> None:
        rows = values.detach().to("cpu", self._dtype).contiguous()
        self._width = rows.shape[1]
        file, index = self._path / "rows.bin", self._path / "index.jsonl"
        with naming(file), file.open("ab") as out:
            out.write(rows.view(torch.uint8).numpy().tobytes())
        with naming(index), index.open("a") as out_index:
            out_index.write(json.dumps({"key": key, "rows": len(rows), "width": self._width}) + "\n")
        self._spans[key] = (self._num_rows, len(rows))
        self._num_rows += len(rows)
        self._mapped = None

    def take(self, rows: torch.Tensor) -> torch.Tensor:
        if self._mapped is None:
            size = self._num_rows * self._width
            mapped = torch.from_file(str(self._path / "rows.bin"), shared=False, size=size, dtype=self._dtype)
            self._mapped = mapped.view(self._num_rows, self._width)
        return self._mapped.index_select(0, rows)
