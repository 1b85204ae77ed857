"""Runs as the page shows them: read, named, and grouped by benchmark."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from vzoom.config import ZoomConfig
from vzoom.protocol import Protocol

from ..benchmarks import BENCHMARKS
from ..runs.run import PREDICTIONS
from ..runs.store import PredictionRow, read_rows, read_settings
from ..scores.figures import Figures, figures_of, item_verdicts
from ..scores.scoring import ItemVerdict

NUM_COLOURS = 6


@dataclass(frozen=True)
class LoadedRun:
    """A run with its rows. name: what the page calls it. number: from 1. series: from 1, for its colour."""

    name: str
    number: int
    series: int
    settings: dict[str, Any]
    rows: tuple[PredictionRow, ...]

    @cached_property
    def figures(self) -> Figures:
        """What the run came to."""
        benchmark = BENCHMARKS.get(self.benchmark)
        return figures_of(self.rows, headline=benchmark.headline if benchmark else "items")

    @cached_property
    def verdicts(self) -> list[ItemVerdict]:
        return item_verdicts(self.rows)

    @cached_property
    def by_position(self) -> dict[int, PredictionRow]:
        return {row.prediction.position: row for row in self.rows}

    @property
    def benchmark(self) -> str:
        return str(self.settings["benchmark"])

    @property
    def colour(self) -> str:
        """The CSS class that holds it."""
        return f"z{(self.series - 1) % NUM_COLOURS + 1}"

    @cached_property
    def protocol(self) -> Protocol:
        """The protocol that the model was prompted in."""
        return ZoomConfig.from_dict(self.settings["zoom"], self.name).protocol

    def how(self) -> str:
        """Its policy and limits in a few words."""
        policy, zoom = self.settings["policy"], self.settings["zoom"]
        parts = [policy["name"]]
        if policy["name"] != "uniform":
            parts.append(f"glance of {zoom['glance_max_frames']} frames or fewer, at most {zoom['max_zooms']} zooms")
        if policy["budget"] is not None:
            parts.append(f"budget {policy['budget']}")
        if policy["fps"] is not None:
            parts.append(f"{policy['fps']:g} fps")
        if policy["name"] in ("gated", "early-stop"):
            parts.append(f"confidence {policy['confidence']:g}")
        if self.settings["subtitles"]:
            parts.append("subtitles")
        return ", ".join(parts)


@dataclass(frozen=True)
class Group:
    """Runs of one benchmark. paper: accuracy in per cent by row."""

    name: str
    title: str
    paper: dict[str, float]
    runs: tuple[LoadedRun, ...]

    @property
    def positions(self) -> list[int]:
        """Those that any run has."""
        return sorted(set().union(*(run.by_position for run in self.runs)))


def load_groups(paths: Sequence[Path]) -> list[Group]:
    """The runs, grouped by benchmark.

    Args:
        paths: folders of runs, or their files.

    Raises:
        ValueError: there is no path, one is named twice, or a run is not finished.
    """
    if not paths:
        raise ValueError("name at least one run")
    files = [_file(Path(path)) for path in paths]
    if len({file.resolve() for file in files}) < len(files):
        raise ValueError("the same run is named twice")
    runs = [
        LoadedRun(name, number, number, read_settings(file), tuple(read_rows(file)))
        for number, (name, file) in enumerate(zip(_names(files), files, strict=True), 1)
    ]
    groups: dict[str, list[LoadedRun]] = {}
    for run in runs:
        groups.setdefault(run.benchmark, []).append(run)
    return [_group(name, members) for name, members in groups.items()]


def _group(name: str, runs: list[LoadedRun]) -> Group:
    first = runs[0]
    for run in runs[1:]:
        for position in first.by_position.keys() & run.by_position.keys():
            one, other = first.by_position[position].item.id, run.by_position[position].item.id
            if one != other:
                raise ValueError(
                    f"{first.name} and {run.name} are of different {name} data: item {position} is {one} and {other}"
                )
    benchmark = BENCHMARKS.get(name)
    return Group(name, benchmark.title if benchmark else name, dict(benchmark.paper) if benchmark else {}, tuple(runs))


def _file(path: Path) -> Path:
    file = path / PREDICTIONS if path.is_dir() else path
    if not file.is_file():
        raise ValueError(f"{path} holds no {PREDICTIONS}: let `vzoom eval` finish there first")
    return file


def _names(files: Sequence[Path]) -> list[str]:
    """Names of folders, with as many parent folders as it takes to tell them apart."""
    parts = [file.resolve().parent.parts if file.name == PREDICTIONS else (file.stem,) for file in files]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(p[-depth:]) for p in parts]
        if len(set(names)) == len(names):
            return names
    return [str(file) for file in files]


def story_of(row: PredictionRow) -> dict[str, Any] | None:
    """The stored trajectory; None if nothing was asked."""
    return json.loads(row.prediction.trajectory) if row.prediction.trajectory else None
