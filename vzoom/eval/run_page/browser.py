"""Every trajectory: the question, and side by side what each run made of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vzoom.protocol import LETTERS, Protocol
from vzoom.report import UNTAGGED, clock_text, count_text, escape, number_text, span_text, turn_markup, zoom_colour

from ..item import Item
from ..runs.store import PredictionRow
from ..scores.failures import MEANING, Failure
from .frames import find_video, frames_markup
from .load import Group, LoadedRun, story_of
from .pick import pick

_WIDTH = 1000  # units of a timeline's drawing
_MOST_MARKS = 4  # runs whose outcomes stand beside the question
_KEY = (
    "A question opens to what each run made of it. On the line of a video’s length: small marks are frames of the "
    "glance, bars are zooms, the green band is where the answer can be seen, if the benchmark says so."
)


def browser_section(groups: Sequence[Group], *, roots: Sequence[Path], most_items: int, most_frames: int) -> str:
    """Filters and items. most_items: of each benchmark; most_frames: of those, how many with frames."""
    items, notes = [], []
    for group in groups:
        shown = pick(group, most_items)
        with_frames = set(pick(group, most_frames)) & set(shown)
        if len(shown) < len(group.positions):
            notes.append(f"{len(shown)} of the {len(group.positions)} questions of {group.title} are on this page")
        missing = 0
        for position in shown:
            video = None
            if position in with_frames:
                video = find_video(_item(group, position), roots)
                missing += video is None
            items.append(_item_markup(group, position, video))
        if missing:
            notes.append(f"{count_text(missing, 'video')} of {group.title} not found: name their folder with --cache")
    note = f'<p class="note">{escape("; ".join(notes))}.</p>' if notes else ""
    return (
        f'<section id="browser" class="part"><h2>Trajectories</h2><p class="note">{_KEY}</p>{_filters(groups)}{note}'
        f'<p id="shown" class="note" role="status"></p><div id="items">{"".join(items)}</div></section>'
    )


def _filters(groups: Sequence[Group]) -> str:
    runs = [(str(run.number), run.name) for group in groups for run in group.runs]
    found = {kind for group in groups for run in group.runs for kind, n in run.figures.failures.items() if n}
    kinds = [(str(kind), MEANING[kind]) for kind in Failure if kind in found]
    categories = sorted({name for g in groups for run in g.runs for row in run.rows for name in row.item.categories})
    return (
        '<form id="filters" aria-label="Which trajectories are shown">'
        + _choice("run", "run", [("", "any run"), *runs])
        + _choice("failure", "outcome", [("", "any outcome"), *kinds])
        + _choice("category", "category", [("", "any category"), *((c, c) for c in categories)])
        + '<label>text <input name="text" type="search" autocomplete="off"></label>'
        '<label class="tick"><input name="differ" type="checkbox"> only where runs differ</label>'
        '<button type="reset">Show all</button></form>'
    )


def _choice(name: str, label: str, options: Sequence[tuple[str, str]]) -> str:
    inner = "".join(f'<option value="{escape(value)}">{escape(shown)}</option>' for value, shown in options)
    return f'<label>{label} <select name="{name}">{inner}</select></label>'


def _item(group: Group, position: int) -> Item:
    return next(run.by_position[position].item for run in group.runs if position in run.by_position)


def _item_markup(group: Group, position: int, video: Path | None) -> str:
    item = _item(group, position)
    rows = [(run, run.by_position[position]) for run in group.runs if position in run.by_position]
    outcomes = " ".join(f"{run.number}:{row.prediction.failure}" for run, row in rows)
    marks = "".join(_chip(run, row) for run, row in rows)
    if len(rows) > _MOST_MARKS:
        num_right = sum(row.prediction.failure == Failure.RIGHT for _, row in rows)
        marks = f'<span class="mark">right in {num_right} of {len(rows)} runs</span>'
    lead = item.question.strip().splitlines()[0]
    cells = "".join(_run_markup(run, row, video) for run, row in rows)
    differ = len({row.prediction.verdict for _, row in rows}) > 1
    return (
        f'<details class="item" id="{escape(group.name)}-{position}" data-outcomes="{outcomes}" '
        f'data-categories="{escape("|".join(item.categories))}"{" data-differ" if differ else ""}>'
        f'<summary><span class="lead" dir="auto">{escape(lead)} <small>{escape(item.id)}</small></span> '
        f'<span class="marks">{marks}</span></summary>'
        f'<div class="asked">{_question_markup(item)}</div><div class="sides">{cells}</div></details>'
    )


def _chip(run: LoadedRun, row: PredictionRow) -> str:
    kind = Failure(row.prediction.failure)
    state = (
        "good"
        if kind is Failure.RIGHT
        else "quiet"
        if kind in (Failure.UNJUDGED, Failure.NOT_ASKED, Failure.FAILED)
        else "bad"
    )
    return f'<span class="mark"><i class="dot {run.colour}"></i><span class="{state}">{MEANING[kind]}</span></span>'


def _question_markup(item: Item) -> str:
    listed = ""
    if item.reference is not None:
        told = item.reference
        if item.options:
            told = f"{told}: {item.options[LETTERS.index(told)]}"
        listed = f'<p class="reference" dir="auto">Right: <b>{escape(told)}</b></p>'
    facts = [item.id, item.video, item.category, item.duration_bucket]
    if item.evidence:
        facts.append("proved at " + ", ".join(span_text(a, b) for a, b in item.evidence))
    return (
        f'<p class="whole" dir="auto">{escape(item.question.strip())}</p>{listed}'
        f'<p class="note">{escape(" · ".join(filter(None, facts)))}</p>'
    )


def _run_markup(run: LoadedRun, row: PredictionRow, video: Path | None) -> str:
    told, story = row.prediction, story_of(row)
    head = f'<h4><i class="dot {run.colour}"></i>{escape(run.name)}</h4>'
    if story is None:
        return f'<div class="side">{head}<p class="note">Not asked: {escape(told.detail)}</p></div>'
    answer = "no answer" if told.answer is None else told.answer
    figures = [
        count_text(told.frames, "frame"),
        count_text(told.zooms, "zoom"),
        f"{number_text(told.tokens_prefilled)} tokens read, {number_text(told.tokens_sampled)} written",
        *([UNTAGGED] if story.get("answer_is_untagged") else []),
        *([f"confidence {told.confidence:.2f} after {told.conversations}"] if told.confidence >= 0 else []),
    ]
    turns = "".join(_turn(turn, run.protocol) for turn in story["turns"])
    return (
        f'<div class="side">{head}<p class="said" dir="auto">{escape(answer)} {_chip(run, row)}</p>'
        f'<p class="note">{escape(" · ".join([*figures, *filter(None, [told.detail])]))}</p>'
        f"{_timeline(story, row.item)}{turns}{frames_markup(story, video) if video else ''}</div>"
    )


def _turn(turn: dict[str, Any], protocol: Protocol) -> str:
    error = f'<p class="note refused">refused: {escape(turn["error"])}</p>' if turn["error"] else ""
    written = turn_markup(turn["text"], protocol) if turn["text"] else '<span class="tag">(nothing)</span>'
    return f'<div class="written" dir="auto">{written}</div>{error}'


def _timeline(story: dict[str, Any], item: Item) -> str:
    """Glance marks, the evidence, and a bar a zoom, on the length of the video."""
    duration = story["duration_seconds"]
    scale = _WIDTH / duration
    height = 14 + 10 * len(story["zooms"])
    parts = [
        f'<rect class="proof" x="{a * scale:.1f}" width="{max(3.0, (b - a) * scale):.1f}" height="{height}"/>'
        for a, b in item.evidence
    ]
    marks = "".join(f"M{t * scale:.1f} 1v9" for t in story["glance_seconds"])
    parts.append(f'<path class="tick" d="{marks}"/>')
    for number, zoom in enumerate(story["zooms"], 1):
        start, end = zoom["start_seconds"] * scale, zoom["end_seconds"] * scale
        parts.append(
            f'<rect class="zoom {zoom_colour(number)}" x="{start:.1f}" width="{max(3.0, end - start):.1f}" '
            f'y="{4 + 10 * number}" height="7"/>'
        )
    told = [f"{len(story['glance_seconds'])} glance frames over {clock_text(duration)}"]
    told += [f"zoom {n} at {span_text(z['start_seconds'], z['end_seconds'])}" for n, z in enumerate(story["zooms"], 1)]
    told += [f"evidence at {span_text(a, b)}" for a, b in item.evidence]
    label = escape("; ".join(told))
    return (
        f'<svg class="strip-line" viewBox="0 0 {_WIDTH} {height}" preserveAspectRatio="none" height="{height}" '
        f'role="img" aria-label="{label}"><title>{label}</title>{"".join(parts)}</svg>'
    )
