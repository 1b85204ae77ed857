"""Where the keyframes are, how many frames come before each, and how even the frames follow each other.

An mp4 says so in its header, a Matroska file names its keyframes in its cues. In a large MPEG-TS they are found as they
are needed. Every other container, and every file that a few samples show to be uneven, is read through once without
decoding (about 2 us a packet).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from av.packet import Packet
from av.video.stream import VideoStream

from .base import VideoError
from .packet_source import PacketSource

MAX_REORDER = 16  # H.264 and HEVC hold back at most this many frames
SCAN_BYTES = 8 << 20  # a file of this size is read through in a moment (40 ms), and then everything is known
_TAIL_PACKETS = 32  # enough to see past any reordering of the last frames
_NUM_SAMPLES = 24
_SAMPLE_FRAMES = 20
_CLOCK_SECONDS = 1.0  # a clock that falls back by more than this has been set anew
_CLOCK_PACKETS = 25  # if it stays there: a single wrong time is damage


@dataclass(frozen=True)
class Keyframe:
    """A frame that decoding can start from; times are in ticks of the stream, not relative to the first frame.

    Attributes:
        ticks: its name: its dts if the index goes by dts, else its pts.
        seek_ticks: what to ask libav for.
        ordinal: how many displayed frames come before it in the file; None if they were not counted.
        is_first: whether it is the file's first.
    """

    ticks: int
    seek_ticks: int
    ordinal: int | None
    is_first: bool


@dataclass(frozen=True)
class Timing:
    """When frames are displayed.

    Attributes:
        last_ticks: when the last frame appears; None if only a header was asked.
        end_ticks: the end of its display.
        fps: frames per second, on average.
        max_fps: the highest rate between two frames; None if the rate is constant.
        may_lack_frames: whether frames that others refer to may have been lost: the file was read through, and they
            follow unevenly.
    """

    last_ticks: int | None
    end_ticks: int
    fps: float
    max_fps: float | None
    may_lack_frames: bool = False


class KeyIndex(ABC):
    """The keyframes of a file.

    Attributes:
        timing: when frames are displayed.
        by_dts: whether keyframes are named by dts.
        lead: how far ahead of its display a keyframe is named, in ticks, as far as that was seen. Asked for its name,
            libav would go to the keyframe before: it goes by what is on display then.
    """

    def __init__(self, timing: Timing, *, by_dts: bool = False) -> None:
        self.timing, self.by_dts = timing, by_dts
        self.lead = 0

    def name(self, packet: Packet[VideoStream]) -> int | None:
        """What `Keyframe.ticks` would be for this packet."""
        return packet.dts if self.by_dts else packet_ticks(packet)

    @abstractmethod
    def before(self, ticks: int) -> Keyframe:
        """The keyframe to start from for `ticks`: the first one if none is so early.

        By dts it may be one too late, never too early. May move the source.
        """

    @abstractmethod
    def earlier(self, key: Keyframe, steps: int) -> Keyframe:
        """A keyframe about `steps` before `key`, at least one, unless `key` is the first. May move the source."""


class ListedKeys(KeyIndex):
    """All keyframes are known, in decode order."""

    def __init__(
        self, timing: Timing, keys: list[int], seeks: list[int], ordinals: list[int] | None, *, by_dts: bool = False
    ) -> None:
        super().__init__(timing, by_dts=by_dts)
        self._keys, self._seeks, self._ordinals = keys, seeks, ordinals

    def before(self, ticks: int) -> Keyframe:
        return self._key(bisect_right(self._keys, ticks) - 1)

    def earlier(self, key: Keyframe, steps: int) -> Keyframe:
        return self._key(bisect_left(self._keys, key.ticks) - steps)

    def _key(self, number: int) -> Keyframe:
        number = max(0, number)
        ordinal = self._ordinals[number] if self._ordinals is not None else None
        return Keyframe(self._keys[number], self._seeks[number], ordinal, number == 0)


class FoundKeys(KeyIndex):
    """Keyframes are looked for as they are asked for: a seek to a little before, and packets up to there.

    `_ranges` are stretches of time, apart from each other, in which every keyframe is known; each begins with one.
    """

    def __init__(self, source: PacketSource, first_ticks: int, timing: Timing) -> None:
        super().__init__(timing)
        self._source = source
        self._first = Keyframe(first_ticks, first_ticks, None, True)
        self._second = _ticks(source, 1.0)
        self._keys: dict[int, Keyframe] = {first_ticks: self._first}
        self._ranges: list[tuple[int, int, list[int]]] = []  # (begin, end, ticks of the keyframes), sorted

    def before(self, ticks: int) -> Keyframe:
        if ticks <= self._first.ticks:
            return self._first
        for begin, end, keys in self._ranges:
            if begin <= ticks <= end:
                return self._keys[keys[bisect_right(keys, ticks) - 1]]
        back = self._second
        while ticks - back > self._first.ticks:
            if self._source.seek(ticks - back) and (found := self._search(ticks, seek_ticks=ticks - back)):
                return found
            back *= 2
        self._source.reopen()
        return self._search(ticks, seek_ticks=self._first.seek_ticks) or self._first

    def earlier(self, key: Keyframe, steps: int) -> Keyframe:
        return self.before(key.ticks - 1 - (steps - 1) * self._second)

    def _search(self, ticks: int, *, seek_ticks: int) -> Keyframe | None:
        """Read on until `ticks` is past; the last keyframe before it, if there is one."""
        keys: list[int] = []
        after = 0
        for packet in self._source.packets():
            at = packet_ticks(packet)
            if at is None:
                continue
            if packet.is_keyframe and at <= ticks and (not keys or at > keys[-1]):
                keys.append(at)
                self._keys.setdefault(at, Keyframe(at, seek_ticks, None, at <= self._first.ticks))
            after += at > ticks
            if after > MAX_REORDER or (packet.dts is not None and packet.dts > ticks):
                break
        if not keys:
            return None
        self._remember(keys, ticks)
        return self._keys[keys[-1]]

    def _remember(self, keys: list[int], end: int) -> None:
        begin, known = keys[0], set(keys)
        apart = []
        for other in self._ranges:
            if other[0] <= end and other[1] >= begin:
                begin, end = min(begin, other[0]), max(end, other[1])
                known.update(other[2])
            else:
                apart.append(other)
        insort(apart, (begin, end, sorted(known)))
        self._ranges = apart


class Clock:
    """Watches the times at which packets are decoded. A recording that was joined to another starts its clock anew."""

    def __init__(self, source: PacketSource) -> None:
        self._source = source
        self._slack = _ticks(source, _CLOCK_SECONDS)
        self._latest: int | None = None
        self._behind: list[int] = []

    def fell_back(self, packet: Packet[VideoStream]) -> str | None:
        """What is wrong if the clock was set back before this packet or one of the last; else None."""
        ticks = packet.dts if packet.dts is not None else packet.pts
        if ticks is None:
            return None
        if self._latest is None or ticks > self._latest - self._slack:
            self._latest = ticks if self._latest is None else max(self._latest, ticks)
            self._behind = []
            return None
        self._behind.append(ticks)
        if len(self._behind) < _CLOCK_PACKETS:
            return None
        tick = self._source.tick_seconds
        before, after = float(self._latest * tick), float(self._behind[0] * tick)
        return (
            f"its clock falls from {before:.2f} s back to {after:.2f} s, as if recordings were joined end to end; "
            "convert it to one that counts on (ffmpeg -i in -c copy out.mkv)"
        )


def packet_ticks(packet: Packet[VideoStream]) -> int | None:
    """When the packet's frame is displayed. Containers without pts have no reordering, so dts says the same."""
    return packet.pts if packet.pts is not None else packet.dts


