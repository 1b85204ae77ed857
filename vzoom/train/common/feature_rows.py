"""Rows of features under keys, in memory or in a file that outlives the run.

The file is FOLDER/rows.bin, one row after the other, and FOLDER/index.jsonl, one line per key: a line is written after
its rows are, so what a kill cut short is not in the index and is made again.
"""

from __future__ import annotations

import json
from collections.abc import Hashable
from pathlib import Path

import torch


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
    """

    def __init__(self, path: Path, *, dtype: torch.dtype, version: str) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self._path, self._dtype = path, dtype
        self._spans: dict[Hashable, tuple[int, int]] = {}
        self._num_rows = self._width = 0
        self._mapped: torch.Tensor | None = None
        header = {"version": version, "dtype": str(dtype)}
        lines = self._whole_lines()
        if lines and json.loads(lines[0]) == header:
            for line in lines[1:]:
                entry = json.loads(line)
                self._spans[tuple(entry["key"])] = (self._num_rows, entry["rows"])
                self._num_rows += entry["rows"]
                self._width = entry["width"]
        else:
            lines = [json.dumps(header) + "\n"]
        (path / "index.jsonl").write_text("".join(lines))
        with (path / "rows.bin").open("ab") as file:
            file.truncate(self._num_rows * self._width * dtype.itemsize)

    def _whole_lines(self) -> list[str]:
        index = self._path / "index.jsonl"
        lines = index.read_text().splitlines(keepends=True) if index.exists() else []
        return lines[:-1] if lines and not lines[-1].endswith("\n") else lines

    def __contains__(self, key: Hashable) -> bool:
        return key in self._spans

    def span(self, key: Hashable) -> tuple[int, int]:
        return self._spans[key]

    def add(self, key: tuple[str | int | float, ...], values: torch.Tensor) -> None:
        rows = values.detach().to("cpu", self._dtype).contiguous()
        self._width = rows.shape[1]
        with (self._path / "rows.bin").open("ab") as file:
            file.write(rows.view(torch.uint8).numpy().tobytes())
        with (self._path / "index.jsonl").open("a") as index:
            index.write(json.dumps({"key": key, "rows": len(rows), "width": self._width}) + "\n")
        self._spans[key] = (self._num_rows, len(rows))
        self._num_rows += len(rows)
        self._mapped = None

    def take(self, rows: torch.Tensor) -> torch.Tensor:
        if self._mapped is None:
            size = self._num_rows * self._width
            mapped = torch.from_file(str(self._path / "rows.bin"), shared=False, size=size, dtype=self._dtype)
            self._mapped = mapped.view(self._num_rows, self._width)
        return self._mapped.index_select(0, rows)
