"""The reader on NVIDIA DALI: decodes on the GPU (NVDEC), or VP8, VP9 and MJPEG on the CPU.

DALI given a whole file decodes it from the start, tells no times and ignores rotation. So PyAV finds the packets: from
the keyframe before to the last frame asked for they are copied, not decoded, into a Matroska file in memory, and DALI
is asked for exact frame numbers of it. Several keyframes' worth go to DALI as one batch. Frames on a GPU stay there.
"""

from __future__ import annotations

import io
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import av
import numpy as np
import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from ..config import VideoOptions
from .base import Frame, VideoError, VideoReadError
from .gpu_decoder import is_closed, load_dali, why_not_cpu, why_not_gpu
from .index import Keyframe, packet_ticks
from .keyframe_run import KeyframeRun
from .packet_source import MediaFile
from .pyav import PyAVReader

# Slices on a GPU begin at IDR frames: with others, frame numbers were reported to shift silently (DALI's issues 3387,
# 4709 and 5665). To lift this, `tests/test_video_dali.py::test_same_frames_on_the_gpu` must have passed without it.
GPU_NEEDS_IDR = True

_BATCH_BYTES = 512 << 20  # of decoded frames: more go to DALI in several batches
_BT601 = (0.299, 0.114)  # the weights of red and blue in luma
_WEIGHTS = {1: (0.2126, 0.0722), 2: _BT601, 5: _BT601, 6: _BT601, 9: (0.2627, 0.0593)}  # by AVColorSpace


@dataclass(frozen=True)
class Shown:
    """What is known of a frame before it is decoded: its number in the slice, and the fields of `base.Frame`."""

    number: int
    index: int
    pts_ticks: int
    end_ticks: int
    is_last: bool


@dataclass(frozen=True)
class Slice:
    """A Matroska file in memory, and which of its frames answers which time (ticks from the first frame)."""

    data: bytes
    shown: dict[int, Shown]

    @property
    def numbers(self) -> list[int]:
        """Frames to decode, increasing."""
        return sorted({shown.number for shown in self.shown.values()})


