"""The reader on NVIDIA DALI: decodes on the GPU (NVDEC), or VP8, VP9 and MJPEG on the CPU.

DALI given a whole file decodes it from the start, tells no times and ignores rotation. So PyAV finds the packets: from
the keyframe before to the last frame asked for they are copied, not decoded, into a Matroska file in memory, and DALI
is asked for exact frame numbers of it. Several keyframes' worth go to DALI as one batch.
"""

from __future__ import annotations

import importlib
import io
from bisect import bisect_left
from dataclasses import dataclass
from typing import Any

import av
import numpy as np

from ..config import VideoOptions, missing_extra
from .base import Frame, VideoError, VideoReadError
from .index import packet_ticks
from .keyframe_run import KeyframeRun
from .packet_source import MediaFile
from .pyav import PyAVReader

_CPU_CODECS = frozenset({"vp8", "vp9", "mjpeg"})
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


def load_dali() -> Any:
    """DALI's dynamic mode. VideoError, naming the extra, if it is not installed."""
    try:
        import nvidia.dali.experimental.dynamic as dynamic
    except ImportError as error:
        raise VideoError(f"backend dali: {missing_extra('nvidia-dali-cuda130', 'dali')} ({error})") from error
    return dynamic


def has_gpu() -> bool:
    """Whether DALI sees a GPU that it can use."""
    backend: Any = importlib.import_module("nvidia.dali.backend")
    return int(backend.GetCUDADeviceCount()) > 0


class DaliReader(PyAVReader):
    """See `open_video`. `device` is "gpu" if DALI sees one, else "cpu".

    Colours are DALI's own BT.601 conversion, corrected by a 3x3 matrix if the stream names another: within a few
    levels of PyAV's, less exact for saturated colours. A damaged packet is a VideoReadError, not the frame before it.
    """

    backend = "dali"

    def __init__(self, file: MediaFile, options: VideoOptions) -> None:
        self._dynamic = load_dali()
        super().__init__(file, options)
        path = file.name
        self.device = "gpu" if has_gpu() else "cpu"
        codec = self._source.stream.codec_context
        if self.device == "cpu" and codec.name not in _CPU_CODECS and codec.codec.canonical_name not in _CPU_CODECS:
            self.close()
            raise VideoError(f"{path}: DALI decodes {codec.name} only on a GPU and sees none; use backend='pyav'")
        if self._colorspace not in _WEIGHTS:
            self.close()
            raise VideoError(f"{path}: backend dali does not know colour space {self._colorspace}; use backend='pyav'")
        self._matrix = bt601_to(_WEIGHTS[self._colorspace]) if _WEIGHTS[self._colorspace] != _BT601 else None

    def _read(self, ticks: list[int]) -> list[Frame]:
        self._budget.restart()
        slices: list[Slice] = []
        rest = [t + self._first_ticks for t in ticks]
        while rest:
            run = self._run_from(self._key_before(rest[0]))
            while run.key > 0 and rest[0] < run.key_pts:  # the keyframe is displayed later than its dts says
                run = self._run_from(run.key - 1)
            group = [t for t in rest if self._key_before(t) <= max(run.key, self._key_before(rest[0]))]
            slices.append(self._cut(run, group))
            rest = rest[len(group) :]
        found: dict[int, Frame] = {}
        for cut, images in zip(slices, self._decode(slices), strict=True):
            frames = {
                shown.number: Frame(images[shown.number], shown.index, shown.pts_ticks, shown.end_ticks, shown.is_last)
                for shown in cut.shown.values()
            }
            found |= {at: frames[shown.number] for at, shown in cut.shown.items()}
        return [found[at] for at in ticks]

    def _cut(self, run: KeyframeRun, group: list[int]) -> Slice:
        """Copy the packets of `run` that the frames at `group` (ticks of the stream) need."""
        run.look_past(group[-1])
        kept, pts = [], []
        for packet in run.queue:
            at = packet_ticks(packet)
            # Pictures that lead an open group refer to what the slice does not hold.
            if at is not None and (run.key == 0 or at >= run.key_pts):
                kept.append(packet)
                pts.append(at)
        pts.sort()
        shown: dict[int, Shown] = {}
        for ticks in group:
            at = run.displayed_at(ticks)
            if at is None:
                raise VideoReadError(f"{self.info.path}: no frame is displayed at tick {ticks}")
            shown[ticks - self._first_ticks] = Shown(
                number=bisect_left(pts, at),
                index=run.ordinal(at) - self._first_ordinal,
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

    def _decode(self, slices: list[Slice]) -> list[dict[int, np.ndarray]]:
        """For each slice, the wanted frames by their number: uint8 [H, W, 3], upright."""
        dynamic = self._dynamic
        data = dynamic.batch([np.frombuffer(cut.data, np.uint8) for cut in slices])
        numbers = dynamic.batch([np.array(cut.numbers, np.int32) for cut in slices])
        try:
            with dynamic.EvalContext(num_threads=self._source.num_threads):
                decoded = dynamic.decoders.video(data, frames=numbers, device=self.device).cpu()
                clips = [np.asarray(clip) for clip in decoded.tensors]
        except RuntimeError as error:
            reason = str(error.__cause__ or error).strip().splitlines()[0]
            raise VideoReadError(f"{self.info.path}: DALI could not decode it on {self.device} ({reason})") from error
        return [
            {number: self._corrected(image) for number, image in zip(cut.numbers, clip, strict=True)}
            for cut, clip in zip(slices, clips, strict=True)
        ]

    def _corrected(self, image: np.ndarray) -> np.ndarray:
        if self._matrix is not None:
            image = np.clip(np.rint(image.astype(np.float32) @ self._matrix.T), 0, 255).astype(np.uint8)
        return self._finish(self._turned.upright(image))


def bt601_to(weights: tuple[float, float]) -> np.ndarray:
    """The matrix [3, 3] from RGB that was converted as BT.601 to RGB of a stream with these weights of red and blue."""
    return (np.linalg.inv(_to_luma(*weights)) @ _to_luma(*_BT601)).astype(np.float32)


def _to_luma(red: float, blue: float) -> np.ndarray:
    """RGB -> (Y, Cb, Cr), all full range: Cb = (B - Y) / 2(1 - blue), Cr = (R - Y) / 2(1 - red)."""
    luma = np.array([red, 1 - red - blue, blue])
    return np.stack(
        [luma, (np.array([0, 0, 1]) - luma) / (2 * (1 - blue)), (np.array([1, 0, 0]) - luma) / (2 * (1 - red))]
    )
