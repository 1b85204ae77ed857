"""The readers of videos that are compared, and the process that each of them runs in.

Each is opened on a path and has `frames(indices)`: uint8 [N, H, W, 3] RGB, and `pixel_values(seconds)`: what a
Qwen2.5-VL tower takes. The peers' pixel values come from transformers' own (PIL) processor. Run as a program it reads
one JSON command a line and answers with one; every figure is CPU milliseconds of all its threads.
"""

from __future__ import annotations

import json
import math
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

MAX_PIXELS = 100352
MIN_PIXELS = 3136


class Peer:
    """A reader that gives frames, and transformers' processor after it."""

    def __init__(self, path: str, fps: int) -> None:
        self.path, self.fps = path, fps

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        raise NotImplementedError

    def pixel_values(self, seconds: Sequence[float]) -> Any:
        from PIL import Image

        images = [Image.fromarray(frame) for frame in self.frames([round(t * self.fps) for t in seconds])]
        # What the public code of the model does to a frame that is too large, before the processor.
        width, height = images[0].size
        if width * height > MAX_PIXELS:
            scale = math.sqrt(MAX_PIXELS / (width * height))
            size = (int(width * scale), int(height * scale))
            images = [image.resize(size, Image.Resampling.LANCZOS) for image in images]
        return processor()(images=images, return_tensors="np")["pixel_values"]


_processors: list[Any] = []


def processor() -> Any:
    """transformers' image processor of Qwen2-VL, made once."""
    if not _processors:
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

        size = {"shortest_edge": MIN_PIXELS, "longest_edge": MAX_PIXELS}
        _processors.append(Qwen2VLImageProcessorPil(size=size))
    return _processors[0]


class Decord(Peer):
    def __init__(self, path: str, fps: int) -> None:
        super().__init__(path, fps)
        import decord

        self.reader = decord.VideoReader(path, num_threads=1)

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        return np.asarray(self.reader.get_batch(list(indices)).asnumpy())


class TorchCodec(Peer):
    seek_mode = "exact"

    def __init__(self, path: str, fps: int) -> None:
        super().__init__(path, fps)
        from torchcodec.decoders import VideoDecoder

        self.decoder = VideoDecoder(path, seek_mode=self.seek_mode, num_ffmpeg_threads=1, dimension_order="NHWC")

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        return np.asarray(self.decoder.get_frames_at(list(indices)).data.numpy())


class TorchCodecApproximate(TorchCodec):
    seek_mode = "approximate"


class OpenCV(Peer):
    def __init__(self, path: str, fps: int) -> None:
        super().__init__(path, fps)
        import cv2

        cv2.setNumThreads(1)
        self.cv2 = cv2
        self.capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
        self.next = 0

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        found = []
        for index in indices:
            if not 0 <= index - self.next < self.fps:  # reading on is cheaper than a seek, and as exact
                self.capture.set(self.cv2.CAP_PROP_POS_FRAMES, index)
                self.next = index
            while self.next < index:
                self.capture.grab()
                self.next += 1
            ok, image = self.capture.read()
            assert ok, f"OpenCV gave no frame {index}"
            self.next += 1
            found.append(self.cv2.cvtColor(image, self.cv2.COLOR_BGR2RGB))
        return np.stack(found)


class PyAVByHand(Peer):
    """Seek to the keyframe before, decode on, convert what was asked for: as one writes it in an afternoon."""

    def __init__(self, path: str, fps: int) -> None:
        super().__init__(path, fps)
        import av

        self.container = av.open(path)
        self.stream = self.container.streams.video[0]
        self.stream.codec_context.thread_count = 1
        self.stream.thread_type = "NONE"
        self.begin = self.stream.start_time or 0
        self.tick = self.stream.time_base

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        found: list[np.ndarray] = []
        decoded, at = iter(()), math.inf
        for index in indices:
            seconds = index / self.fps
            if not 0 <= seconds - at < 1:
                self.container.seek(self.begin + int(seconds / self.tick), stream=self.stream)
                decoded = self.container.decode(self.stream)
            for frame in decoded:
                at = float((frame.pts - self.begin) * self.tick)
                if at >= seconds - 0.5 / self.fps:
                    found.append(frame.to_ndarray(format="rgb24", threads=1))
                    break
        return np.stack(found)

    def keyframes(self, seconds: Sequence[float]) -> np.ndarray:
        self.stream.codec_context.skip_frame = "NONKEY"
        found = []
        for t in seconds:
            self.container.seek(self.begin + int(t / self.tick), stream=self.stream)
            found.append(next(self.container.decode(self.stream)).to_ndarray(format="rgb24", threads=1))
        self.stream.codec_context.skip_frame = "DEFAULT"
        return np.stack(found)


