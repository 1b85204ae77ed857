"""Packets from one keyframe on, read no further than the next frame asked for needs."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import deque
from typing import TypeAlias

import av.error
from av.packet import Packet
from av.video.stream import VideoStream

from .base import ReadBudget, VideoReadError
from .index import KeyIndex, packet_ticks
from .packet_source import PacketSource

_MAX_REORDER = 16  # H.264 and HEVC hold back at most this many frames
VideoPacket: TypeAlias = "Packet[VideoStream]"  # quoted: PyAV's class takes no brackets at run time


class KeyframeGoneError(VideoReadError):
    """The index knows a keyframe that the file does not hold: it was cut off, or changed since it was opened."""


class KeyframeRun:
    """The packets of `source` from keyframe `key` on. Starting a run moves the source; the run before it is dead.

    `queue` holds packets that were read but not yet taken, `ended` says that the file has no more.
    """

    def __init__(self, source: PacketSource, index: KeyIndex, key: int, budget: ReadBudget) -> None:
        self.key = key
        self.queue: deque[VideoPacket] = deque()
        self.ended = False
        self._source, self._index, self._budget = source, index, budget
        self._pts: list[int] = []  # of the displayed packets read so far, sorted
        self._end_of_newest = 0
        first = self._seek()
        ticks = packet_ticks(first)
        assert ticks is not None  # `_seek` found it by its time
        self.key_pts = ticks
        self._note(first)

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
                if (dts is not None and dts >= self._pts[after]) or len(self._pts) - after > _MAX_REORDER:
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
        return self._index.end_ticks if pts == self._index.last_ticks else self._end_of_newest

    def is_newest(self, pts: int) -> bool:
        """Whether no packet read so far is displayed after `pts`."""
        return bisect_right(self._pts, pts) == len(self._pts)

    def ordinal(self, pts: int) -> int:
        """How many displayed packets of the file come before `pts`."""
        return self._index.ordinals[self.key] + bisect_left(self._pts, pts)

    def _note(self, packet: VideoPacket) -> None:
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
        others: then an earlier keyframe is aimed at, twice as far back each time, at last the file's beginning.
        """
        index, target = self._index, self._index.key_ticks[self.key]
        aim, back, ends = self.key, 1, 0
        while aim >= 0 and ends < 2:
            try:
                self._source.container.seek(index.seek_ticks[aim], stream=self._source.stream)
            except av.error.FFmpegError:
                break
            if (found := self._forward_to(target)) is not None:
                return found
            ends += self.ended
            aim, back = aim - back, back * 2
        if ends < 2:
            self._source.reopen()
            if (found := self._forward_to(target)) is not None:
                return found
        raise KeyframeGoneError(f"{self._source.path}: the keyframe at tick {target} cannot be read")

    def _forward_to(self, target: int) -> VideoPacket | None:
        """Read on to the keyframe named `target`; None if a later one or the end (`ended`) comes first."""
        self.ended = False
        self._packets = self._source.packets(self._budget)
        for packet in self._packets:
            name = self._index.name(packet)
            if packet.is_keyframe and name is not None and name >= target:
                return packet if name == target else None
        self.ended = True
        return None
