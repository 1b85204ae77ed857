"""Where the keyframes are, and how many frames come before each.

An mp4 says so in its header. Every other container is read through once without decoding (about 2 us a packet),
which also gives the true end and rate of files whose headers say neither.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

import av.error
from av.packet import Packet
from av.video.stream import VideoStream

from .base import ReadBudget, VideoError
from .packet_source import PacketSource

_TAIL_PACKETS = 32  # enough to see past any reordering of the last frames


@dataclass(frozen=True)
class KeyIndex:
    """Keyframes in decode order; all times are in ticks of the stream, not yet relative to the first frame.

    key_ticks[k] names keyframe k: its dts if `by_dts`, else its pts. seek_ticks[k] is what to ask libav for.
    ordinals[k] counts the displayed frames that come before it in the file. The last frame is displayed from
    last_ticks (None: the file is cut off before it) to end_ticks. fps is the average rate of display.
    """

    key_ticks: list[int]
    seek_ticks: list[int]
    ordinals: list[int]
    by_dts: bool
    last_ticks: int | None
    end_ticks: int
    fps: float

    def name(self, packet: Packet[VideoStream]) -> int | None:
        """What `key_ticks` would hold for this packet."""
        return packet.dts if self.by_dts else packet_ticks(packet)

    def before(self, ticks: int) -> int:
        """The keyframe to start from for `ticks`. By dts it may be one too late, never too early."""
        return max(0, bisect_right(self.key_ticks, ticks) - 1)


def packet_ticks(packet: Packet[VideoStream]) -> int | None:
    """When the packet's frame is displayed. Containers without pts have no reordering, so dts says the same."""
    return packet.pts if packet.pts is not None else packet.dts


def build_index(source: PacketSource, budget: ReadBudget) -> KeyIndex:
    """The index of an open source, whose position is lost: seek before reading on. VideoError: no frames in it."""
    index = _from_header(source, budget)
    return index if index is not None else _from_scan(source, budget)


def _from_header(source: PacketSource, budget: ReadBudget) -> KeyIndex | None:
    """None if the header does not list every frame (other containers, fragments, edit lists that repeat frames)."""
    stream = source.stream
    entries = stream.index_entries
    rate = stream.average_rate
    if "mp4" not in source.container.format.name or not 0 < stream.frames == len(entries) or not rate:
        return None
    keys: list[int] = []
    ordinals: list[int] = []
    displayed = 0
    for entry in entries:
        if entry.is_keyframe:
            keys.append(entry.timestamp)
            ordinals.append(displayed)
        displayed += not entry.is_discard
    if not keys:
        return None
    last, duration = _last_packet(source, entries[max(0, len(entries) - _TAIL_PACKETS)].timestamp, budget)
    if last is None:  # the header is whole and the data after it is cut off: believe the header, frames are clamped
        end = (stream.start_time or 0) + (stream.duration or 0)
    else:
        end = last + (duration or _frame_ticks(source, float(rate)))
    return KeyIndex(keys, keys, ordinals, by_dts=True, last_ticks=last, end_ticks=end, fps=float(rate))


def _last_packet(source: PacketSource, dts: int, budget: ReadBudget) -> tuple[int | None, int]:
    """(pts, duration) of the packet displayed last, of those from `dts` on. (None, 0): nothing can be read there."""
    last, duration = None, 0
    try:
        source.container.seek(dts, stream=source.stream, any_frame=True)
    except av.error.FFmpegError:
        return None, 0
    for packet in source.packets(budget):
        if packet.pts is not None and (last is None or packet.pts >= last):
            last, duration = packet.pts, packet.duration or 0
    return last, duration


def _frame_ticks(source: PacketSource, fps: float) -> int:
    """Ticks of one frame at a constant `fps`."""
    assert source.stream.time_base is not None  # checked when the source was opened
    return max(1, round(1 / (fps * source.stream.time_base)))


def _from_scan(source: PacketSource, budget: ReadBudget) -> KeyIndex:
    """Read every packet of the stream once."""
    by_pts = "matroska" in source.container.format.name  # Matroska seeks by pts, the others by dts
    keys: list[int] = []
    seeks: list[int] = []
    ordinals: list[int] = []
    displayed = 0
    first: int | None = None
    last, last_duration = 0, 0
    in_order = True
    for packet in source.packets(budget):
        ticks = packet_ticks(packet)
        if ticks is None:
            continue
        if packet.is_keyframe and (not keys or ticks > keys[-1]):
            keys.append(ticks)
            seeks.append(ticks if by_pts or packet.dts is None else packet.dts)
            ordinals.append(displayed)
        if packet.is_discard:
            continue
        displayed += 1
        in_order = in_order and (displayed == 1 or ticks >= last)
        if first is None or ticks < first:
            first = ticks
        if displayed == 1 or ticks >= last:
            last, last_duration = ticks, packet.duration or 0
    if first is None or not keys:
        raise VideoError(f"{source.path}: no frame in it has a time; put a raw stream into a container such as mkv")
    if source.container.format.name == "avi" and in_order and source.stream.codec_context.reorder_depth:
        # AVI stores no pts, and what libav makes up for H.264 with B-frames is the wrong order.
        raise VideoError(f"{source.path}: AVI does not say when its reordered frames are displayed; convert it to mp4")
    stream = source.stream
    assert stream.time_base is not None  # checked when the source was opened
    named = float(stream.average_rate or 0)
    if not last_duration:
        spacing = round((last - first) / (displayed - 1)) if displayed > 1 else 0
        last_duration = spacing or (_frame_ticks(source, named) if named else 1)
    counted = displayed / float((last + last_duration - first) * stream.time_base)
    # The named rate is exact (30000/1001) if it is true at all; a header may also name a rate that never was.
    fps = named if abs(named - counted) < 0.01 * counted else counted
    return KeyIndex(keys, seeks, ordinals, by_dts=False, last_ticks=last, end_ticks=last + last_duration, fps=fps)
