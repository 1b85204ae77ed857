"""The headline beside the paper's rows, categories and duration buckets side by side, and why runs failed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from vzoom.report import escape, number_text

from ..scores.compare import Comparison, compare
from ..scores.failures import MEANING, Failure
from ..scores.figures import Figures
from ..scores.intervals import Estimate
from ..scores.scoring import Scores, Summary
from .load import Group, LoadedRun

_PAPER = {
    "base": "Qwen2.5-VL-7B, uniform frames (paper)",
    "videozoomer": "VideoZoomer-7B (paper)",
}
_MOST_NAMES = 60
_HEADLINE_NOTE = (
    "Accuracy in per cent of the questions with a verdict: an answer that is missing or names no option counts as not "
    "right, and is counted apart; a question without its video or without a verdict is left out. Where a benchmark’s "
    "authors report the mean of its categories, so does this table. Frames, zooms, tokens, operations and seconds are "
    "means over the questions asked; the conversations of a batch share their seconds."
)
_PAPER_NOTE = " The paper’s rows are those of arXiv 2512.22315, with its own frames and prompts."
_ALIKE_NOTE = " An interval without width says only that all questions came out alike: it is no proof of certainty."


def headline_section(group: Group) -> str:
    heads = ["run", "accuracy", "95 % interval", "scored", "unanswered", "unparsable", "unjudged", "no video", "failed"]
    heads += ["frames", "zooms", "tokens", "GFLOP", "KV MiB", "seconds"]
    rows = [_run_row(run) for run in group.runs]
    blank = "<td></td>" * (len(heads) - 2)
    rows += [
        f'<tr class="paper"><th scope="row">{escape(_PAPER.get(name, name))}</th>'
        f"<td><b>{percent:.1f}</b></td>{blank}</tr>"
        for name, percent in group.paper.items()
    ]
    estimates = [run.figures.accuracy for run in group.runs]
    alike = any(estimate is not None and estimate.low == estimate.high for estimate in estimates)
    note = _HEADLINE_NOTE + (_PAPER_NOTE if group.paper else "") + (_ALIKE_NOTE if alike else "")
    return (
        f'<section class="part headline"><h3>Headline</h3>{table("Runs and the rows of the paper", heads, rows)}'
        f'<p class="note">{note}</p></section>'
    )


def _run_row(run: LoadedRun) -> str:
    f = run.figures
    verdicts = f.scores.overall.counts
    cells = [
        *_estimate_cells(f.accuracy),
        *map(str, (f.scored, verdicts["unanswered"], verdicts["unparsable"], verdicts["unjudged"])),
        *map(str, (verdicts["missing_video"], verdicts["failed"])),
        f"{f.frames:.1f}",
        f"{f.zooms:.2f}",
        number_text(round(f.tokens)),
        f"{f.gflops:.3g}" if f.gflops < 1000 else number_text(round(f.gflops)),
        f"{f.kv_mib:.1f}",
        f"{f.seconds:.2f}",
    ]
    return (
        f'<tr><th scope="row"><i class="dot {run.colour}"></i>{escape(run.name)} '
        f"<small>{escape(run.how())} · {escape(str(run.settings['model']))}</small></th>"
        f"{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
    )


def _estimate_cells(estimate: Estimate | None) -> list[str]:
    if estimate is None:
        return ["–", ""]
    return [f"<b>{100 * estimate.mean:.1f}</b>", f"{100 * estimate.low:.1f} – {100 * estimate.high:.1f}"]


def compare_section(group: Group) -> str:
    """Every run against the first, question by question; "" if there is one run, or no pair."""
    first, rows = group.runs[0], []
    for run in group.runs[1:]:
        shared = {o.id for o in first.verdicts if o.is_scored} & {o.id for o in run.verdicts if o.is_scored}
        if shared:
            rows.append(_compare_row(run, compare(first.verdicts, run.verdicts)))
    if not rows:
        return ""
    heads = [f"against {first.name}", "difference", "95 % interval", "p (McNemar)", "pairs"]
    heads += ["right in both", "only here", f"only in {first.name}", "in neither"]
    return (
        f'<section class="part"><h3>Question by question</h3>{table("Paired comparison of runs", heads, rows)}'
        '<p class="note">Differences in points of a hundred, over the questions that both runs have a verdict on; '
        "McNemar’s exact test, two-sided.</p></section>"
    )


def _compare_row(run: LoadedRun, found: Comparison) -> str:
    d = found.difference
    cells = [
        f"<b>{100 * d.mean:+.1f}</b>",
        f"{100 * d.low:+.1f} to {100 * d.high:+.1f}",
        f"{found.p_value:.2g}",
        *map(str, (found.num_pairs, found.both_right, found.only_second, found.only_first, found.neither_right)),
    ]
    head = f'<th scope="row"><i class="dot {run.colour}"></i>{escape(run.name)}</th>'
    return f"<tr>{head}{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


_VIEWS: tuple[tuple[str, Callable[[Scores], Mapping[str, Summary]]], ...] = (
    ("category", lambda scores: scores.by_category),
    ("duration", lambda scores: scores.by_duration),
)


def breakdown_section(group: Group) -> str:
    """By category and by duration, if there is more than one of them."""
    parts = []
    for title, view in _VIEWS:
        found = [view(run.figures.scores) for run in group.runs]
        names = sorted(set().union(*found))
        if len(names) > 1:
            rows = [_breakdown_row(group, name, [summaries.get(name) for summaries in found]) for name in names]
            note = f'<p class="note">The first {_MOST_NAMES} of {len(names)}.</p>'
            left_out = note if len(names) > _MOST_NAMES else ""
            heads = [title, "questions", *(run.name for run in group.runs)]
            parts.append(table(f"Accuracy by {title}", heads, rows[:_MOST_NAMES]) + left_out)
    if not parts:
        return ""
    return f'<section class="part"><h3>By category and duration</h3>{"".join(parts)}</section>'


def _breakdown_row(group: Group, name: str, found: Sequence[Summary | None]) -> str:
    most = max(summary.num_items for summary in found if summary)
    cells = "".join(_bar(run, summary) for run, summary in zip(group.runs, found, strict=True))
    return f'<tr><th scope="row">{escape(name)}</th><td>{most}</td>{cells}</tr>'


def _bar(run: LoadedRun, summary: Summary | None) -> str:
    if summary is None or summary.accuracy is None:
        return '<td class="share">–</td>'
    estimate = summary.accuracy
    percent = 100 * estimate.mean
    title = f"95 % interval {100 * estimate.low:.1f} to {100 * estimate.high:.1f}, {summary.num_scored} scored"
    return (
        f'<td class="share" title="{title}"><span class="{run.colour}"><i style="width:{percent:.1f}%"></i></span>'
        f"{percent:.1f}</td>"
    )


def failures_section(group: Group) -> str:
    """Counts of what became of the questions; each leads to its trajectories."""
    kinds = [k for k in Failure if any(run.figures.failures[k] for run in group.runs)]
    rows = []
    for kind in kinds:
        cells = "".join(_count_cell(run, kind) for run in group.runs)
        rows.append(f'<tr><th scope="row">{MEANING[kind]}</th>{cells}</tr>')
    return (
        f'<section class="part"><h3>Why it was right or wrong</h3>'
        f"{table('Outcomes by run', ['outcome', *(run.name for run in group.runs)], rows)}"
        '<p class="note">“Saw it and misread” and “zoomed elsewhere” need the seconds that prove the answer; where a '
        "benchmark does not give them, a wrong answer after a zoom is “zoomed, and still wrong”. A count leads to its "
        "trajectories.</p></section>"
    )


def _count_cell(run: LoadedRun, kind: Failure) -> str:
    count = run.figures.failures[kind]
    if not count:
        return '<td class="share">0</td>'
    percent = 100 * count / run.figures.total
    label = escape(f"{count} of {run.name}: {MEANING[kind]}. Show them")
    return (
        f'<td class="share"><span class="{run.colour}"><i style="width:{percent:.1f}%"></i></span>'
        f'<a href="#browser" data-run="{run.number}" data-failure="{kind}" aria-label="{label}">{count}</a></td>'
    )


def table(label: str, heads: Sequence[str], rows: Sequence[str]) -> str:
    head = "".join(f'<th scope="col">{escape(h)}</th>' for h in heads)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def summary_text(figures: Figures) -> str:
    """`99.0 % of 400`."""
    if figures.accuracy is None:
        return "no verdict"
    return f"{100 * figures.accuracy.mean:.1f} % of {figures.scored}"