def build_index(source: PacketSource, *, approximate: bool = False) -> KeyIndex:
    """The index of an open source, whose position is lost: seek before reading on.

    Args:
        source: just opened.
        approximate: believe the header about length and rate, whatever the container.

    Raises:
        VideoError: no frames are in it, its clock is set back, or (approximate) its header does not say enough.
        VideoReadError: reading ran into its limits.
    """
    if approximate:
        return _from_claims(source)
    for build in (_from_header, _from_cues, _from_samples):
        if (index := build(source)) is not None:
            return index
    source.reopen()
    return _from_scan(source)


def _from_claims(source: PacketSource) -> KeyIndex:
    stream = source.stream
    rate = stream.average_rate or stream.guessed_rate
    if stream.duration is not None:
        length = stream.duration
    elif source.container.duration is not None:
        length = _ticks(source, source.container.duration / 1_000_000)
    else:
        length = 0
    first = _first_key(source)
    if first is None or not rate or length <= 0:
        raise VideoError(f"{source.path}: its header does not say how long or how fast it is; use seek_mode='exact'")
    return FoundKeys(source, first, Timing(None, first + length, float(rate), None))


def _from_header(source: PacketSource) -> KeyIndex | None:
    """None if the header does not list every frame (other containers, fragments, edit lists that repeat frames)."""
    stream = source.stream
    entries = stream.index_entries
    rate = stream.average_rate
    if "mp4" not in source.format_name or not 0 < stream.frames == len(entries) or not rate:
        return None
    keys: list[int] = []
    ordinals: list[int] = []
    times: list[int] = []
    last = entries[len(entries) - 1]
    # The header may be whole while the data after it is cut off.
    cut = source.num_bytes if 0 < source.num_bytes < last.pos + last.size else None
    displayed = 0
    for entry in entries:
        if cut is not None and entry.pos + entry.size > cut:
            break
        times.append(entry.timestamp)
        if entry.is_keyframe:
            keys.append(entry.timestamp)
            ordinals.append(displayed)
        displayed += not entry.is_discard
    if not keys:
        return None
    found = _last_packet(source, times[max(0, len(times) - _TAIL_PACKETS)])
    if found is None:
        return None
    last_ticks, duration = found
    end = last_ticks + (duration or _ticks(source, 1 / float(rate)))
    _, max_fps = _rates(source, times, named=rate)
    return ListedKeys(Timing(last_ticks, end, float(rate), max_fps), keys, keys, ordinals, by_dts=True)


