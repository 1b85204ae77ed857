"""A compact card about one answer, for notebooks: question, answer, and where in the video the model looked.

A notebook may drop styles, scripts and links, so every style is inline and pictures are data URLs. Nothing is loaded
from anywhere, and foreign text is escaped.
"""

from __future__ import annotations

from ..types import Trajectory
from .markup import clock_text, count_text, escape, picture, span_text, video_name
from .report import Answered
from .steps import UNTAGGED, stop_text
from .timeline import NUM_COLOURS, strip_frames, zoom_places

_PICTURES = 8
_PICTURE_SIDE_PIXELS = 80
_ZOOM_COLOURS = ("#3b6fe0", "#c2710c", "#b032bd", "#0a8f68", "#d1335a", "#7a4fd0")  # on light and dark notebooks
_TRACK_PIXELS = 16

assert len(_ZOOM_COLOURS) == NUM_COLOURS


def answer_card(result: Answered) -> str:
    """The card as an HTML fragment of a few tens of kilobytes."""
    trajectory = result.trajectory
    if trajectory.answer is not None:
        answer = escape(trajectory.answer)
        if trajectory.answer_is_untagged:
            answer += f' <small style="font-weight:400">{UNTAGGED}</small>'
    else:
        answer = f'no answer <small style="font-weight:400">{escape(stop_text(trajectory)[1])}</small>'
    return (
        '<div class="vzoom-card" style="max-width:640px;padding:12px 16px;border:1px solid #8886;border-radius:10px;'
        'font:14px/1.5 system-ui,sans-serif">'
        '<div dir="auto" style="opacity:.75;white-space:pre-line;overflow-wrap:anywhere">'
        f"{escape(trajectory.question.strip())}</div>"
        '<div dir="auto" style="margin:4px 0 10px;font-size:1.25em;font-weight:600;overflow-wrap:anywhere">'
        f"{answer}</div>"
        f"{_strip(result)}{_track(trajectory)}{_facts(result)}{_warnings(result)}</div>"
    )


def _strip(result: Answered) -> str:
    if not result.glance:
        return ""
    count = min(_PICTURES, len(result.glance))
    frames = strip_frames(result.glance, result.trajectory.video.duration_seconds, count)
    cells = "".join(
        '<span style="flex:1 1 0;min-width:0;overflow:hidden">'
        f"{picture(frame, max_side_pixels=_PICTURE_SIDE_PIXELS)}</span>"
        for frame in frames
    )
    return f'<div aria-hidden="true" style="display:flex;overflow:hidden;border-radius:6px">{cells}</div>'


def _track(trajectory: Trajectory) -> str:
    """The video as a line: a tick per glance frame, a bar per zoom."""
    duration, middle = trajectory.video.duration_seconds, _TRACK_PIXELS // 2
    ticks = "".join(
        f'<line x1="{100 * t / duration:.3f}%" x2="{100 * t / duration:.3f}%" y1="{middle - 3}" y2="{middle + 3}" '
        'stroke="currentColor" stroke-opacity=".45"/>'
        for t in trajectory.glance_seconds
    )
    bars = "".join(
        f'<rect x="{start:.3f}%" width="{max(width, 0.6):.3f}%" y="2" height="{_TRACK_PIXELS - 4}" rx="3" '
        f'fill="{_ZOOM_COLOURS[i % NUM_COLOURS]}"><title>Zoom {i + 1}: {span_text(*span)}</title></rect>'
        for i, ((start, width), span) in enumerate(zip(zoom_places(trajectory), trajectory.zoom_spans, strict=True))
    )
    return (
        f'<svg width="100%" height="{_TRACK_PIXELS}" role="img" aria-label="Glance and zooms in the video" '
        f'style="display:block;margin-top:4px"><line x2="100%" y1="{middle}" y2="{middle}" stroke="currentColor" '
        f'stroke-opacity=".3"/>{ticks}{bars}</svg>'
    )


def _warnings(result: Answered) -> str:
    style = "margin-top:4px;font-size:.86em;font-weight:600;overflow-wrap:anywhere"
    return "".join(f'<div style="{style}">Warning: {escape(text)}</div>' for text in result.warnings)


def _facts(result: Answered) -> str:
    trajectory = result.trajectory
    spans = ", ".join(span_text(*span) for span in trajectory.zoom_spans)
    facts = [
        f"{count_text(len(trajectory.zooms), 'zoom')}{': ' if spans else ''}{spans}",
        count_text(trajectory.num_frames, "frame"),
        stop_text(trajectory)[0],
        f"{result.seconds:.1f} s",
        f"{video_name(trajectory.video.path)} ({clock_text(trajectory.video.duration_seconds)})",
        result.model,
    ]
    text = " · ".join(map(escape, facts))
    return f'<div style="margin-top:4px;font-size:.86em;opacity:.75;overflow-wrap:anywhere">{text}</div>'
