"""(duration, fps, budget) -> the times of frames. Pure arithmetic, no video is opened here.

Two policies. "exact", the default: half-open intervals, the asked rate is kept, a rate above the video's own is
lowered to it, so that no frame comes twice. "videozoomer": the frame choice of the public code of
arXiv 2512.22315, for reproducing its numbers.
"""

from __future__ import annotations

import math

import numpy as np

from ..types import CallError, Malformed, VideoInfo, ZoomCall
from .definition import ViewSettings

_EPSILON = 1e-6  # seconds; below any frame period, above double rounding on an hour


def glance_timestamps(video: VideoInfo, config: ViewSettings) -> list[float]:
    """Times of the glance, the overview at a low frame rate.

    Args:
        video: its duration and frame rate.
        config: its glance_fps, glance_max_frames and its protocol decide.

    Returns:
        Seconds from the first frame: at most `glance_max_frames` of them, from 0, increasing.
    """
    limit = config.glance_max_frames
    if config.protocol.glance.rule == "videozoomer":
        total = max(1, round(video.duration_seconds * video.fps))
        stride = max(1, round(video.fps / config.glance_fps))
        indices = np.arange(0, total, stride)
        if len(indices) > limit:
            indices = np.linspace(0, total - 1, limit).astype(int)
        return [float(i) / video.fps for i in indices]
    step = max(1 / min(config.glance_fps, video.fps), video.duration_seconds / limit)
    count = min(limit, max(1, math.ceil(video.duration_seconds / step - _EPSILON)))
    return [i * step for i in range(count)]


def zoom_timestamps(call: ZoomCall, video: VideoInfo, config: ViewSettings) -> list[float] | Malformed:
    """Times of the frames that a call asks for.

    Args:
        call: a segment and a rate. An end beyond the video is moved to the video's end (`clamped_end` tells).
        video: its duration and frame rate.
        config: its zoom_max_frames and its protocol decide.

    Returns:
        Seconds from the first frame, increasing; or what is wrong with the call, such as a start beyond the end.
    """
    start, end = call.start_seconds, clamped_end(call, video)
    if start >= video.duration_seconds:
        return Malformed(CallError.BEYOND_END, f"start {start:g} s is beyond the end, {video.duration_seconds:.2f} s")
    limit = config.zoom_max_frames
    if config.protocol.zoom.rule == "videozoomer":
        count = int(call.fps * (end - start))
        if count == 0:
            return Malformed(CallError.ZERO_FRAMES, f"{call.fps:g} fps over {end - start:g} s is no frame at all")
        if count > limit:
            return _too_many(count, limit)
        return [float(t) for t in np.linspace(start, end, count)]
    step = 1 / min(call.fps, video.fps)
    count = math.ceil((end - start) / step - _EPSILON)
    if count > limit:
        return _too_many(count, limit)
    return [start + i * step for i in range(max(1, count))]


def clamped_end(call: ZoomCall, video: VideoInfo) -> float:
    """The end of a call in seconds: its own, or the video's if the call goes beyond it."""
    return min(call.end_seconds, video.duration_seconds)


def _too_many(count: int, limit: int) -> Malformed:
    return Malformed(CallError.TOO_MANY_FRAMES, f"that is {count} frames, the limit is {limit}")
