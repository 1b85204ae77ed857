"""(video, config) and (call, video, config) -> the times of frames. Pure arithmetic, no video is opened here.

A protocol names its rules. "exact" is vzoom's own: half-open intervals, the asked rate is kept, a rate above the
video's own is lowered to it, so that no frame comes twice. The others are those that published checkpoints were trained
with, to the frame. They count frames; the time of frame i is i / fps, for which the reader gives exactly that frame.
Where the public code shows a frame twice (a rate above the video's own, a segment after the end), it is shown once.

A rule takes any finite numbers: what cannot be carried out is a `Malformed` for the model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ..types import CallError, Malformed, VideoInfo, ZoomCall
from .definition import LONG_VIDEO_SECONDS, GlanceName, ViewSettings, ZoomName

_EPSILON = 1e-6  # seconds; below any frame period, above double rounding on an hour


def glance_timestamps(video: VideoInfo, config: ViewSettings) -> list[float]:
    """Times of the glance, the overview at a low frame rate.

    Args:
        video: its duration and frame rate.
        config: its glance_fps, glance_max_frames and the glance rule of its protocol decide.

    Returns:
        Seconds from the first frame: at most `glance_max_frames` of them, from 0, increasing. None if the protocol has
        no glance.
    """
    return GLANCE_RULES[config.protocol.glance.rule](video, config.glance_fps, config.glance_max_frames)


def zoom_timestamps(
    call: ZoomCall, video: VideoInfo, config: ViewSettings, *, shown: Iterable[float] = ()
) -> list[float] | Malformed:
    """Times of the frames that a call asks for.

    Args:
        call: a segment, and a rate or a number of frames. An end beyond the video is moved to the video's end
            (`clamped_end` tells).
        video: its duration and frame rate.
        config: its zoom_max_frames and the zoom rule of its protocol decide.
        shown: times of the frames that the model has seen. The rule "conan" does not show them again.

    Returns:
        Seconds from the first frame, increasing; or what is wrong with the call, such as a start beyond the end.
    """
    start, own = call.start_seconds, config.protocol.zoom
    wrote = f"from {start:g} to {call.end_seconds:g} s at {call.fps:g} fps"
    if not all(map(math.isfinite, (start, call.end_seconds, call.fps))):
        return Malformed(CallError.NOT_FINITE, wrote)
    if start < 0:
        return Malformed(CallError.NEGATIVE, wrote)
    if start >= call.end_seconds:
        return Malformed(CallError.REVERSED, wrote)
    if call.fps <= 0 or (call.num_frames is not None and call.num_frames < 1):
        return Malformed(CallError.ZERO_FRAMES, wrote)
    if start >= video.duration_seconds:
        return Malformed(CallError.BEYOND_END, f"start {start:g} s is beyond the end, {video.duration_seconds:.2f} s")
    segment = Segment(
        start_seconds=start,
        end_seconds=clamped_end(call, video),
        asked_end_seconds=call.end_seconds,
        fps=call.fps,
        own_fps=call.fps if own.fps is None else own.fps,
        num_frames=config.zoom_max_frames if call.num_frames is None else call.num_frames,
        shown=tuple(shown),
    )
    return ZOOM_RULES[own.rule](segment, video, config.zoom_max_frames)


def glance_segments(video: VideoInfo, config: ViewSettings) -> tuple[tuple[float, float], ...]:
    """What the times of the glance sample, (start, end), if every frame of it will do: see `zoom_segments`."""
    is_even = video.max_fps is None or config.protocol.glance.rule != "exact"
    return () if is_even else ((0.0, video.duration_seconds),)


def zoom_segments(calls: Sequence[ZoomCall], video: VideoInfo, config: ViewSettings) -> tuple[tuple[float, float], ...]:
    """What the times of each call sample, (start, end), if all frames of it are wanted where they are no more.

    That is so for the rule "exact" if frames follow each other unevenly: at equal distances some would be missed where
    they are dense. Empty for other rules, and for videos of a constant rate.
    """
    if video.max_fps is None or config.protocol.zoom.rule != "exact":
        return ()
    return tuple((call.start_seconds, clamped_end(call, video)) for call in calls)


def clamped_end(call: ZoomCall, video: VideoInfo) -> float:
    """The end of a call in seconds: its own, or the video's if the call goes beyond it."""
    return min(call.end_seconds, video.duration_seconds)


