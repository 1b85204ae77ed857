"""Runs that differ in one setting: accuracy against frames, tokens and seconds, point by point.

`SWEEPS` says which there are. Each point is an ordinary run in a folder of its own, so a sweep is stopped, resumed and
shared as runs are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from .policy import Policy


@dataclass(frozen=True)
class Point:
    """One run of a sweep.

    Args:
        name: of its folder, unlike that of any point of another sweep.
        policy: of the run.
        zoom: changes to the model's own `ZoomConfig`.
    """

    name: str
    policy: Policy
    zoom: Mapping[str, int] = field(default_factory=dict)


_ZOOMS = (0, 1, 2, 3, 4)
_GLANCES = (8, 16, 32, 64)
_FRAMES = (8, 16, 32, 64, 128)
_RATES = (0.125, 0.25, 0.5, 1.0, 2.0)
_CONFIDENCES = (0.5, 0.8, 0.9, 0.95, 0.99)


def _listed(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values)


SWEEPS = {
    "zooms": f"{_listed(_ZOOMS)} zooms allowed, after the model's own glance",
    "glance": f"{_listed(_GLANCES)} frames of the glance at most, then zooms as the model likes",
    "frames": f"uniform, {_listed(_FRAMES)} frames",
    "fps": f"uniform, {_listed(_RATES)} frames per second, at most the budget",
    "gated": f"gated, confidence {_listed(_CONFIDENCES)}",
    "early-stop": f"early-stop, confidence {_listed(_CONFIDENCES)}",
}


def points_of(sweep: str, own: Policy) -> tuple[Point, ...]:
    """The runs of a sweep, the cheapest first.

    Args:
        sweep: one of `SWEEPS`.
        own: the policy that the command line names; its budget holds for every point of a sweep that sets none.

    Raises:
        ValueError: there is no such sweep.
    """
    zoom = Policy("zoom", budget=own.budget)
    if sweep == "zooms":
        return tuple(Point(f"zooms-{k}", zoom, {"max_zooms": k}) for k in _ZOOMS)
    if sweep == "glance":
        return tuple(Point(f"glance-{n}", zoom, {"glance_max_frames": n}) for n in _GLANCES)
    if sweep == "frames":
        return tuple(Point(f"frames-{n}", Policy("uniform", budget=n)) for n in _FRAMES)
    if sweep == "fps":
        return tuple(Point(f"fps-{rate:g}", Policy("uniform", budget=own.budget, fps=rate)) for rate in _RATES)
    if sweep == "gated":
        return tuple(Point(f"gated-{p:g}", replace(zoom, name="gated", confidence=p)) for p in _CONFIDENCES)
    if sweep == "early-stop":
        return tuple(Point(f"early-stop-{p:g}", replace(zoom, name="early-stop", confidence=p)) for p in _CONFIDENCES)
    raise ValueError(f"unknown sweep {sweep!r}: choose one of {', '.join(SWEEPS)}")