class Vzoom:
    """`ClipCache`, as an engine reads."""

    def __init__(self, path: str, fps: int) -> None:
        import torch

        from vzoom.config import ZoomConfig
        from vzoom.video import ClipCache, PatchBuffer, PatchSpec, frames_to_patches, open_video

        self.fps, self.config, self.spec = fps, ZoomConfig(), PatchSpec()
        assert (self.config.min_pixels, self.config.max_pixels) == (MIN_PIXELS, MAX_PIXELS)
        self.patches, self.buffer, self.dtype = frames_to_patches, PatchBuffer(), torch.float32
        self.reader = open_video(path)
        self.cache = ClipCache(0)  # nothing is found again: every call decodes
        self.video = self.cache.open(self.reader, config=self.config, spec=self.spec)

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        return self.reader.frames_at([(index + 0.01) / self.fps for index in indices]).images

    def pixel_values(self, seconds: Sequence[float]) -> Any:
        return self._patches(self.video.frames_at(seconds))

    def keyframe_values(self, seconds: Sequence[float]) -> Any:
        return self._patches(self.video.keyframes_at(seconds))  # type: ignore[attr-defined]  # CachedVideo has it

    def keyframes(self, seconds: Sequence[float]) -> tuple[np.ndarray, list[int]]:
        clip = self.reader.keyframes_at(seconds)
        return clip.images, list(clip.frame_indices)

    def _patches(self, clip: Any) -> Any:
        from vzoom.video import grid_for

        height, width = grid_for(*clip.frames.shape[1:3], config=self.config, spec=self.spec)
        import torch

        out = self.buffer.take(len(clip) * height * width, self.spec, dtype=self.dtype, device=torch.device("cpu"))
        return self.patches(clip.frames, config=self.config, spec=self.spec, out=out)[0].numpy()


READERS: dict[str, Callable[[str, int], Any]] = {
    "vzoom": Vzoom,
    "torchcodec exact": TorchCodec,
    "torchcodec approximate": TorchCodecApproximate,
    "OpenCV": OpenCV,
    "PyAV by hand": PyAVByHand,
    "decord": Decord,
}
PACKAGES = {
    "vzoom": "vzoom",
    "torchcodec exact": "torchcodec",
    "torchcodec approximate": "torchcodec",
    "OpenCV": "opencv-python-headless",
    "PyAV by hand": "av",
    "decord": "decord",
}


class Worker:
    """Carries out commands: see `bench_video.Reader` for what they are."""

    def __init__(self, name: str, path: str, kind: dict[str, Any]) -> None:
        sys.path.insert(0, str(Path(__file__).parents[1]))
        from videos import FPS, Kind, read_number

        self.name, self.path, self.kind, self.fps, self.read_number = name, path, Kind(**kind), FPS, read_number
        if name != "vzoom":
            processor()  # imported before anything is timed
        self.reader = READERS[name](path, self.fps)

    def check(self, indices: list[int], keyframes: list[float]) -> dict[str, Any]:
        """Every frame is the one that was asked for, by the number that is painted into it."""
        frames = self.reader.frames(indices)
        seen = [self.read_number(frame, self.kind) for frame in frames]
        wrong = sum(a != b for a, b in zip(seen, indices, strict=True))
        if self.name == "vzoom":
            images, told = self.reader.keyframes(keyframes)
            wrong += sum(self.read_number(image, self.kind) != n for image, n in zip(images, told, strict=True))
        return {"wrong": wrong, "digest": float(np.asarray(self.reader.pixel_values([indices[0] / self.fps])).sum())}

    def open(self) -> dict[str, Any]:
        return timed(lambda: READERS[self.name](self.path, self.fps))

    def values(self, seconds: list[float]) -> dict[str, Any]:
        return timed(lambda: self.reader.pixel_values(seconds)) | {"peak_mib": peak_mib()}

    def keyframe_values(self, seconds: list[float]) -> dict[str, Any]:
        return timed(lambda: self.reader.keyframe_values(seconds))

    def floor(self, groups: list[list[int]]) -> dict[str, Any]:
        """Decoding each [keyframe, last frame, frames wanted] from its keyframe on, and converting those wanted."""
        import av

        with av.open(self.path) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            stream.thread_type = "NONE"
            began = time.process_time()
            for key, last, wanted in groups:
                container.seek(int(key / self.fps / stream.time_base) + 1, stream=stream)
                frames = container.decode(stream)
                frame = None
                for _ in range(last - key + 1):
                    frame = next(frames)
                for _ in range(wanted):
                    frame.reformat(format="rgb24", threads=1)
            return {"cpu_ms": (time.process_time() - began) * 1e3}


def timed(call: Callable[[], Any]) -> dict[str, Any]:
    began = time.process_time()
    call()
    return {"cpu_ms": (time.process_time() - began) * 1e3}


def peak_mib() -> float:
    """The largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def version(name: str) -> str:
    from importlib.metadata import version as of

    return of(PACKAGES[name])


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    for name in ("torch",):
        __import__(name).set_num_threads(1)
    name, path, kind = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    try:
        worker = Worker(name, path, kind)
        answer: dict[str, Any] = {"version": version(name)}
    except (ImportError, OSError, RuntimeError) as error:
        answer = {"error": f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"}
    print(json.dumps(answer), file=answers, flush=True)
    if "error" in answer:
        return
    for line in sys.stdin:
        command = json.loads(line)
        method = getattr(worker, command.pop("do"))
        print(json.dumps(method(**command)), file=answers, flush=True)


if __name__ == "__main__":
    main()
