"""What happened, in order: the summary, the glance, then one section per turn of the model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import zip_longest

from ..config import ZoomConfig
from ..protocol import feedback
from ..types import Answer, CallError, Clip, Malformed, StopReason, Trajectory, Turn, ZoomCall
from .cost import opening_line, writing_line
from .markup import count_text, escape, number_text, picture, seconds_text, span_text, turn_markup, video_name
from .timeline import zoom_colour

_GLANCE_SIDE_PIXELS = 192
_ZOOM_SIDE_PIXELS = 384
_OPEN_GLANCE_FRAMES = 32  # a longer glance is folded away

_STOPPED = {
    StopReason.ANSWERED: ("answered", "The model gave an answer."),
    StopReason.ROUNDS: ("out of rounds", "The last round ended without an answer."),
    StopReason.TURN_TOKENS: ("turn too long", "A turn reached its limit of new tokens before an answer."),
    StopReason.TOTAL_TOKENS: ("out of tokens", "The conversation reached its limit of tokens before an answer."),
    StopReason.CANCELLED: ("cancelled", "The conversation was stopped before an answer."),
}


UNTAGGED = "without tags: this model was not trained for them"


def stop_text(trajectory: Trajectory) -> tuple[str, str]:
    """Why the conversation ended, in a word or two and in a sentence."""
    if trajectory.stop_reason is None:
        return "unfinished", "The conversation has not ended."
    return _STOPPED[trajectory.stop_reason]


def summary_section(trajectory: Trajectory, *, model: str, seconds: float, warnings: Sequence[str] = ()) -> str:
    """Question, answer, stop reason and the figures of the whole conversation."""
    video = trajectory.video
    stop, why = stop_text(trajectory)
    state = "good" if trajectory.stop_reason is StopReason.ANSWERED else "bad"
    if trajectory.answer is not None:
        more = _option_text(trajectory) + (f" <small>{UNTAGGED}</small>" if trajectory.answer_is_untagged else "")
        answer = f'<p class="answer" dir="auto">{escape(trajectory.answer)}{more}</p>'
    else:
        answer = f'<p class="answer none">no answer <small>{why}</small></p>'
    notes = "".join(f'<p class="note">{escape(said)}</p>' for said in video.notes)
    lead, _, rest = trajectory.question.strip().partition("\n")
    more = f'<p class="more" dir="auto">{escape(rest)}</p>' if rest else ""
    told = "".join(f'<p class="note" role="alert">Warning: {escape(text)}</p>' for text in warnings)
    return (
        f'<header><p class="brand"><b>vzoom</b> <span class="chip {state}" title="{why}">{stop}</span></p>'
        f'<h1 dir="auto">{escape(lead)}</h1>{more}'
        f'<div class="outcome"><h2 class="eyebrow">Answer</h2>{answer}</div>{_figures(trajectory, seconds)}'
        f'<p class="source"><span class="file">{escape(video_name(video.path))}</span> '
        f"<span>{video.width}\u00d7{video.height}</span> <span>{video.fps:.4g} fps</span> "
        f'<span>{seconds_text(video.duration_seconds)}</span> <span class="name">model {escape(model)}</span> '
        f'<span class="name">protocol {escape(trajectory.protocol)}</span></p>{told}{notes}</header>'
    )


def _figures(trajectory: Trajectory, seconds: float) -> str:
    read = sum(turn.num_prefilled for turn in trajectory.turns)
    written = sum(turn.num_sampled for turn in trajectory.turns)
    in_file = round(trajectory.video.duration_seconds * trajectory.video.fps)
    figures = [
        (str(len(trajectory.zooms)), "zoom" if len(trajectory.zooms) == 1 else "zooms", ""),
        (str(trajectory.num_frames), "frames seen", f"of {number_text(in_file)} in the file"),
        (number_text(read), "tokens read", f"{number_text(written)} written"),
        (f"{seconds:.1f} s", "in all", ""),
    ]
    tiles = "".join(
        f"<div><dt>{name}</dt><dd>{value} <small>{note}</small></dd></div>" for value, name, note in figures
    )
    return f'<dl class="figures">{tiles}</dl>'


def _option_text(trajectory: Trajectory) -> str:
    """The option that an answer of one letter names, from the question's list of options."""
    letter = (trajectory.answer or "").strip(" ().:")
    if len(letter) != 1:
        return ""
    option = re.search(rf"^\(?{re.escape(letter)}[).:]\s*(\S.*)$", trajectory.question, re.MULTILINE)
    return f" <small>{escape(option.group(1))}</small>" if option else ""


