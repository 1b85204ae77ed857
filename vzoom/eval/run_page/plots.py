"""Accuracy against what it costs, as inline SVG: a point per run with its 95 % interval, a line
through runs that differ in one setting, the paper's rows as broken lines."""

from __future__ import annotations

import math
from collections.abc import Callable

from vzoom.report import escape

from ..scores.figures import Figures
from .curves import KNOBS, Curve, curves_of
from .load import Group, LoadedRun

_WIDTH, _HEIGHT = 380, 264
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 18, 34, 44

_CURVES_NOTE = "A line joins runs that differ in one setting alone; its points are labelled with that setting."

Value = Callable[[LoadedRun], float]
Place = tuple[float, float, float]  # of a label: left, right, base line
_AXES: tuple[tuple[str, Value], ...] = (
    ("frames seen", lambda run: run.figures.frames),
    ("tokens of a conversation", lambda run: run.figures.tokens),
    ("seconds of a conversation", lambda run: run.figures.seconds),
    ("zooms made", lambda run: run.figures.zooms),
)


def plots_section(group: Group) -> str:
    """What each run cost, then a plot for each setting that runs differ in; "" if no run has an accuracy."""
    runs = [run for run in group.runs if run.figures.accuracy is not None]
    if not runs:
        return ""
    curves = curves_of(runs)
    plots = [_plot(group, runs, curves, title, value) for title, value in _AXES]
    for knob in KNOBS:
        mine = [curve for curve in curves if curve.knob == knob]
        if mine:
            members = [run for run in runs if any(run in curve.runs for curve in mine)]
            plots.append(_plot(group, members, mine, knob.title, knob.value))
    names = "".join(
        f'<li><i class="dot {curve.colour}"></i>{escape(curve.title)} '
        f"<small>{escape(', '.join(run.name for run in curve.runs))}</small></li>"
        for curve in curves
    )
    legend = f'<ul class="legend">{names}</ul>' if names else ""
    return (
        f'<section class="part"><h3>Accuracy against what it costs</h3>{legend}<div class="plots">{"".join(plots)}'
        f'</div><p class="note">Bars are 95 % intervals. {_CURVES_NOTE if curves else ""}</p></section>'
    )


def _plot(group: Group, runs: list[LoadedRun], curves: list[Curve], title: str, value: Value) -> str:
    top = nice_ceiling(max(map(value, runs)))

    def x(v: float) -> float:
        return _LEFT + v / top * (_WIDTH - _LEFT - _RIGHT)

    parts = [_axes(x, top, title)]
    taken: list[Place] = []
    for name, percent in group.paper.items():
        height = y(percent / 100)
        label = height - 4 if percent == max(group.paper.values()) else height + 12  # two rows keep apart
        parts.append(
            f'<line class="paper" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{height:.1f}" y2="{height:.1f}"/>'
            f'<text class="axis" x="{_LEFT + 4}" y="{label:.1f}">{escape(name)}, paper</text>'
        )
        taken.append((_LEFT, _LEFT + 4 + 7.0 * len(f"{name}, paper"), label))
    for curve in curves:
        line = " ".join(f"{x(value(run)):.1f},{y(_accuracy(run)):.1f}" for run in curve.runs)
        parts.append(f'<g class="{curve.colour}"><polyline class="family" points="{line}"/></g>')
    parts += _points(runs, curves, value, x, taken)
    told = "; ".join(f"{run.name}: {_shown(value(run))}, {percent_text(run.figures)}" for run in runs)
    return (
        f'<figure><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{escape(f"Accuracy against {title}. {told}")}">'
        f'<text class="title" x="0" y="14">Accuracy against {title}</text>{"".join(parts)}</svg></figure>'
    )


def _axes(x: Callable[[float], float], top: float, title: str) -> str:
    parts = []
    for i in range(5):
        height, place = y(i / 4), x(top * i / 4)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{height:.1f}" y2="{height:.1f}"/>')
        parts.append(f'<text class="axis" x="{_LEFT - 6}" y="{height + 4:.1f}" text-anchor="end">{25 * i} %</text>')
        anchor = "end" if i == 4 else "middle"
        parts.append(
            f'<text class="axis" x="{place:.1f}" y="{_HEIGHT - 24}" text-anchor="{anchor}">{_shown(top * i / 4)}</text>'
        )
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    return "".join(parts) + f'<text class="axis" x="{middle}" y="{_HEIGHT - 6}" text-anchor="middle">{title}</text>'


def _points(
    runs: list[LoadedRun], curves: list[Curve], value: Value, x: Callable[[float], float], taken: list[Place]
) -> list[str]:
    """A run of a curve is labelled with its setting, another with its name; a label that would cover one is lower."""
    parts = []
    for (place, height), (colour, name) in _labels(runs, curves, value, x).items():
        width = 7.0 * len(name)
        is_right = place + 9 + width > _WIDTH
        left = place - 9 - width if is_right else place + 9
        label = height + 4
        while any(abs(label - v) < 12 and left < end and start < left + width for start, end, v in taken):
            label += 12
        taken.append((left, left + width, label))
        parts.append(
            f'<g class="{colour}"><text class="name" x="{place + (-9 if is_right else 9):.1f}" y="{label:.1f}" '
            f'text-anchor="{"end" if is_right else "start"}">{escape(name)}</text></g>'
        )
    for run in runs:
        estimate = run.figures.accuracy
        assert estimate is not None
        place, height = x(value(run)), y(estimate.mean)
        parts.append(
            f'<g class="{run.colour}"><line class="whisker" x1="{place:.1f}" x2="{place:.1f}" '
            f'y1="{y(estimate.low):.1f}" y2="{y(estimate.high):.1f}"/>'
            f'<circle class="dot" cx="{place:.1f}" cy="{height:.1f}" r="4.5"/></g>'
        )
    return parts


def _labels(
    runs: list[LoadedRun], curves: list[Curve], value: Value, x: Callable[[float], float]
) -> dict[tuple[float, float], tuple[str, str]]:
    """The place of each label, its colour and what it says; points in one place share a label."""
    found: dict[tuple[float, float], tuple[str, list[str]]] = {}
    for run in runs:
        curve = next((curve for curve in curves if run in curve.runs), None)
        name = f"{curve.knob.value(run):g}" if curve else run.name
        _, names = found.setdefault((round(x(value(run))), round(y(_accuracy(run)))), (run.colour, []))
        if name not in names:
            names.append(name)
    return {place: (colour, ", ".join(names)) for place, (colour, names) in found.items()}


def _accuracy(run: LoadedRun) -> float:
    assert run.figures.accuracy is not None
    return run.figures.accuracy.mean


def y(share: float) -> float:
    """The height of an accuracy, in units of the drawing."""
    return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)


def percent_text(figures: Figures) -> str:
    """The accuracy in percent, or that there is none."""
    return "no verdict" if figures.accuracy is None else f"{100 * figures.accuracy.mean:.1f} %"


def nice_ceiling(value: float) -> float:
    """The next of a few numbers, whose quarters are short, times a power of ten; 1 for 0."""
    if value <= 0:
        return 1.0
    scale = 10.0 ** math.floor(math.log10(value))
    return next(
        step * scale for step in (1, 1.2, 1.6, 2, 2.4, 3.2, 4, 5, 6, 8, 10) if step * scale >= value * (1 - 1e-9)
    )


def _shown(value: float) -> str:
    return f"{value:.0f}" if value >= 10 or value == round(value) else f"{value:.2g}"
