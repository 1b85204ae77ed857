"""Runs that differ in one setting: accuracy against frames, tokens and seconds, point by point.

    zooms        zooms allowed, none to four, after the model's own glance
    glance       most frames of the glance, then zooms as the model likes
    frames       uniform frames, no zooms
    fps          uniform frames at a fixed rate, at most the budget
    gated        the glance alone, and zooms if the confidence is below a bound
    early-stop   one more zoom allowed each time, until the confidence reaches a bound

Each point is an ordinary run in a folder of its own, so a sweep is stopped, resumed and shared as runs are.
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

SWEEPS = ("zooms", "glance", "frames", "fps", "gated", "early-stop")


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