def glance_section(trajectory: Trajectory, glance: Clip | None) -> str:
    """The frames that the model saw before it wrote a word; "" in a protocol without a glance."""
    if glance is None:
        return ""
    every = ""
    if len(glance) > 1:
        every = f", one every {(glance.pts_seconds[-1] - glance.pts_seconds[0]) / (len(glance) - 1):.2f} s"
    kind = "keyframe" if trajectory.glance == "keyframe" else "frame"
    opened = " open" if len(glance) <= _OPEN_GLANCE_FRAMES else ""
    cost = opening_line(trajectory.turns[0]) if trajectory.turns else ""
    height, width = glance.frames.shape[1:3]
    return (
        f'<section class="step" id="glance"><h2><span class="badge">G</span>Glance '
        f'<small>{count_text(len(glance), kind)}{every}</small></h2><div class="body">'
        f"<details{opened}><summary>Frames of the whole video, {width}\u00d7{height} pixels</summary>"
        f"{_frames(glance, 'Glance', max_side_pixels=_GLANCE_SIDE_PIXELS)}</details>{cost}</div></section>"
    )


def turn_sections(trajectory: Trajectory, clips: Sequence[Clip], config: ZoomConfig) -> str:
    """One section per turn, and one per further call of a turn: what the model wrote, what it got back, and what
    reading that cost.

    Args:
        trajectory: the conversation.
        clips: what each turn that zoomed brought.
        config: the settings that it was held under.
    """
    sections, number, brought = [], 0, iter(clips)
    for at, (turn, following) in enumerate(zip_longest(trajectory.turns, trajectory.turns[1:])):
        cost = opening_line(following) if following else ""
        if not turn.pts_seconds:
            left = config.max_zooms - 1 - at
            sections.append(_other_section(trajectory, turn, cost, config, zooms_left=left))
            continue
        clip, first = next(brought), 0
        for nth, (call, times) in enumerate(turn.clips):
            number += 1
            own = clip.part(first, len(times))
            first += len(times)
            is_last = first == len(clip)
            sections.append(
                _zoom_section(trajectory, turn if nth == 0 else None, call, own, number, cost * is_last, config)
            )
    return "".join(sections)


def _zoom_section(
    trajectory: Trajectory, turn: Turn | None, call: ZoomCall, clip: Clip, number: int, cost: str, config: ZoomConfig
) -> str:
    """What a call brought, after the turn that made it; turn None if that was shown before."""
    title, end_seconds = f"Zoom {number}", min(call.end_seconds, trajectory.video.duration_seconds)
    span = span_text(call.start_seconds, end_seconds)
    clamped = ""
    if end_seconds < call.end_seconds:
        clamped = f'<p class="note">Asked to {seconds_text(call.end_seconds)}; the video ends before.</p>'
    return _section(
        turn,
        config,
        f'id="zoom-{number}" class="step {zoom_colour(number)}"',
        f'<span class="badge">{number}</span>{title} <span class="times">{span}</span> '
        f"<small>{count_text(len(clip), 'frame')} at {call.fps:g} fps</small>",
        clamped + _frames(clip, title, max_side_pixels=_ZOOM_SIDE_PIXELS) + cost,
    )


def _other_section(trajectory: Trajectory, turn: Turn, cost: str, config: ZoomConfig, *, zooms_left: int) -> str:
    outcome = turn.outcome
    if isinstance(outcome, Answer):
        return _section(turn, config, 'id="answer" class="step final"', '<span class="badge">A</span>Answer', "")
    if isinstance(outcome, Malformed):
        question, video = trajectory.question, trajectory.video
        back = feedback(outcome, video, config, question=question, zooms_left=zooms_left)
        asked = outcome.error is CallError.FRAME_ASKED
        title = '<span class="badge">?</span>Asked' if asked else '<span class="badge">!</span>Not carried out'
        return _section(
            turn,
            config,
            'class="step"' if asked else 'class="step refused"',
            f"{title} <small>{escape(str(outcome.error))}</small>",
            # If no turn follows, nothing was sent back.
            f'<p class="note" dir="auto">Sent back: {escape(back.strip())}</p>{cost}' if cost else "",
        )
    return _section(turn, config, 'class="step refused"', '<span class="badge">?</span>Unfinished', "")


def _section(turn: Turn | None, config: ZoomConfig, attributes: str, title: str, below: str) -> str:
    said = ""
    if turn is not None:
        written = turn_markup(turn.text, config.protocol) if turn.text else '<span class="tag">(nothing)</span>'
        said = f'<div class="written" dir="auto">{written}</div>{writing_line(turn)}'
    return f'<section {attributes}><h2>{title}</h2><div class="body">{said}{below}</div></section>'


def _frames(clip: Clip, title: str, *, max_side_pixels: int) -> str:
    items = []
    for i, (frame, seconds, clamped) in enumerate(zip(clip.images, clip.pts_seconds, clip.clamped, strict=True)):
        note = " (last frame)" if clamped else ""
        caption = f"{title}, frame {i + 1} of {len(clip)} at {seconds_text(seconds)}{note}"
        items.append(
            f'<li><button class="frame" type="button" aria-label="{caption}">'
            f"{picture(frame, max_side_pixels=max_side_pixels)}</button><span>{seconds_text(seconds)}{note}</span></li>"
        )
    return f'<ul class="frames">{"".join(items)}</ul>'
