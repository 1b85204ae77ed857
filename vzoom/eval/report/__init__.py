"""One self-contained HTML page about runs of benchmarks: figures beside the paper's, plots, and every trajectory.

Nothing is loaded from anywhere: style, script and pictures are in the page, and its content security policy forbids the
rest. Every text of a model, a question and a file name is escaped.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from string import Template

from vzoom.report.markup import escape

from .browser import browser_section
from .curves import coloured
from .load import Group, load_groups
from .plots import plots_section
from .tables import breakdown_section, compare_section, failures_section, headline_section, summary_text


def page(paths: Sequence[Path], *, roots: Sequence[Path] = (), most_items: int = 400, most_frames: int = 24) -> str:
    """The whole page. paths: runs. roots: where the benchmarks' videos are, for frames. most_items: trajectories of
    each benchmark; most_frames: how many of them with frames.

    ValueError for runs that cannot stand beside each other.
    """
    if most_items < 1 or most_frames < 0:
        raise ValueError(f"need most_items ≥ 1 and most_frames ≥ 0, got {most_items}, {most_frames}")
    groups = coloured(load_groups(paths))
    style = _asset("report.css") + _asset("eval.css")
    script = _asset("eval.js")
    return Template(_asset("eval.html")).substitute(
        title=escape(", ".join(group.title for group in groups)),
        style=style,
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        header=_header(groups),
        groups="".join(_group_section(group) for group in groups),
        browser=browser_section(groups, roots=roots, most_items=most_items, most_frames=most_frames),
    )


def _header(groups: Sequence[Group]) -> str:
    tiles = "".join(
        f'<div><dt><i class="dot {run.colour}"></i>{escape(run.name)}</dt><dd>{summary_text(run.figures)} '
        f"<small>{escape(group.title)}: {escape(run.how())}</small></dd></div>"
        for group in groups
        for run in group.runs
    )
    hashes = "; ".join(
        f"{run.name}: model {run.settings['model_hash']}, protocol {run.settings['protocol_hash']}, "
        f"seed {run.settings['seed']}"
        for group in groups
        for run in group.runs
    )
    return (
        f'<header><p class="brand"><b>vzoom</b> evaluation</p><h1>{escape(", ".join(g.title for g in groups))}</h1>'
        f'<dl class="figures runs">{tiles}</dl>'
        f'<details class="note"><summary>Hashes of models and protocols</summary>{escape(hashes)}</details></header>'
    )


def _group_section(group: Group) -> str:
    return (
        f'<section id="{escape(group.name)}" class="group"><h2>{escape(group.title)}</h2>{headline_section(group)}'
        f"{compare_section(group)}{plots_section(group)}{breakdown_section(group)}{failures_section(group)}</section>"
    )


def _asset(name: str) -> str:
    return (files("vzoom") / "assets" / name).read_text(encoding="utf-8")