def _from_cues(source: PacketSource) -> KeyIndex | None:
    """None if it is no Matroska file, a small one, one without (true) cues, or one whose frames follow unevenly."""
    if "matroska" not in source.format_name or 0 < source.num_bytes < SCAN_BYTES:
        return None
    first = _first_key(source)
    if first is None or not source.seek(first):  # libav reads the cues at the first seek
        return None
    keys = [entry.timestamp for entry in source.stream.index_entries if entry.is_keyframe]
    if len(keys) < _NUM_SAMPLES or keys[0] < first or sorted(set(keys)) != keys:
        return None
    if keys[0] > first:
        keys.insert(0, first)
    tail = _read_from(source, keys[-1])
    if not tail or tail[0] != keys[-1]:
        return None  # the file is cut off, or the cues tell something else
    starts = [keys[i * len(keys) // _NUM_SAMPLES] for i in range(_NUM_SAMPLES)]
    samples = [_read_from(source, ticks, limit=_SAMPLE_FRAMES + MAX_REORDER) for ticks in starts]
    if any(not sample or sample[0] != start for sample, start in zip(samples, starts, strict=True)):
        return None
    timing = _constant(source, first, samples, tail)
    return ListedKeys(timing, keys, keys, None) if timing is not None else None


def _from_samples(source: PacketSource) -> KeyIndex | None:
    """None if it is no MPEG-TS, a small one, one whose frames follow unevenly, or one whose clock is set back."""
    if source.format_name != "mpegts" or source.num_bytes < SCAN_BYTES:
        return None
    source.reopen()
    first = _first_key(source)
    if first is None:
        return None
    samples = []
    for i in range(_NUM_SAMPLES):
        if not source.seek(source.num_bytes * i // _NUM_SAMPLES, to_byte=True):
            return None
        samples.append(_sample(source, limit=_SAMPLE_FRAMES + MAX_REORDER))
    tail: list[int] = []
    window = SCAN_BYTES // 8
    while not tail:
        if window > source.num_bytes or not source.seek(source.num_bytes - window, to_byte=True):
            return None
        tail = _sample(source, limit=None)
        window *= 2
    timing = _constant(source, first, samples, tail)
    return FoundKeys(source, first, timing) if timing is not None else None


def _first_key(source: PacketSource) -> int | None:
    """When the first keyframe is displayed. The source has just been opened."""
    for packet in source.packets():
        if packet.is_keyframe and (ticks := packet_ticks(packet)) is not None:
            return ticks
    return None


def _read_from(source: PacketSource, key: int, *, limit: int | None = None) -> list[int]:
    return _sample(source, limit=limit) if source.seek(key) else []


def _sample(source: PacketSource, *, limit: int | None) -> list[int]:
    """When the frames from the next keyframe on are displayed, sorted: those of `limit` packets, None for all.

    With a limit, the last few are left out: a frame between them may come later in the file. A packet without a time
    makes it empty.
    """
    times: list[int] = []
    count = 0
    for packet in source.packets():
        if not times and not packet.is_keyframe:
            continue
        ticks = packet_ticks(packet)
        if ticks is None:
            return []
        count += 1
        if not times or ticks >= times[0]:  # pictures that lead an open group are not the group's
            insort(times, ticks)
        if count == limit:
            return times[:-MAX_REORDER]
    return times


def _constant(source: PacketSource, first: int, samples: list[list[int]], tail: list[int]) -> Timing | None:
    """The timing if all samples follow each other in the rhythm that the header names; None if any does not."""
    rate = source.stream.average_rate
    if not rate:
        return None
    period = 1 / (float(rate) * float(source.tick_seconds))
    latest = first
    for sample in [*samples, tail]:
        if not sample or sample[-1] < latest:
            return None
        latest = sample[-1]
        since = np.array(sample) - first
        beats = np.rint(since / period)
        if np.abs(since - beats * period).max() > 1 or (np.diff(beats) != 1).any():
            return None
    return Timing(tail[-1], tail[-1] + max(1, round(period)), float(rate), None)


def _last_packet(source: PacketSource, dts: int) -> tuple[int, int] | None:
    """(pts, duration) of the packet displayed last, of those from `dts` on. None: nothing can be read there."""
    if not source.seek(dts, any_frame=True):
        return None
    last: tuple[int, int] | None = None
    for packet in source.packets():
        if packet.pts is not None and (last is None or packet.pts >= last[0]):
            last = packet.pts, packet.duration or 0
    return last


def _from_scan(source: PacketSource) -> KeyIndex:
    """Read every packet of the stream once."""
    by_pts = "matroska" in source.format_name  # Matroska seeks by pts, the others by dts
    keys: list[int] = []
    seeks: list[int] = []
    ordinals: list[int] = []
    times: list[int] = []
    last, last_duration = 0, 0
    in_order = True
    clock = Clock(source)
    for packet in source.packets():
        ticks = packet_ticks(packet)
        if ticks is None:
            continue
        if problem := clock.fell_back(packet):
            raise VideoError(f"{source.path}: {problem}")
        if packet.is_keyframe and (not keys or (ticks > keys[-1] and not source.front_only)):
            keys.append(ticks)
            seeks.append(ticks if by_pts or packet.dts is None else packet.dts)
            ordinals.append(len(times))
        if packet.is_discard:
            continue
        in_order = in_order and (not times or ticks >= last)
        if not times or ticks >= last:
            last, last_duration = ticks, packet.duration or 0
        times.append(ticks)
    if not times or not keys:
        raise VideoError(f"{source.path}: no frame in it has a time; put a raw stream into a container such as mkv")
    if source.format_name == "avi" and in_order and source.stream.codec_context.reorder_depth:
        # AVI stores no pts, and what libav makes up for H.264 with B-frames is the wrong order.
        raise VideoError(f"{source.path}: AVI does not say when its reordered frames are displayed; convert it to mp4")
    named = source.stream.average_rate
    if not last_duration:
        spacing = round((last - min(times)) / (len(times) - 1)) if len(times) > 1 else 0
        last_duration = spacing or (_ticks(source, 1 / float(named)) if named else 1)
    fps, max_fps = _rates(source, times, named=named, last_duration=last_duration)
    timing = Timing(last, last + last_duration, fps, max_fps, may_lack_frames=max_fps is not None)
    return ListedKeys(timing, keys, seeks, ordinals)


def _rates(
    source: PacketSource, times: Iterable[int], *, named: Fraction | None, last_duration: int = 0
) -> tuple[float, float | None]:
    """Frames per second on average, and at most: None if every frame is within a tick of a constant beat."""
    shown = np.unique(np.fromiter(times, np.int64))
    tick = float(source.tick_seconds)
    span = int(shown[-1] - shown[0])
    counted = len(shown) / ((span + last_duration) * tick) if span + last_duration else float(named or 0)
    # The named rate is exact (30000/1001) if it is true at all; a header may also name a rate that never was.
    fps = float(named) if named and abs(float(named) - counted) < 0.01 * counted else counted
    if span == 0:
        return fps, None
    periods = [1 / (fps * tick), span / (len(shown) - 1)]
    if any(np.abs(shown - shown[0] - np.arange(len(shown)) * period).max() <= 1 for period in periods):
        return fps, None
    return fps, 1 / (int(np.diff(shown).min()) * tick)


def _ticks(source: PacketSource, seconds: float) -> int:
    return max(1, round(seconds / source.tick_seconds))
