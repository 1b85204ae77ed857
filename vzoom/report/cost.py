"""What the answer cost: tokens and milliseconds of each turn, as lines, as bars and as a table.

A turn is opened by feeding something (the prompt with the glance, a clip, an error text), then written. All stages
but "generate" belong to the opening.
"""

from __future__ import annotations

from ..types import STAGES, Answer, CallError, Malformed, Trajectory, Turn
from .markup import count_text, escape, milliseconds_text, number_text

_WRITING = STAGES[-1]


def opening_line(turn: Turn) -> str:
    """Tokens and milliseconds of what opened `turn`."""
    stages = {stage: ms for stage, ms in turn.milliseconds.items() if stage != _WRITING}
    reused = [f"{number_text(turn.num_reused)} of them reused, approximate"] if turn.num_reused else []
    spent = [f"{k} {milliseconds_text(v)}" for k, v in stages.items()]
    return _line([f"read {count_text(turn.num_prefilled, 'token')}", *reused, *spent])


def writing_line(turn: Turn) -> str:
    """Tokens and milliseconds of what the model wrote in `turn`."""
    parts = [f"wrote {count_text(turn.num_sampled, 'token')}"]
    if _WRITING in turn.milliseconds:
        parts.append(milliseconds_text(turn.milliseconds[_WRITING]))
    return _line(parts)


def _line(parts: list[str]) -> str:
    return '<p class="stages">' + " \u00b7 ".join(f"<span>{escape(part)}</span>" for part in parts) + "</p>"


def cost_section(trajectory: Trajectory, *, seconds: float) -> str:
    """Bars and table, or nothing if no turn was timed."""
    stages = _stages(trajectory)
    if not stages:
        return ""
    names = _turn_names(trajectory)
    return (
        '<section class="cost" id="cost"><h2>Tokens and time</h2>'
        f"{_plot(trajectory, names, stages)}{_table(trajectory, names, stages)}"
        f'<p class="note">Milliseconds of each stage. Wall time in all: {seconds:.2f} s.</p></section>'
    )


def _stages(trajectory: Trajectory) -> list[str]:
    seen = [key for turn in trajectory.turns for key in turn.milliseconds]
    return [s for s in STAGES if s in seen] + sorted(set(seen) - set(STAGES))


def _turn_names(trajectory: Trajectory) -> list[str]:
    """What was read in each turn and what came of it: `glance → zoom 1`."""
    names, zooms, read = [], 0, "glance"
    for turn in trajectory.turns:
        brought = ""
        if turn.pts_seconds:
            zooms += 1
            wrote, brought = f"zoom {zooms}", f"clip {zooms}"
        elif isinstance(turn.outcome, Answer):
            wrote = "answer"
        elif isinstance(turn.outcome, Malformed) and turn.outcome.error is CallError.FRAME_ASKED:
            wrote, brought = "asked", "frame number"
        elif isinstance(turn.outcome, Malformed):
            wrote, brought = "refused", "error"
        else:
            wrote = "unfinished"
        names.append(f"{read} \u2192 {wrote}")
        read = brought
    return names


def _stage_class(stages: list[str], stage: str) -> str:
    return f"s{stages.index(stage) % 6 + 1}"


def _plot(trajectory: Trajectory, names: list[str], stages: list[str]) -> str:
    longest = max(sum(turn.milliseconds.values()) for turn in trajectory.turns) or 1.0
    legend = "".join(f'<li><i class="{_stage_class(stages, s)}"></i>{escape(s)}</li>' for s in stages)
    rows = []
    for name, turn in zip(names, trajectory.turns, strict=True):
        total = sum(turn.milliseconds.values())
        bars = "".join(
            f'<i class="{_stage_class(stages, s)}" style="width:{100 * turn.milliseconds[s] / longest:.2f}%" '
            f'title="{escape(name)}, {escape(s)}: {milliseconds_text(turn.milliseconds[s])}"></i>'
            for s in stages
            if turn.milliseconds.get(s)
        )
        rows.append(f'<li><span>{name}</span><span class="bar">{bars}</span><b>{milliseconds_text(total)}</b></li>')
    # The table below says the same to those who do not see the bars.
    return (
        f'<ul class="legend" aria-hidden="true">{legend}</ul><ul class="bars" aria-hidden="true">{"".join(rows)}</ul>'
    )


def _table(trajectory: Trajectory, names: list[str], stages: list[str]) -> str:
    turns = trajectory.turns
    heads = ["turn", "tokens read", "written", *stages, "sum"]
    head = "".join(f'<th scope="col">{escape(h)}</th>' for h in heads)
    body = "".join(
        _row(name, turn.num_prefilled, turn.num_sampled, turn.milliseconds, stages)
        for name, turn in zip(names, turns, strict=True)
    )
    sums = {s: sum(turn.milliseconds.get(s, 0.0) for turn in turns) for s in stages}
    read, written = sum(turn.num_prefilled for turn in turns), sum(turn.num_sampled for turn in turns)
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Tokens and milliseconds of each turn"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
        f"<tfoot>{_row('in all', read, written, sums, stages)}</tfoot></table></div>"
    )


def _row(name: str, read: int, written: int, milliseconds: dict[str, float], stages: list[str]) -> str:
    times = [milliseconds.get(s) for s in stages]
    cells = [f"{read}", f"{written}", *("" if t is None else f"{t:.1f}" for t in times)]
    cells.append(f"{sum(milliseconds.values()):.1f}")
    return f'<tr><th scope="row">{escape(name)}</th>{"".join(f"<td>{c}</td>" for c in cells)}</tr>'
