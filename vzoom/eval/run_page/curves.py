"""Runs that differ in one setting only belong to one curve: what more of it buys."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from .load import Group, LoadedRun

# Settings that do not make two runs incomparable.
_ASIDE = ("protocol_hash", "sessions", "block")


@dataclass(frozen=True)
class Knob:
    """One setting. title: of an axis. part, key: its place in a run's settings. policies: those that heed it."""

    title: str
    part: str
    key: str
    policies: tuple[str, ...]

    def value(self, run: LoadedRun) -> float:
        return float(run.settings[self.part][self.key])

    def is_set(self, settings: dict[str, Any]) -> bool:
        return settings["policy"]["name"] in self.policies and settings[self.part][self.key] is not None


_LOOKING = ("zoom", "gated", "early-stop")
KNOBS = (
    Knob("zooms allowed", "zoom", "max_zooms", _LOOKING),
    Knob("most frames of the glance", "zoom", "glance_max_frames", _LOOKING),
    Knob("budget of frames", "policy", "budget", ("uniform", *_LOOKING)),
    Knob("frames per second", "policy", "fps", ("uniform",)),
    Knob("confidence asked for", "policy", "confidence", ("gated", "early-stop")),
)


@dataclass(frozen=True)
class Curve:
    """Two runs or more, by the knob's value."""

    knob: Knob
    runs: tuple[LoadedRun, ...]

    @property
    def title(self) -> str:
        first, last = self.runs[0], self.runs[-1]
        policy = first.settings["policy"]["name"]
        return f"{policy}: {self.knob.title} {self.knob.value(first):g} to {self.knob.value(last):g}"

    @property
    def colour(self) -> str:
        """The colour of most of its runs, which other curves may share."""
        colours = [run.colour for run in self.runs]
        return max(set(colours), key=lambda colour: (colours.count(colour), colour))


def curves_of(runs: Sequence[LoadedRun]) -> list[Curve]:
    """The curves of the runs. A run may be on several: on one for each setting that varies."""
    curves: list[Curve] = []
    for knob in KNOBS:
        alike: dict[str, list[LoadedRun]] = {}
        for run in runs:
            if knob.is_set(run.settings):
                alike.setdefault(_rest(run.settings, knob), []).append(run)
        several = (sorted(members, key=knob.value) for members in alike.values())
        curves += [Curve(knob, tuple(m)) for m in several if knob.value(m[0]) < knob.value(m[-1])]
    return curves


def coloured(groups: Sequence[Group]) -> list[Group]:
    """The same with a colour per curve, and per run that is on no curve. A run on two curves has the first's."""
    series: dict[int, int] = {}
    count = 0
    for group in groups:
        curves = curves_of(group.runs)
        for run in group.runs:
            if run.number not in series:
                count += 1
                mine = next((curve.runs for curve in curves if run in curve.runs), (run,))
                series.update({one.number: count for one in mine if one.number not in series})
    return [replace(g, runs=tuple(replace(run, series=series[run.number]) for run in g.runs)) for g in groups]


def _rest(settings: dict[str, Any], knob: Knob) -> str:
    """All other settings that the policy heeds."""
    held = {key: dict(value) if isinstance(value, dict) else value for key, value in settings.items()}
    for other in KNOBS:
        if other == knob or settings["policy"]["name"] not in other.policies:
            held[other.part][other.key] = None
    return json.dumps({key: value for key, value in held.items() if key not in _ASIDE}, sort_keys=True)