# ---------------------------------------------------------------- rules


@dataclass(frozen=True)
class Segment:
    """What a call asks for, with everything filled in that the call or the protocol names.

    Attributes:
        start_seconds: where it starts; within the video.
        end_seconds: where it ends, at most the video's end.
        asked_end_seconds: where the call said that it ends.
        fps: frames per second.
        own_fps: frames per second of the protocol, if it has a rate of its own; else fps.
        num_frames: how many frames; the most if the call does not say it.
        shown: times of the frames that the model has seen.
    """

    start_seconds: float
    end_seconds: float
    asked_end_seconds: float
    fps: float
    own_fps: float
    num_frames: int
    shown: tuple[float, ...]


GlanceFormula = Callable[[VideoInfo, float, int], list[float]]  # video, fps, most frames -> seconds
ZoomFormula = Callable[[Segment, VideoInfo, int], list[float] | Malformed]  # call, video, most frames -> seconds


def total_frames(video: VideoInfo) -> int:
    """How many frames the video has."""
    return max(1, round(video.duration_seconds * video.fps))


# ---------------------------------------------------------------- glances


def _exact_glance(video: VideoInfo, fps: float, limit: int) -> list[float]:
    """One frame each 1 / fps seconds from 0; if that is more than the limit, the limit at equal distances."""
    step = max(1 / min(fps, video.max_fps or video.fps), video.duration_seconds / limit)
    count = min(limit, max(1, math.ceil(video.duration_seconds / step - _EPSILON)))
    return [i * step for i in range(count)]


def _videozoomer_glance(video: VideoInfo, fps: float, limit: int) -> list[float]:
    """Each round(native fps / fps)-th frame; if that is more than the limit, int(linspace(0, total - 1, limit))."""
    total = total_frames(video)
    indices = np.arange(0, total, max(1, round(min(video.fps / fps, total))))
    return _times(indices if len(indices) <= limit else _spread(0, total - 1, limit), video)


def _framethinker_glance(video: VideoInfo, fps: float, limit: int) -> list[float]:
    """int(linspace(0, total - 1, n)); n is the limit for videos of more than 300 s, two thirds of it for others."""
    return _times(_spread(0, total_frames(video) - 1, _framethinker_count(video, limit)), video)


def _conan_glance(video: VideoInfo, fps: float, limit: int) -> list[float]:
    """round(i * total / limit) for i below the limit; all frames if there are no more."""
    total = total_frames(video)
    return _times(range(total) if total <= limit else [round(i * (total / limit)) for i in range(limit)], video)


def _qwen_glance(video: VideoInfo, fps: float, limit: int) -> list[float]:
    """As qwen-vl-utils samples: an even number of frames at `fps`, rounded places from the first to the last frame."""
    total = total_frames(video)
    return _times(_qwen_indices(0, total - 1, video, fps, limit), video)


def _qwen_count_glance(video: VideoInfo, fps: float, limit: int) -> list[float]:
    """As qwen-vl-utils with nframes: `limit` rounded places from the first to the last frame."""
    return _times(_rounded(0, total_frames(video) - 1, limit), video)


def _no_glance(video: VideoInfo, fps: float, limit: int) -> list[float]:
    """The model looks at nothing before its first call."""
    return []


GLANCE_RULES: dict[GlanceName, GlanceFormula] = {
    "exact": _exact_glance,
    "videozoomer": _videozoomer_glance,
    "framethinker": _framethinker_glance,
    "conan": _conan_glance,
    "qwen": _qwen_glance,
    "qwen_count": _qwen_count_glance,
    "none": _no_glance,
}

