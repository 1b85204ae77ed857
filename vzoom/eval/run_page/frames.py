"""Frames of a stored trajectory, cut again from the video: small, and only some of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vzoom.report import escape, picture, seconds_text, zoom_colour
from vzoom.types import Clip
from vzoom.video import VideoError, open_video

from ..benchmarks import BENCHMARKS
from ..item import Item

_GLANCE, _ZOOM = 8, 16  # most frames that are shown of each
_SIDE_PIXELS = 112


def find_video(item: Item, roots: Sequence[Path]) -> Path | None:
    """The item's video below the first of the roots that has it; nothing is rendered here."""
    benchmark = BENCHMARKS.get(item.benchmark)
    for root in roots:
        if benchmark is None:
            found = root / item.video if (root / item.video).is_file() else None
        else:
            found = replace(benchmark, render=None).video_path(root, item)
        if found is not None:
            return found
    return None


def frames_markup(story: dict[str, Any], path: Path) -> str:
    """The glance and the zooms as rows of pictures, or a line that says why there are none."""
    rows = [("Glance", "", spread(story["glance_seconds"], _GLANCE), len(story["glance_seconds"]))]
    for number, zoom in enumerate(story["zooms"], 1):
        rows.append((f"Zoom {number}", zoom_colour(number), spread(zoom["pts_seconds"], _ZOOM), zoom["frames"]))
    wanted = sorted({t for _, _, times, _ in rows for t in times})
    try:
        with open_video(path) as video:
            clip = video.frames_at(wanted)
    except (VideoError, OSError) as error:
        return f'<p class="note">No frames: {escape(str(error))}</p>'
    parts = []
    for name, colour, times, count in rows:
        pictures = "".join(_frame(name, clip, t) for t in times)
        some = f", {len(times)} of {count} frames" if len(times) < count else ""
        parts.append(
            f'<div class="film {colour}"><h5>{name}<small>{some}</small></h5><ul class="frames">{pictures}</ul></div>'
        )
    return "".join(parts)


def spread(times: Sequence[float], most: int) -> list[float]:
    """`most` of the times, evenly, the first and the last among them."""
    if len(times) <= most:
        return list(times)
    return [times[round(i * (len(times) - 1) / (most - 1))] for i in range(most)]


def _frame(name: str, clip: Clip, seconds: float) -> str:
    # A frame is on display from its time on; the asked one is the last that is not later.
    number = int(np.searchsorted(np.asarray(clip.pts_seconds), seconds + 1e-3, side="right")) - 1
    shown = seconds_text(seconds)
    return (
        f'<li><button class="frame" type="button" aria-label="{name}, {shown}">'
        f"{picture(clip.images[max(0, number)], max_side_pixels=_SIDE_PIXELS)}</button><span>{shown}</span></li>"
    )