class DaliReader(PyAVReader):
    """See `open_video`. It decodes where the model is: `VideoOptions.device`.

    If DALI cannot show the file as it should look, a backend "dali" is refused and "auto" is read as PyAV does, with a
    note in `info`.

    Colours are DALI's own BT.601 conversion, corrected by a 3x3 matrix if the stream names another: within a few
    levels of PyAV's, less exact for saturated colours. A damaged packet is a VideoReadError, not the frame before it.
    """

    backend = "dali"

    def __init__(self, file: MediaFile, options: VideoOptions) -> None:
        self._device = options.device
        self._context: Any = None
        if options.backend == "dali":
            load_dali()
        super().__init__(file, options)
        try:
            problem = self._problem()
            if problem is not None and options.backend == "dali":
                raise VideoError(f"{file.name}: backend dali: {problem}; use backend pyav")
        except VideoError:
            self.close()
            raise
        self._is_plain = problem is not None
        if problem is not None:
            self.backend = PyAVReader.backend
            notes = (*self.info.notes, f"decoded on the CPU: {problem}")
            self.info = replace(self.info, backend=self.backend, notes=notes)
        else:
            weights = _WEIGHTS[self._rules.colorspace]
            self._matrix = bt601_to(weights) if weights != _BT601 else None

    @property
    def on_gpu(self) -> bool:
        """Whether frames are decoded on a GPU, and stay there."""
        return self._device != "cpu"

    def _problem(self) -> str | None:
        """Why DALI is not the one to decode this file."""
        if not self.on_gpu:
            return why_not_cpu(self._source.stream, self._rules)
        problem = why_not_gpu(self._source.stream, self._rules, device=self._device)
        if problem is None and GPU_NEEDS_IDR:
            self._budget.restart()
            for part in (0.25, 0.5, 0.75):
                at = self._first_ticks + self.to_ticks(part * self.info.duration_seconds)
                if not self._is_closed(KeyframeRun(self._source, self._index, self._index.before(at))):
                    return "its keyframes are not IDR frames (open groups), which was not checked on a GPU yet"
        return problem

    def _is_closed(self, run: KeyframeRun) -> bool:
        codec = self._source.stream.codec_context
        return run.key.is_first or is_closed(bytes(run.queue[0]), codec.name, codec.extradata)

    def _read(self, ticks: list[int]) -> list[Frame]:
        if self._is_plain:
            return super()._read(ticks)
        self._budget.restart()
        slices: list[Slice] = []
        absolute = [t + self._first_ticks for t in ticks]
        keys = [self._index.before(t) for t in absolute]
        done = 0
        while done < len(absolute):
            group = [t for t, key in zip(absolute[done:], keys[done:], strict=True) if key == keys[done]]
            slices.append(self._cut(self._run_for(keys[done], group[0]), group))
            done += len(group)
        found: dict[int, Frame] = {}
        for batch in self._batches(slices):
            for cut, images in zip(batch, self._decode(batch), strict=True):
                frames = {
                    s.number: Frame(images[s.number], s.index, s.pts_ticks, s.end_ticks, s.is_last)
                    for s in cut.shown.values()
                }
                found |= {at: frames[s.number] for at, s in cut.shown.items()}
        return [found[at] for at in ticks]

    def _run_for(self, key: Keyframe, ticks: int) -> KeyframeRun:
        """A run that shows a frame at `ticks`, from a keyframe that the decoder may begin with."""
        run = KeyframeRun(self._source, self._index, key)
        # A keyframe may be displayed later than its dts says.
        while not run.key.is_first and (
            ticks < run.key_pts or (self.on_gpu and GPU_NEEDS_IDR and not self._is_closed(run))
        ):
            run = KeyframeRun(self._source, self._index, self._index.earlier(run.key, 1))
        return run

    def _cut(self, run: KeyframeRun, group: list[int]) -> Slice:
        """Copy the packets of `run` that the frames at `group` (ticks of the stream) need."""
        run.look_past(group[-1])
        kept, pts = [], []
        for packet in run.queue:
            at = packet_ticks(packet)
            # Pictures that lead an open group refer to what the slice does not hold.
            if at is not None and (run.key.is_first or at >= run.key_pts):
                kept.append(packet)
                pts.append(at)
        if run.displayed_at(group[-1]) == run.key_pts:  # a keyframe needs no other
            kept, pts = kept[:1], pts[:1]
        pts.sort()
        shown: dict[int, Shown] = {}
        for ticks in group:
            at = run.displayed_at(ticks)
            if at is None or at not in pts:
                raise VideoReadError(f"{self.info.path}: no frame is displayed at tick {ticks}")
            shown[ticks - self._first_ticks] = Shown(
                number=bisect_left(pts, at),
                index=self._number(run, at),
                pts_ticks=at - self._first_ticks,
                end_ticks=run.end_of(at) - self._first_ticks,
                is_last=run.ended and run.is_newest(at),
            )
        buffer = io.BytesIO()
        with av.open(buffer, "w", format="matroska") as out:
            stream = out.add_stream_from_template(self._source.stream)
            for packet in kept:
                packet.stream = stream
                out.mux(packet)
        return Slice(buffer.getvalue(), shown)

    def _batches(self, slices: list[Slice]) -> Iterator[list[Slice]]:
        frame_bytes = 3 * self.info.width * self.info.height
        batch: list[Slice] = []
        room = _BATCH_BYTES
        for cut in slices:
            size = frame_bytes * len(cut.numbers)
            if batch and size > room:
                yield batch
                batch, room = [], _BATCH_BYTES
            batch.append(cut)
            room -= size
        yield batch

    def _decode(self, slices: list[Slice]) -> list[dict[int, np.ndarray | Tensor]]:
        """For each slice, the wanted frames by their number: uint8 [H, W, 3], upright, and resized if that is asked."""
        dynamic = load_dali()
        data = dynamic.batch([np.frombuffer(cut.data, np.uint8) for cut in slices])
        numbers = dynamic.batch([np.array(cut.numbers, np.int32) for cut in slices])
        try:
            with gpu_stream(self._device) as where:
                if self._context is None:  # with its threads: making them takes long
                    self._context = dynamic.EvalContext(num_threads=self._source.num_threads, **where)
                with self._context:
                    decoded = dynamic.decoders.video(data, frames=numbers, device="gpu" if where else "cpu")
                    clips = [from_dlpack(clip) for clip in decoded.tensors]
                return [
                    {number: self._corrected(image) for number, image in zip(cut.numbers, clip, strict=True)}
                    for cut, clip in zip(slices, clips, strict=True)
                ]
        except RuntimeError as error:
            reason = str(error.__cause__ or error).strip().splitlines()[0]
            raise VideoReadError(f"{self.info.path}: DALI could not decode it on {self._device} ({reason})") from error

    def _corrected(self, image_HW3: Tensor) -> np.ndarray | Tensor:
        if self._matrix is not None:
            matrix = torch.from_numpy(self._matrix).to(image_HW3.device)
            image_HW3 = (image_HW3.float() @ matrix.T).round_().clamp_(0, 255).to(torch.uint8)
        turned = self._rules.turned
        if turned.transpose:
            image_HW3 = image_HW3.transpose(0, 1)
        mirrored = [axis for axis, is_so in ((1, turned.mirror_columns), (0, turned.mirror_rows)) if is_so]
        image_HW3 = image_HW3.flip(mirrored) if mirrored else image_HW3
        return self._finish(image_HW3.contiguous() if self.on_gpu else image_HW3.contiguous().numpy())


@contextmanager
def gpu_stream(device: str) -> Iterator[dict[str, Any]]:
    """What DALI is told of the model's GPU, its number and stream; nothing on the CPU.

    At its end all that was started on the stream is done: other threads, with streams of their own, may use it.
    """
    if device == "cpu":
        yield {}
        return
    with torch.cuda.device(device):
        stream = torch.cuda.current_stream()
        yield {"device_id": torch.cuda.current_device(), "cuda_stream": stream.cuda_stream}
        stream.synchronize()


def bt601_to(weights: tuple[float, float]) -> np.ndarray:
    """The matrix [3, 3] from RGB that was converted as BT.601 to RGB of a stream with these weights of red and blue."""
    return (np.linalg.inv(_to_luma(*weights)) @ _to_luma(*_BT601)).astype(np.float32)


def _to_luma(red: float, blue: float) -> np.ndarray:
    """RGB -> (Y, Cb, Cr), all full range: Cb = (B - Y) / 2(1 - blue), Cr = (R - Y) / 2(1 - red)."""
    luma = np.array([red, 1 - red - blue, blue])
    return np.stack(
        [luma, (np.array([0, 0, 1]) - luma) / (2 * (1 - blue)), (np.array([1, 0, 0]) - luma) / (2 * (1 - red))]
    )
