"""The reader on PyAV: seek to the keyframe before, decode forward, hand out exactly the frame on display."""

from __future__ import annotations

from collections import deque

import av.error
import numpy as np
from av.video.frame import VideoFrame

from ..config import VideoOptions
from ..types import VideoInfo
from .base import Frame, ReadBudget, VideoError, VideoReader, VideoReadError
from .index import build_index, packet_ticks
from .keyframe_run import KeyframeGoneError, KeyframeRun, VideoPacket
from .packet_source import MediaFile, PacketSource
from .picture import orientation, to_rgb

# Only these tell reliably which frames no other frame refers to.
_SKIPPABLE_CODECS = frozenset({"h264", "hevc"})


class FrameDecoder:
    """Decodes a run of packets: frames in display order, each once.

    With `skip`, frames that nobody asked for and no other frame refers to are not decoded; `skipped` tells whether
    that happened. `current` is the frame that was displayed last.
    """

    def __init__(self, source: PacketSource, run: KeyframeRun, *, reorder_depth: int, skip: bool) -> None:
        self.run = run
        self.skipped = False
        self.current: VideoFrame | None = None
        self._codec = source.stream.codec_context
        # Seeking flushed the decoder. That may forget how far frames are reordered, and then B-frames are dropped.
        self._codec.reorder_depth = max(reorder_depth, self._codec.reorder_depth)
        self._skip = skip
        self._ready: deque[VideoFrame] = deque()
        self._drained = False
        self._newest = -(1 << 63)

    @property
    def finished(self) -> bool:
        """Whether the decoder has nothing more to give after `current`."""
        return self._drained and not self._ready

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
            return  # a damaged packet: the frame on display is then the last good one before it
        for frame in frames:
            if frame.pts is None:
                frame.pts = frame.dts
            if frame.pts is None or frame.is_corrupt or frame.pts < self._newest:
                continue  # a time that goes backwards is damage too
            if self.run.key > 0 and frame.pts < self.run.key_pts:
                continue  # it leads an open group, and refers to the group before, which this run has not seen
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
        self._budget = ReadBudget(file.name, deadline_seconds=options.deadline_seconds, max_packets=options.max_packets)
        self._source = PacketSource(file, options)
        try:
            self._open()
        except VideoError:
            self._close()
            raise

    def _open(self) -> None:
        source = self._source
        assert source.stream.time_base is not None  # checked when the source was opened
        self.tick_seconds = source.stream.time_base
        self._reorder_depth = source.stream.codec_context.reorder_depth
        self._index = build_index(source, self._budget)
        self._last_key = len(self._index.key_ticks) - 1
        self._decoder = self._start(0, skip=True)
        frame = self._decoder.first()
        if frame is None:
            raise VideoError(f"{source.path}: no frame of its {source.stream.codec_context.name} stream can be decoded")
        self._first_ticks = frame_ticks(frame)
        self._first_ordinal = self._decoder.run.ordinal(self._first_ticks)
        self._width, self._height, self._turned = frame.width, frame.height, orientation(frame)
        self._colorspace = int(frame.colorspace)
        width, height = self._turned.size(frame.width, frame.height)
        self.info = VideoInfo(
            path=source.path,
            duration_seconds=float(max(1, self._index.end_ticks - self._first_ticks) * self.tick_seconds),
            fps=self._index.fps,
            width=width,
            height=height,
            backend=self.backend,
        )

    def _read(self, ticks: list[int]) -> list[Frame]:
        self._budget.restart()
        absolute = [t + self._first_ticks for t in ticks]
        found: list[Frame] = []
        while len(found) < len(absolute):
            key = self._key_before(absolute[len(found)])
            group = [t for t in absolute[len(found) :] if self._key_before(t) == key]
            found += self._read_group(key, group)
        return found

    def _read_group(self, key: int, group: list[int]) -> list[Frame]:
        """The frames on display at `group` (increasing), decoding from keyframe `key` or from where we are."""
        found: list[Frame] = []
        passed = self._decoder.current
        # Decoding on is cheaper than going back to the keyframe, and possible when nothing asked for has gone by.
        if self._decoder.run.key != key or (passed is not None and frame_ticks(passed) > group[0]):
            self._decoder = self._start(key, skip=True)
        for ticks in group:
            frame = self._frame_at(ticks)
            found.append(frame if frame is not None else self._frame_before(key, ticks))
        return found

    def _frame_at(self, ticks: int) -> Frame | None:
        """The frame on display at `ticks`, or the last good one before it; None if this run shows none so early."""
        run = self._decoder.run
        if run.key > 0 and ticks < run.key_pts:
            return None
        run.look_past(ticks)
        wanted = run.displayed_at(ticks)
        shown = self._decoder.advance(ticks, wanted)
        if self._decoder.skipped and (shown is None or shown.pts != wanted):
            # The wanted frame is damaged, and the good one before it may be among those skipped.
            self._decoder = self._start(run.key, skip=False)
            run = self._decoder.run
            run.look_past(ticks)
            shown = self._decoder.advance(ticks, wanted)
        if shown is None:
            return None
        pts = frame_ticks(shown)
        return Frame(
            image=self._image(shown),
            index=run.ordinal(pts) - self._first_ordinal,
            pts_ticks=pts - self._first_ticks,
            end_ticks=run.end_of(pts) - self._first_ticks,
            is_last=run.ended and (run.is_newest(pts) or self._decoder.finished),
        )

    def _frame_before(self, key: int, ticks: int) -> Frame:
        """The frame on display at `ticks` if decoding from `key` shows nothing so early.

        That is so between a keyframe's dts and its pts, in the pictures that lead an open group, while a picture
        refreshes gradually, and if the keyframe is damaged.
        """
        back = 1
        while key > 0:
            key, back = max(0, key - back), back * 2
            self._decoder = self._start(key, skip=True)
            frame = self._frame_at(ticks)
            if frame is not None:
                return frame
        seconds = float((ticks - self._first_ticks) * self.tick_seconds)
        raise VideoReadError(f"{self.info.path}: no frame can be decoded at or before {seconds:.3f} s")

    def _image(self, frame: VideoFrame) -> np.ndarray:
        return self._finish(to_rgb(frame, width=self._width, height=self._height, turned=self._turned))

    def _keyframe_ticks(self, ticks: list[int]) -> list[int]:
        self._budget.restart()
        known: dict[int, int] = {0: self._first_ticks}  # when each keyframe is displayed
        found: list[int] = []
        for at in (t + self._first_ticks for t in ticks):
            key = self._key_before(at)
            while key not in known or known[key] > at:  # its dts may come before `at` and its pts after
                if key not in known:
                    known[key] = self._run_from(key).key_pts
                key -= known[key] > at
            found.append(known[key] - self._first_ticks)
        # The runs moved the source, and the decoder's own is dead.
        self._decoder = self._start(0, skip=True)
        return found

    def _key_before(self, ticks: int) -> int:
        return min(self._index.before(ticks), self._last_key)

    def _start(self, key: int, *, skip: bool) -> FrameDecoder:
        run = self._run_from(key)
        stream = self._source.stream  # only now: seeking may have opened the file anew
        skip = skip and stream.codec_context.name in _SKIPPABLE_CODECS
        return FrameDecoder(self._source, run, reorder_depth=self._reorder_depth, skip=skip)

    def _run_from(self, key: int) -> KeyframeRun:
        """A run from `key`, or from the last keyframe that is there if the file was cut off before it."""
        try:
            return KeyframeRun(self._source, self._index, key, self._budget)
        except KeyframeGoneError:
            if key == 0:
                raise
        there, gone = 0, key
        while gone - there > 1:
            middle = (there + gone) // 2
            try:
                KeyframeRun(self._source, self._index, middle, self._budget)
                there = middle
            except KeyframeGoneError:
                gone = middle
        self._last_key = there
        return KeyframeRun(self._source, self._index, there, self._budget)

    def _close(self) -> None:
        self._source.close()
        self._file.close()
