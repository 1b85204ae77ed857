"""Packets from one keyframe on, read no further than the next frame asked for needs."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import deque
from typing import TypeAlias

from av.packet import Packet
from av.video.stream import VideoStream

from .base import VideoReadError
from .index import MAX_REORDER, Clock, Keyframe, KeyIndex, packet_ticks
from .packet_source import PacketSource

_BEGINNING = -(1 << 62)  # before any time that a file can name
VideoPacket: TypeAlias = "Packet[VideoStream]"  # quoted: PyAV's class takes no brackets at run time


class KeyframeGoneError(VideoReadError):
    """The index knows a keyframe that the file does not hold: it was cut off, or changed since it was opened."""


class KeyframeRun:
    """The packets of `source` from keyframe `key` on. Whatever moves the source ends the run.

    `queue` holds packets that were read but not yet taken, `ended` says that the file has no more.
    """

    def __init__(self, source: PacketSource, index: KeyIndex, key: Keyframe) -> None:
        self.key = key
        self.queue: deque[VideoPacket] = deque()
        self.ended = False
        self._source, self._index, self._clock = source, index, Clock(source)
        self._pts: list[int] = []  # of the displayed packets read so far, sorted
        self._end_of_newest = 0
        self._latest_dts = _BEGINNING
        first = self._seek()
        self._moves = source.moves
        ticks = packet_ticks(first)
        assert ticks is not None  # `_seek` found it by its time
        self.key_pts = ticks
        if index.by_dts:
            index.lead = max(index.lead, ticks - key.ticks)
        self._note(first)

    @property
    def is_dead(self) -> bool:
        """Whether the source was moved since."""
        return self._source.moves != self._moves

    def pull(self) -> bool:
        """Read one more packet into `queue`; False at the end of the file."""
        packet = next(self._packets, None)
        if packet is None:
            self.ended = True
            return False
        self._note(packet)
        return True

    def look_past(self, ticks: int) -> None:
        """Read until the packets of the frame on display at `ticks` and of the one after it are known."""
        while not self.ended:
            after = bisect_right(self._pts, ticks)
            if after < len(self._pts):
                dts = self.queue[-1].dts if self.queue else None
                # Nothing that comes later in the file is displayed before its own dts.
                if (dts is not None and dts >= self._pts[after]) or len(self._pts) - after > MAX_REORDER:
                    return
            self.pull()

    def displayed_at(self, ticks: int) -> int | None:
        """Pts of the last packet read with pts <= ticks."""
        after = bisect_right(self._pts, ticks)
        return self._pts[after - 1] if after else None

    def end_of(self, pts: int) -> int:
        """When the frame at `pts` gives way: the next pts, or the last frame's own end."""
        after = bisect_right(self._pts, pts)
        if after < len(self._pts):
            return self._pts[after]
        timing = self._index.timing
        return timing.end_ticks if pts == timing.last_ticks else self._end_of_newest

    def is_newest(self, pts: int) -> bool:
        """Whether no packet read so far is displayed after `pts`."""
        return bisect_right(self._pts, pts) == len(self._pts)

    def ordinal(self, pts: int) -> int | None:
        """How many displayed packets of the file come before `pts`; None if they were not counted."""
        return None if self.key.ordinal is None else self.key.ordinal + bisect_left(self._pts, pts)

    def shown_in(self, begin: int, end: int, *, limit: int) -> list[int] | None:
        """Pts of the packets displayed at any time in [begin, end), read so far or not; None if more than `limit`."""
        while not self.ended:
            first = bisect_right(self._pts, begin)
            if len(self._pts) - MAX_REORDER - first > limit:
                return None
            dts = self.queue[-1].dts if self.queue else None
            past = len(self._pts) - bisect_left(self._pts, end)
            if past > MAX_REORDER or (past and dts is not None and dts >= end):
                break
            self.pull()
        first = max(0, bisect_right(self._pts, begin) - 1)
        shown = self._pts[first : bisect_left(self._pts, end)]
        return shown if len(shown) <= limit else None

    def _note(self, packet: VideoPacket) -> None:
        if problem := self._clock.fell_back(packet):
            raise VideoReadError(f"{self._source.path}: {problem}")
        if packet.dts is not None:
            self._source.num_damaged += packet.dts < self._latest_dts  # a stretch of the file came twice, or late
            self._latest_dts = max(self._latest_dts, packet.dts)
        self.queue.append(packet)
        ticks = packet_ticks(packet)
        if ticks is None or packet.is_discard:
            return
        if not self._pts or ticks >= self._pts[-1]:
            self._end_of_newest = ticks + max(1, packet.duration or 0)
        insort(self._pts, ticks)

    def _seek(self) -> VideoPacket:
        """Position the source just after the keyframe's packet, and return that packet.

        libav lands late in some containers (it goes by dts, or by a byte estimate), and raises below the start in
        others: then it is asked for an earlier time, twice as far back each time, at last for the file's beginning.
        """
        source, back, ends = self._source, 0, 0
        begin = self._index.before(_BEGINNING).seek_ticks
        lead = self._index.lead
        if lead and not source.front_only and source.seek(self.key.seek_ticks + lead) and (found := self._forward()):
            return found
        # Two seeks that find nothing up to the end of the file: it holds no such keyframe any more.
        while not source.front_only and self.key.seek_ticks - back >= begin and ends < 2:
            if not source.seek(self.key.seek_ticks - back):
                break
            if (found := self._forward()) is not None:
                return found
            ends += self.ended
            back = 2 * back or max(1, round(1 / source.tick_seconds))
        if ends < 2:
            source.reopen()
            if (found := self._forward()) is not None:
                return found
        raise KeyframeGoneError(f"{source.path}: the keyframe at tick {self.key.ticks} cannot be read")

    def _forward(self) -> VideoPacket | None:
        """Read on to the keyframe; None if a later one or the end (`ended`) comes first."""
        self.ended = False
        self._packets = self._source.packets()
        for packet in self._packets:
            name = self._index.name(packet)
            if packet.is_keyframe and name is not None and name >= self.key.ticks:
                return packet if name == self.key.ticks else None
        self.ended = True
        return None
