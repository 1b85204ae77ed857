"""Accuracy against what it costs, as inline SVG: a point a run with its 95 % interval, the paper's rows as lines."""

from __future__ import annotations

import math
from collections.abc import Callable

from vzoom.report.markup import escape

from ..figures import Figures
from .load import Group, LoadedRun

_WIDTH, _HEIGHT = 380, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 18, 34, 40

Value = Callable[[Figures], float]
_AXES: tuple[tuple[str, str, Value], ...] = (
    ("frames", "frames seen", lambda f: f.frames),
    ("tokens", "tokens of a conversation", lambda f: f.tokens),
    ("seconds", "seconds of a conversation", lambda f: f.seconds),
    ("zooms", "zooms made", lambda f: f.zooms),
)


def plots_section(group: Group) -> str:
    """Four plots; nothing where no run has an accuracy."""
    runs = [run for run in group.runs if run.figures.accuracy is not None]
    if not runs:
        return ""
    plots = "".join(_plot(group, runs, title, value) for _, title, value in _AXES)
    return f'<section class="part"><h3>Accuracy against what it costs</h3><div class="plots">{plots}</div></section>'


def _plot(group: Group, runs: list[LoadedRun], title: str, value: Value) -> str:
    top = nice_ceiling(max(value(run.figures) for run in runs))

    def x(v: float) -> float:
        return _LEFT + v / top * (_WIDTH - _LEFT - _RIGHT)

    parts = [_axes(x, top)]
    for name, percent in group.paper.items():
        height = y(percent / 100)
        parts.append(f'<line class="paper" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{height:.1f}" y2="{height:.1f}"/>')
        place = f'x="{_WIDTH - _RIGHT}" y="{height - 4:.1f}" text-anchor="end"'
        parts.append(f'<text class="axis" {place}>{escape(name)}, paper</text>')
    parts += _paths(runs, value, x)
    parts += _points(runs, value, x)
    told = "; ".join(f"{run.name}: {_shown(value(run.figures))}, {percent_text(run.figures)}" for run in runs)
    return (
        f'<figure><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{escape(f"Accuracy against {title}. {told}")}">'
        f'<text class="title" x="0" y="14">accuracy against {title}</text>{"".join(parts)}</svg></figure>'
    )


def _axes(x: Callable[[float], float], top: float) -> str:
    parts = []
    for i in range(5):
        height, place = y(i / 4), x(top * i / 4)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{height:.1f}" y2="{height:.1f}"/>')
        parts.append(f'<text class="axis" x="{_LEFT - 6}" y="{height + 4:.1f}" text-anchor="end">{25 * i} %</text>')
        anchor = "end" if i == 4 else "middle"
        parts.append(
            f'<text class="axis" x="{place:.1f}" y="{_HEIGHT - 20}" text-anchor="{anchor}">{_shown(top * i / 4)}</text>'
        )
    return "".join(parts)


def _paths(runs: list[LoadedRun], value: Value, x: Callable[[float], float]) -> list[str]:
    """A line through the runs of one policy of one model: what a larger budget buys."""
    families: dict[tuple[str, str], list[LoadedRun]] = {}
    for run in runs:
        families.setdefault((run.settings["model_hash"], run.settings["policy"]["name"]), []).append(run)
    lines = []
    for members in families.values():
        if len(members) > 1:
            ordered = sorted(members, key=lambda run: value(run.figures))
            points = " ".join(f"{x(value(run.figures)):.1f},{y(_accuracy(run)):.1f}" for run in ordered)
            lines.append(f'<polyline class="family" points="{points}"/>')
    return lines


def _points(runs: list[LoadedRun], value: Value, x: Callable[[float], float]) -> list[str]:
    parts, taken = [], list[tuple[float, float]]()
    for run in runs:
        estimate = run.figures.accuracy
        assert estimate is not None
        place, height = x(value(run.figures)), y(estimate.mean)
        is_right = place > _WIDTH * 0.6
        label = height + 4
        while any(abs(label - other) < 13 and abs(place - at) < 110 for at, other in taken):
            label += 13
        taken.append((place, label))
        parts.append(
            f'<g class="{run.colour}"><line class="whisker" x1="{place:.1f}" x2="{place:.1f}" '
            f'y1="{y(estimate.low):.1f}" y2="{y(estimate.high):.1f}"/>'
            f'<circle class="dot" cx="{place:.1f}" cy="{height:.1f}" r="4.5"/>'
            f'<text class="name" x="{place + (-9 if is_right else 9):.1f}" y="{label:.1f}" '
            f'text-anchor="{"end" if is_right else "start"}">{escape(run.name)}</text></g>'
        )
    return parts


def _accuracy(run: LoadedRun) -> float:
    assert run.figures.accuracy is not None
    return run.figures.accuracy.mean


def y(share: float) -> float:
    return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)


def percent_text(figures: Figures) -> str:
    return "no verdict" if figures.accuracy is None else f"{100 * figures.accuracy.mean:.1f} %"


def nice_ceiling(value: float) -> float:
    """The next of 1, 2, 4, 5, 8, 10 times a power of ten; 1 for 0."""
    if value <= 0:
        return 1.0
    scale = 10.0 ** math.floor(math.log10(value))
    return next(step * scale for step in (1, 2, 4, 5, 8, 10) if step * scale >= value * (1 - 1e-9))


def _shown(value: float) -> str:
    return f"{value:.0f}" if value >= 10 or value == round(value) else f"{value:.2g}"
