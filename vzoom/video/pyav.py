"""The reader on PyAV: seek to the keyframe before, decode forward, hand out exactly the frame on display."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

import av.error
import numpy as np
from av.video.frame import VideoFrame

from ..config import VideoOptions
from ..types import VideoInfo
from .base import Frame, ReadBudget, VideoError, VideoReader, VideoReadError
from .index import MAX_REORDER, Keyframe, build_index, packet_ticks
from .keyframe_run import KeyframeRun, VideoPacket
from .packet_source import MediaFile, PacketSource
from .picture import rules_of

# Only these tell reliably which frames no other frame refers to.
_SKIPPABLE_CODECS = frozenset({"h264", "hevc"})
# Flushing these is as good as opening them anew. Other decoders keep something of what they decoded before, which shows
# where a picture is damaged: what was read before must not decide how a frame looks.
_FLUSHABLE_CODECS = frozenset({"h264", "hevc"})
_BEGINNING = -(1 << 62)  # before any time that a file can name


class FrameDecoder:
    """Decodes a run of packets: frames in display order, each once.

    With `skip`, frames that nobody asked for and no other frame refers to are not decoded; `skipped` tells whether
    that happened. `is_damaged` tells whether anything that was read so far could not be decoded: later frames may refer
    to it.

    Frames are decoded before those that refer to them, and may be displayed after: `horizon` is the latest time of a
    frame that was given to the decoder, `corrupt` has the times of those that came out damaged.

    `current` is the frame that was displayed last. Nobody else may hold a frame while decoding goes on: the decoder
    writes into memory that is free, and the damaged part of a picture shows what was there before.
    """

    def __init__(self, source: PacketSource, run: KeyframeRun, *, reorder_depth: int, skip: bool) -> None:
        self.run = run
        self.skipped = False
        self.current: VideoFrame | None = None
        self._source, self._codec = source, source.stream.codec_context
        self._errors, self._damaged_before = 0, source.num_damaged
        # Seeking flushed the decoder. That may forget how far frames are reordered, and then B-frames are dropped.
        self._codec.reorder_depth = max(reorder_depth, self._codec.reorder_depth)
        self._skip = skip
        self._ready: deque[VideoFrame] = deque()
        self._drained = False
        self._newest = self._latest_out = self.horizon = _BEGINNING
        self.corrupt: list[int] = []

    @property
    def finished(self) -> bool:
        """Whether the decoder has nothing more to give after `current`."""
        return self._drained and not self._ready

    @property
    def passed(self) -> int:
        """When `current` is displayed; the beginning of all time if there is none yet."""
        return frame_ticks(self.current) if self.current is not None else _BEGINNING

    @property
    def is_damaged(self) -> bool:
        return self._errors > 0 or self._source.num_damaged > self._damaged_before

    def advance(self, ticks: int, wanted: int | None) -> VideoFrame | None:
        """Decode until `current` is the frame at `wanted`, or the last that can be decoded with pts <= ticks."""
        while self.current is None or self.current.pts != wanted:
            if not self._ready and not self._decode_more(wanted):
                break
            if self._ready:
                if frame_ticks(self._ready[0]) > ticks:
                    break
                self.current = self._ready.popleft()
        return self.current

    def settle(self) -> None:
        """Decode on until all that `current` may refer to has come out. Nothing is skipped, and nothing lost.

        Only if frames were skipped: else a damaged picture looks as it always does, and frames that are held make a
        difference to the next.
        """
        if not self.skipped:
            return
        horizon = self.horizon
        for _ in range(MAX_REORDER):
            if self._latest_out >= horizon or not self._decode_more(None):
                return

    def first(self) -> VideoFrame | None:
        """The first frame that comes out; it stays ready."""
        while not self._ready and self._decode_more(None):
            pass
        return self._ready[0] if self._ready else None

    def _decode_more(self, wanted: int | None) -> bool:
        """Give the decoder one packet, or the end of the file; False if it has had that already."""
        if self._drained:
            return False
        if self.run.queue or self.run.pull():
            packet = self.run.queue.popleft()
            ticks = packet_ticks(packet)
            if ticks is not None:
                self.horizon = max(self.horizon, ticks)
            unwanted = self._skip and wanted is not None and ticks is not None and ticks < wanted
            self._codec.skip_frame = "NONREF" if unwanted else "DEFAULT"
            self.skipped |= unwanted
            self._take(packet)
        else:
            self._drained = True
            self._take(None)
        return True

    def _take(self, packet: VideoPacket | None) -> None:
        try:
            frames = self._codec.decode(packet)
        except av.error.FFmpegError:
            self._errors += 1
            return  # a damaged packet: the frame on display is then the last good one before it
        for frame in frames:
            if frame.pts is None:
                frame.pts = frame.dts
            if frame.pts is not None and not self.run.key.is_first and frame.pts < self.run.key_pts:
                continue  # it leads an open group, and refers to the group before, which this run has not seen
            if frame.pts is not None:
                self._latest_out = max(self._latest_out, frame.pts)
            if frame.pts is None or frame.is_corrupt or frame.pts < self._newest:
                self._errors += 1  # a time that goes backwards is damage too
                self.corrupt += [frame.pts] if frame.pts is not None else []
                continue
            self._newest = frame.pts
            self._ready.append(frame)


def frame_ticks(frame: VideoFrame) -> int:
    """When the frame is displayed; `FrameDecoder` lets none through that does not say."""
    assert frame.pts is not None
    return frame.pts


class PyAVReader(VideoReader):
    """See `open_video`. One decoding thread unless asked for more, and nothing decodes between calls."""

    backend = "pyav"

    def __init__(self, file: MediaFile, options: VideoOptions) -> None:
        super().__init__()
        self._file, self.file_key = file, file.key
        self._shown_at: dict[Keyframe, int] = {}  # of keyframes that were asked for as such
        self._budget = ReadBudget(file.name, deadline_seconds=options.deadline_seconds, max_packets=options.max_packets)
        self._source = PacketSource(file, options, self._budget)
        try:
            self._open(approximate=options.seek_mode == "approximate")
        except VideoError:
            self._close()
            raise

    def _open(self, *, approximate: bool) -> None:
        source = self._source
        self.tick_seconds = source.tick_seconds
        self._reorder_depth = source.stream.codec_context.reorder_depth
        self._index = build_index(source, approximate=approximate)
        self._decoder = self._start(self._index.before(_BEGINNING), skip=True)
        frame = self._decoder.first()
        if frame is None:
            raise VideoError(f"{source.path}: {source.no_frame()}")
        self._first_ticks = frame_ticks(frame)
        self._first_ordinal = self._decoder.run.ordinal(self._first_ticks)
        self._rules = rules_of(source.stream, frame)
        self.stored = {
            "container": source.format_name,
            "stream": source.stream.index,
            "codec": source.stream.codec_context.codec.canonical_name,
            "pixel_format": self._rules.pixel_format,
        }
        width, height = self._rules.size  # square pixels may make it much larger than what is stored
        source.check_size(width, height)
        source.leave()  # asked for its side data, a frame of PyAV's lives on until Python collects its garbage
        timing = self._index.timing
        self.info = VideoInfo(
            path=source.path,
            duration_seconds=float(max(1, timing.end_ticks - self._first_ticks) * self.tick_seconds),
            fps=timing.fps,
            width=width,
            height=height,
            max_fps=timing.max_fps,
            backend=self.backend,
            notes=self._rules.notes,
        )

    def _read(self, ticks: list[int]) -> list[Frame]:
        self._budget.restart()
        absolute = [t + self._first_ticks for t in ticks]
        # All at once: looking for a keyframe may move the source away from where we decode.
        keys = [self._index.before(t) for t in absolute]
        found: list[Frame] = []
        while len(found) < len(absolute):
            key = keys[len(found)]
            group = [t for t, own in zip(absolute[len(found) :], keys[len(found) :], strict=True) if own == key]
            found += self._read_group(key, group)
        return found

    def _shown_in(self, start: int, end: int, *, limit: int) -> list[int] | None:
        self._budget.restart()
        first = self._first_ticks
        run = KeyframeRun(self._source, self._index, self._index.before(start + first))
        while not run.key.is_first and run.key_pts > start + first:
            run = KeyframeRun(self._source, self._index, self._index.earlier(run.key, 1))
        shown = run.shown_in(start + first, end + first, limit=limit)
        return None if shown is None else [at - first for at in shown if at >= first] or [start]

    def _read_group(self, key: Keyframe, group: list[int]) -> list[Frame]:
        """The frames on display at `group` (increasing), decoding from keyframe `key` or from where we are."""
        if group == [self._shown_at.get(key)] and (lone := self._lone_keyframe(key)) is not None:
            return [lone]
        found: list[Frame] = []
        run = self._decoder.run
        # Decoding on is cheaper than going back to the keyframe, and possible when nothing asked for has gone by.
        if run.is_dead or run.key != key or self._decoder.passed > group[0]:
            self._decoder = self._start(key, skip=True)
        seen: list[tuple[FrameDecoder, int]] = []
        for ticks in group:
            frame = self._frame_at(ticks)
            found.append(frame if frame is not None else self._frame_before(key, ticks))
            seen.append((self._decoder, self._decoder.horizon))
        self._decoder.settle()
        return [
            replace(frame, is_damaged=True) if self._turned_out_damaged(frame, ticks, decoder, horizon) else frame
            for frame, ticks, (decoder, horizon) in zip(found, group, seen, strict=True)
        ]

    def _turned_out_damaged(self, frame: Frame, ticks: int, decoder: FrameDecoder, horizon: int) -> bool:
        """Whether what was read since shows that `frame`, the answer to `ticks`, is not what was recorded."""
        pts = frame.pts_ticks + self._first_ticks
        # Decoded before it and displayed after it, up to `horizon`: it may refer to these.
        refers = any(pts < other <= horizon for other in decoder.corrupt)
        # A packet came later than its time allows.
        other_is_due = not frame.is_last and decoder.run.displayed_at(ticks) not in (None, pts)
        return refers or other_is_due

    def _frame_at(self, ticks: int) -> Frame | None:
        """The frame on display at `ticks`, or the last good one before it; None if this run shows none so early."""
        run = self._decoder.run
        if not run.key.is_first and ticks < run.key_pts:
            return None
        run.look_past(ticks)
        wanted = run.displayed_at(ticks)
        shown = self._decoder.advance(ticks, wanted)
        if self._decoder.skipped and (shown is None or shown.pts != wanted):
            # The wanted frame is damaged, and the good one before it may be among those skipped.
            del shown
            self._decoder = self._start(run.key, skip=False)
            run = self._decoder.run
            run.look_past(ticks)
            shown = self._decoder.advance(ticks, wanted)
        if shown is None:
            return None
        pts = frame_ticks(shown)
        return Frame(
            image=self._image(shown),
            index=self._number(run, pts),
            pts_ticks=pts - self._first_ticks,
            end_ticks=run.end_of(pts) - self._first_ticks,
            is_last=run.ended and (run.is_newest(pts) or self._decoder.finished),
            is_damaged=self._decoder.is_damaged,
        )

    def _number(self, run: KeyframeRun, pts: int) -> int:
        """How many displayed frames come before the one at `pts`."""
        ordinal = run.ordinal(pts)
        if ordinal is None or self._first_ordinal is None:  # not counted, because the rate is constant
            return round((pts - self._first_ticks) * float(self.tick_seconds) * self.info.fps)
        return ordinal - self._first_ordinal

    def _frame_before(self, key: Keyframe, ticks: int) -> Frame:
        """The frame on display at `ticks` if decoding from `key` shows nothing so early.

        That is so between a keyframe's dts and its pts, in the pictures that lead an open group, while a picture
        refreshes gradually, and if the keyframe is damaged.
        """
        back = 1
        while not key.is_first:
            key, back = self._index.earlier(key, back), back * 2
            self._decoder = self._start(key, skip=True)
            frame = self._frame_at(ticks)
            if frame is not None:
                return frame
        seconds = float((ticks - self._first_ticks) * self.tick_seconds)
        raise VideoReadError(f"{self.info.path}: no frame can be decoded at or before {seconds:.3f} s")

    def _image(self, frame: VideoFrame) -> np.ndarray:
        return self._finish(self._rules.rgb(frame))

    def _keyframe_ticks(self, ticks: list[int]) -> list[int]:
        self._budget.restart()
        self._shown_at[self._index.before(_BEGINNING)] = self._first_ticks
        found: list[int] = []
        for at in (t + self._first_ticks for t in ticks):
            key = self._index.before(at)
            while (shown := self._shown(key)) > at:  # its dts may come before `at` and its pts after
                key = self._index.earlier(key, 1)
            found.append(shown - self._first_ticks)
        return found

    def _shown(self, key: Keyframe) -> int:
        """When a keyframe is displayed."""
        if key not in self._shown_at:
            self._shown_at[key] = (
                KeyframeRun(self._source, self._index, key).key_pts if self._index.by_dts else key.ticks
            )
        return self._shown_at[key]

    def _lone_keyframe(self, key: Keyframe) -> Frame | None:
        """The keyframe, of which nothing but its own packet is decoded; None if it is damaged."""
        run = KeyframeRun(self._source, self._index, key)
        run.look_past(run.key_pts)
        codec = self._source.stream.codec_context
        codec.skip_frame = "DEFAULT"
        damaged = self._source.num_damaged
        try:
            frames = [*codec.decode(run.queue[0]), *codec.decode(None)]
        except av.error.FFmpegError:
            return None
        finally:
            self._source.leave()  # the decoder was told that this is the end
        shown = next((f for f in frames if f.pts == run.key_pts and not f.is_corrupt), None)
        if shown is None or self._source.num_damaged > damaged:
            return None
        return Frame(
            image=self._image(shown),
            index=self._number(run, run.key_pts),
            pts_ticks=run.key_pts - self._first_ticks,
            end_ticks=run.end_of(run.key_pts) - self._first_ticks,
            is_last=run.ended and run.is_newest(run.key_pts),
        )

    def _start(self, key: Keyframe, *, skip: bool) -> FrameDecoder:
        context = self._source.stream.codec_context
        codec = context.codec.canonical_name
        may_lack_frames = self._index.timing.may_lack_frames
        # With more colour than 4:2:0 damage is not concealed.
        is_flushable = codec in _FLUSHABLE_CODECS and "420" in (context.pix_fmt or "")
        if not is_flushable or may_lack_frames:
            self._source.reopen()
        run = KeyframeRun(self._source, self._index, key)
        # What a decoder shows in place of a lost frame depends on all that it has decoded.
        skip = skip and codec in _SKIPPABLE_CODECS and not may_lack_frames
        return FrameDecoder(self._source, run, reorder_depth=self._reorder_depth, skip=skip)

    def close(self) -> None:
        self._source.interrupt()  # a read that is going on in another thread holds the lock
        super().close()

    def _reopen(self) -> None:
        self._budget.restart()
        self._source.abandon()

    def _close(self) -> None:
        self._source.close()
        self._file.close()
