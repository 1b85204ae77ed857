"""What `vzoom eval` prints: the benchmarks, how far a run is, and what runs came to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .console import print_json, printable
from .progress import CountLine

if TYPE_CHECKING:
    from vzoom.eval import Benchmark, RunProgress, Shard

_COLUMNS = ("accuracy", "interval", "frames", "zooms", "tokens", "gflops", "seconds")


def print_list(*, as_json: bool) -> None:
    """The benchmarks, and which files each reads."""
    from vzoom.eval import BENCHMARKS

    if as_json:
        print_json({"benchmarks": [_described(benchmark) for benchmark in BENCHMARKS.values()]})
        return
    width = max(map(len, BENCHMARKS))
    for name, benchmark in BENCHMARKS.items():
        extras = [*(["subtitles"] if benchmark.has_subtitles else []), *(["judge"] if benchmark.needs_judge else [])]
        shown = f" ({', '.join(extras)})" if extras else ""
        print(f"{name:{width}}  {benchmark.title}{shown}: {', '.join(benchmark.files) or 'rendered, no download'}")


def _described(benchmark: Benchmark) -> dict[str, Any]:
    plain = ("name", "title", "hub_id", "revision", "source", "scorer", "has_subtitles", "needs_judge")
    return {
        **{name: getattr(benchmark, name) for name in plain},
        "files": list(benchmark.files),
        "paper": dict(benchmark.paper),
        "rendered": benchmark.render is not None,
    }


def print_run(file: Path, benchmark: Benchmark, warnings: Sequence[str], *, as_json: bool) -> None:
    """file: a finished run's predictions. warnings: what loading the model warned of."""
    figures = _figures(file, benchmark) | {"warnings": list(warnings)}
    if as_json:
        print_json(figures)
        return
    width = max(map(len, figures))
    for name, value in figures.items():
        print(f"{name:{width}}  {printable(str(value))}")


def print_sweep(
    sweep: str, files: dict[str, Path], benchmark: Benchmark, warnings: Sequence[str], *, as_json: bool
) -> None:
    """One line per run. files: predictions of finished runs by name. warnings: what loading the model warned of."""
    runs = {name: _figures(file, benchmark) for name, file in files.items()}
    if as_json:
        print_json({"benchmark": benchmark.name, "sweep": sweep, "runs": runs, "warnings": list(warnings)})
        return
    cells = [["run", *_COLUMNS], *([name, *map(str, map(told.get, _COLUMNS))] for name, told in runs.items())]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        print("  ".join(f"{cell:{width}}" for cell, width in zip(line, widths, strict=True)).rstrip())


def _figures(file: Path, benchmark: Benchmark) -> dict[str, Any]:
    from vzoom.eval import content_hash, figures_of, read_rows, read_settings

    settings = read_settings(file)
    return {
        "benchmark": benchmark.name,
        "model": settings["model"],
        "protocol": _protocol_name(settings["zoom"]),
        "policy": settings["policy"]["name"],
        **figures_of(read_rows(file), headline=benchmark.headline).to_json(),
        "protocol_hash": settings["protocol_hash"],
        "content_hash": content_hash(file),
        "predictions": str(file),
    }


def _protocol_name(zoom: dict[str, Any]) -> str:
    """The name of the protocol in a run's settings, which hold a name or a whole table; "" in runs of vzoom 1."""
    told = zoom.get("protocol", "")
    return str(told["name"] if isinstance(told, dict) else told)


class Progress:
    """Says how far this process is: `32/400: 1.2 s each, 8 min left`."""

    def __init__(self, shard: Shard) -> None:
        self._line = CountLine(f"shard {shard}: " if shard.count > 1 else "")

    def __call__(self, done: RunProgress) -> None:
        each = done.seconds / max(1, done.fresh)
        self._line(done.done, done.total, f"{each:.1f} s each, {duration_text(done.seconds_left)} left")


def duration_text(seconds: float) -> str:
    """In words, as exact as anybody wants to know."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