# ---------------------------------------------------------------- zooms


def _exact_zoom(call: Segment, video: VideoInfo, limit: int) -> list[float] | Malformed:
    """From the start on one frame each 1 / fps seconds, up to and without the end.

    The video's own rate is the most there is. Of a video whose frames follow unevenly that is the highest rate: up to
    the limit there may be a frame for each time, and the reader finds out how many there are (`zoom_segments`).
    """
    start, end = call.start_seconds, call.end_seconds
    step = min(1 / max(min(call.fps, video.fps), 1e-300), end - start)  # a rate below one frame gives the first frame
    count = math.ceil((end - start) / step - _EPSILON) if step else 1
    if count > limit:
        return _too_many(count, limit)
    if video.max_fps is not None and step:
        step = max(min(step, 1 / min(call.fps, video.max_fps)), (end - start) / limit)
        count = math.ceil((end - start) / step - _EPSILON)
    return [start + i * step for i in range(max(1, count))]


def _videozoomer_zoom(call: Segment, video: VideoInfo, limit: int) -> list[float] | Malformed:
    """int(linspace(int(start * native fps), int(end * native fps), int(fps * (end - start)))), ends within the file."""
    asked = call.fps * (call.asked_end_seconds - call.start_seconds)
    if not asked < limit + 1:
        return _too_many(asked, limit)
    if asked < 1:
        return Malformed(CallError.ZERO_FRAMES, f"{call.fps:g} fps over this segment is no frame at all")
    last = total_frames(video) - 1
    first = int(min(call.start_seconds * video.fps, last))
    final = max(first, int(min(call.asked_end_seconds * video.fps, last)))
    return _times(_spread(first, final, int(asked)), video)


def _framethinker_zoom(call: Segment, video: VideoInfo, limit: int) -> list[float] | Malformed:
    """int(linspace(A + 1, B - 1, n)) between the frames A and B, of which B - A must be above n (see the glance)."""
    total, count = total_frames(video), _framethinker_count(video, limit)
    first, final = (round(min(x * video.fps, total)) for x in (call.start_seconds, call.end_seconds))
    if final - first <= count:
        return Malformed(CallError.ZERO_FRAMES, f"{final - first} frames are too few to choose {count} from")
    return _times(_spread(first + 1, final - 1, count), video)


def _framethinker_count(video: VideoInfo, limit: int) -> int:
    return limit if total_frames(video) / video.fps > LONG_VIDEO_SECONDS else max(1, round(limit * 2 / 3))


def _qwen_zoom(call: Segment, video: VideoInfo, limit: int) -> list[float] | Malformed:
    """As qwen-vl-utils samples with video_start and video_end: an even number of frames at the protocol's rate."""
    total = total_frames(video)
    first = math.ceil(min(call.start_seconds, total / video.fps) * video.fps)
    final = min(math.floor(min(call.end_seconds, total / video.fps) * video.fps), total - 1)
    if first >= final:
        return Malformed(CallError.ZERO_FRAMES, "the segment is shorter than two frames")
    return _times(_qwen_indices(first, final, video, call.own_fps, limit), video)


def _conan_zoom(call: Segment, video: VideoInfo, limit: int) -> list[float] | Malformed:
    """The limit of rounded places among the frames from start to end that were not shown; if those are fewer, the rest
    likewise from the whole video. It knows what was shown by its clock time: by the frame at that whole second."""
    last = total_frames(video) - 1
    first = round(min(call.start_seconds * video.fps, last))
    final = round(min(call.end_seconds * video.fps, last))
    shown = {round(math.floor(round(t * video.fps) / video.fps) * video.fps) for t in call.shown}
    found = _places_between(first, final, shown, limit) if first < final else []
    found = sorted(found + _places_between(0, last, {*shown, *found}, limit - len(found)))
    if not found:
        return Malformed(CallError.ZERO_FRAMES, "every frame of the video was shown before")
    return _times(found, video)


