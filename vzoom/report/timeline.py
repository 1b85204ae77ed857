"""The video from end to end: a film strip of the glance, its marks, and one lane for each zoom.

The drawing is SVG with horizontal places in percent and no viewBox, so it fills any width and its text keeps its size.
"""

from __future__ import annotations

import numpy as np

from ..types import Clip, Trajectory
from .markup import clock_text, escape, nice_step, picture, seconds_text, span_text

_STRIP_PICTURES = 12
_STRIP_SIDE_PIXELS = 160
_LANE_PIXELS = 26
_GLANCE_PIXELS = 22
_AXIS_PIXELS = 24
_MAX_AXIS_STEPS = 5  # as many labels as a phone has room for
NUM_COLOURS = 6


def zoom_colour(number: int) -> str:
    """The CSS class that holds the colour of zoom `number`, from 1."""
    return f"z{(number - 1) % NUM_COLOURS + 1}"


def timeline_figure(trajectory: Trajectory, glance: Clip | None) -> str:
    """The figure; hovering, focusing or tapping a mark puts its times into the line below."""
    return (
        '<figure class="timeline" aria-label="Timeline of the video">'
        f"{_strip(trajectory, glance)}{_drawing(trajectory)}"
        '<p id="readout" class="readout" aria-live="polite">'
        '<span class="key"><svg width="10" height="14"><line x1="5" x2="5" y2="14" class="tick"/></svg>'
        " glance frame</span> "
        f"{_zoom_key(trajectory)}</p></figure>"
    )


def _zoom_key(trajectory: Trajectory) -> str:
    if not trajectory.zooms:
        return '<span class="key">no zoom</span>'
    return (
        '<span class="key"><svg width="22" height="14">'
        '<rect x="2" y="1" width="18" height="12" rx="4" class="z1"/></svg>'
        " zoom: follow it to what was seen</span>"
    )


def _strip(trajectory: Trajectory, glance: Clip | None) -> str:
    duration = trajectory.video.duration_seconds
    if not glance:
        return ""
    count = min(_STRIP_PICTURES, len(glance))
    frames = strip_frames(glance, duration, count)
    pictures = "".join(picture(frame, max_side_pixels=_STRIP_SIDE_PIXELS) for frame in frames)
    bands = "".join(
        f'<i class="band {zoom_colour(n)}" style="left:{start:.3f}%;width:{width:.3f}%"></i>'
        for n, (start, width) in enumerate(zoom_places(trajectory), 1)
    )
    return f'<div class="strip" aria-hidden="true">{pictures}{bands}</div>'


def strip_frames(glance: Clip, duration_seconds: float, count: int) -> np.ndarray:
    """The frames nearest to the middles of `count` equal parts of the video, uint8 [count, H, W, 3]."""
    times = np.asarray(glance.pts_seconds)
    middles = (np.arange(count) + 0.5) * duration_seconds / count
    return glance.images[np.abs(times[:, None] - middles[None, :]).argmin(axis=0)]


def zoom_places(trajectory: Trajectory) -> list[tuple[float, float]]:
    """Start and width of each zoom, in percent of the video."""
    scale = 100 / trajectory.video.duration_seconds
    return [(start * scale, (end - start) * scale) for start, end in trajectory.zoom_spans]


def _drawing(trajectory: Trajectory) -> str:
    lanes = len(trajectory.calls) * _LANE_PIXELS
    height = _GLANCE_PIXELS + lanes + _AXIS_PIXELS
    return (
        f'<svg class="track" width="100%" height="{height}" role="group" aria-label="Glance marks and zooms">'
        f"{_axis(trajectory.video.duration_seconds, height)}{_glance_marks(trajectory)}"
        f"{_lanes(trajectory)}</svg>"
    )


def _axis(duration: float, height: int) -> str:
    step = nice_step(duration, _MAX_AXIS_STEPS)
    parts, baseline = [], height - _AXIS_PIXELS
    times = [i * step for i in range(int(duration / step) + 1)]
    for t in times:
        place = f"{100 * t / duration:.3f}%"
        # The first and the last label would be cut by the edges if they were centred.
        anchor = "start" if t == 0 else "end" if t > 0.94 * duration else "middle"
        parts.append(f'<line class="grid" x1="{place}" x2="{place}" y2="{baseline + 5}"/>')
        parts.append(f'<text class="axis" x="{place}" y="{height - 5}" text-anchor="{anchor}">{clock_text(t)}</text>')
    parts.append(f'<line class="base" x2="100%" y1="{baseline}" y2="{baseline}"/>')
    return "".join(parts)


def _glance_marks(trajectory: Trajectory) -> str:
    duration, n = trajectory.video.duration_seconds, len(trajectory.glance_seconds)
    marks = []
    for i, t in enumerate(trajectory.glance_seconds):
        place = f"{100 * t / duration:.3f}%"
        tip = f"Glance frame {i + 1} of {n}: {seconds_text(t)} ({clock_text(t)})"
        # One stop for the keyboard; the arrow keys move from mark to mark (report.js).
        marks.append(
            f'<g class="mark" role="img" tabindex="{0 if i == 0 else -1}" data-tip="{tip}" aria-label="{tip}">'
            f'<line class="hit" x1="{place}" x2="{place}" y1="2" y2="{_GLANCE_PIXELS - 2}"/>'
            f'<line class="tick" x1="{place}" x2="{place}" y1="5" y2="{_GLANCE_PIXELS - 5}"/></g>'
        )
    return "".join(marks)


def _lanes(trajectory: Trajectory) -> str:
    parts = []
    clips = [clip for turn in trajectory.zooms for clip in turn.clips]
    for n, ((call, times), (start, width)) in enumerate(zip(clips, zoom_places(trajectory), strict=True), 1):
        top = _GLANCE_PIXELS + (n - 1) * _LANE_PIXELS
        end_seconds = min(call.end_seconds, trajectory.video.duration_seconds)
        span = span_text(call.start_seconds, end_seconds)
        tip = escape(
            f"Zoom {n}: {span} ({clock_text(call.start_seconds)} to {clock_text(end_seconds)}), "
            f"{len(times)} frames at {call.fps:g} fps"
        )
        parts.append(
            f'<a href="#zoom-{n}" class="zoom {zoom_colour(n)}" data-tip="{tip}" aria-label="{tip}">'
            f'<rect class="lane" width="100%" y="{top}" height="{_LANE_PIXELS}"/>'
            f'<rect class="span" x="{start:.3f}%" width="{width:.3f}%" '
            f'y="{top + 5}" height="{_LANE_PIXELS - 10}" rx="4"/>'
            f"{_label(f'{n}', span, start, width, top + _LANE_PIXELS / 2)}</a>"
        )
    return "".join(parts)


def _label(number: str, span: str, start: float, width: float, middle: float) -> str:
    """The zoom's number and times, right of the span, left of it, or inside a long one: wherever they fit."""
    if start + width <= 55:
        place, anchor, shift, style = start + width, "start", 8, ""
    elif start >= 45:
        place, anchor, shift, style = start, "end", -8, ""
    else:
        place, anchor, shift, style = start + width / 2, "middle", 0, " inside"
    return (
        f'<text class="label{style}" x="{place:.3f}%" dx="{shift}" y="{middle:g}" text-anchor="{anchor}" '
        f'dominant-baseline="central"><tspan class="number">{number}</tspan> {span}</text>'
    )
