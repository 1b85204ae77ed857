"""One self-contained HTML page about runs of benchmarks: figures beside the paper's, plots, and every trajectory.

Nothing is loaded from anywhere: style, script and pictures are in the page, and its content security policy forbids the
rest. Every text of a model, a question and a file name is escaped.

This page is in `eval` and not in `report`, because it needs scores; the page of one answer must be above `zoomer`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vzoom.report import escape, shell

from .browser import browser_section
from .curves import coloured
from .load import Group, load_groups
from .plots import plots_section
from .tables import breakdown_section, compare_section, failures_section, headline_section, summary_text


def page(paths: Sequence[Path], *, roots: Sequence[Path] = (), most_items: int = 400, most_frames: int = 24) -> str:
    """The whole page, as HTML.

    Args:
        paths: folders of runs, or their files.
        roots: where the benchmarks' videos are, for frames.
        most_items: trajectories of each benchmark, at most.
        most_frames: how many of them with frames, at most.

    Raises:
        ValueError: a run is missing or named twice, or two of one benchmark are of different data.
    """
    if most_items < 1 or most_frames < 0:
        raise ValueError(f"need most_items ≥ 1 and most_frames ≥ 0, got {most_items}, {most_frames}")
    groups = coloured(load_groups(paths))
    sections = "".join(_group_section(group) for group in groups)
    browser = browser_section(groups, roots=roots, most_items=most_items, most_frames=most_frames)
    return shell(
        f"{_header(groups)}\n{sections}\n{browser}",
        title=", ".join(group.title for group in groups),
        skip=("browser", "Skip to the trajectories"),
        styles=("report.css", "eval.css"),
        script="eval.js",
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