def _eva_zoom(call: Segment, video: VideoInfo, limit: int) -> list[float] | Malformed:
    """num_frames times from start to end, both shown: the first frame that is not before each of them."""
    if call.num_frames > limit:
        return _too_many(float(min(call.num_frames, 10**9)), limit)
    places = np.linspace(call.start_seconds, call.end_seconds, call.num_frames) * video.fps
    return _times(np.ceil(places - _EPSILON * video.fps).clip(0, total_frames(video) - 1).astype(np.int64), video)


def _timesearch_zoom(call: Segment, video: VideoInfo, limit: int) -> list[float] | Malformed:
    """Of the frames at the protocol's rate, num_frames rounded places from start to end: TimeSearch-R's fallback."""
    fps = min(call.own_fps, video.fps)
    stored = max(1, math.floor(video.duration_seconds * fps))
    first = math.floor(min(call.start_seconds * fps, stored))
    final = min(math.ceil(min(call.end_seconds * fps, stored)), stored - 1)
    found = final - first + 1
    if found < 1:
        return Malformed(CallError.ZERO_FRAMES, "no frame is in this segment")
    count = max(1, min(call.num_frames, limit))
    places = range(found) if found <= count else np.round(np.linspace(0, found - 1, count)).astype(np.int64)
    return [float(first + i) / fps for i in places]


ZOOM_RULES: dict[ZoomName, ZoomFormula] = {
    "exact": _exact_zoom,
    "videozoomer": _videozoomer_zoom,
    "framethinker": _framethinker_zoom,
    "qwen": _qwen_zoom,
    "conan": _conan_zoom,
    "eva": _eva_zoom,
    "timesearch": _timesearch_zoom,
}


# ---------------------------------------------------------------- arithmetic that they share


def _times(indices: Sequence[int] | np.ndarray, video: VideoInfo) -> list[float]:
    """Seconds of frames by their numbers, each once."""
    return [i / video.fps for i in dict.fromkeys(int(i) for i in indices)]


def _spread(first: int, last: int, count: int) -> np.ndarray:
    """`count` frame numbers from `first` to `last` at equal distances, rounded down."""
    return np.linspace(first, last, count).astype(np.int64)


def _places_between(first: int, final: int, without: set[int], count: int) -> list[int]:
    """`count` rounded places among the frames from `first` to `final` without some; all if they are fewer."""
    gaps = sorted(i for i in without if first <= i <= final)
    left = final - first + 1 - len(gaps)
    step = (left - 1) / (count - 1) if count > 1 else 0.0
    found = []
    for place in range(left) if left <= count else [round(i * step) for i in range(count)]:
        index = first + place
        for gap in gaps:
            index += gap <= index
        found.append(index)
    return found


def _rounded(first: int, last: int, count: int) -> np.ndarray:
    """The same, rounded as torch rounds float32: that is where qwen-vl-utils computes."""
    import torch  # here: sessions are made without it

    # Above 2**24 frames float32 steps over the last one.
    return torch.linspace(first, last, count).round().long().numpy().clip(first, last)


def _qwen_indices(first: int, last: int, video: VideoInfo, fps: float, limit: int) -> np.ndarray:
    """qwen-vl-utils' number of frames (even, 2 at least, `limit` and the frames there are at most) at its places."""
    found = last - first + 1
    count = min(max(found / video.fps * fps, 2), limit // 2 * 2, found)
    return _rounded(first, last, max(1, int(count) // 2 * 2))


def _too_many(count: float, limit: int) -> Malformed:
    """The refusal of a call that asks for more frames than it may."""
    return Malformed(CallError.TOO_MANY_FRAMES, f"that is {count:.6g} frames, the limit is {limit}")
