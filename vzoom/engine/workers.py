"""What is done beside the model: decoding clips, and, where overlap is on, encoding them.

A result comes as a Future either way, so the engine reads the same whether it waits or not.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import torch

from ..types import Clip
from ..video import FrameSource

T = TypeVar("T")


class SharedVideo:
    """A video that several sessions and workers read; closed when the last of them lets it go."""

    def __init__(self, video: FrameSource) -> None:
        self.video = video
        self._lock = threading.Lock()
        self._holders = 1

    def retain(self) -> SharedVideo:
        with self._lock:
            assert self._holders > 0, "a closed video was shared"
            self._holders += 1
        return self

    def release(self) -> None:
        with self._lock:
            self._holders -= 1
            last = self._holders == 0
        if last:
            self.video.close()


@dataclass(frozen=True)
class Decoding:
    """A clip on its way: (clip, milliseconds that decoding took)."""

    timestamps: tuple[float, ...]
    future: Future[tuple[Clip, float]]


class Workers:
    """Threads for decoding and, with `overlap`, one for the vision tower (on CUDA: on a stream of its own)."""

    def __init__(self, device: torch.device, *, overlap: bool, num_decoders: int = 2) -> None:
        self._device = device
        self._decoders = ThreadPoolExecutor(num_decoders, "vzoom-decode")
        self._tower = ThreadPoolExecutor(1, "vzoom-vision") if overlap else None
        self._stream = torch.cuda.Stream(device) if overlap and device.type == "cuda" else None

    def decode(self, video: SharedVideo, timestamps: Sequence[float]) -> Decoding:
        future = self._decoders.submit(_timed_frames, video.retain().video, timestamps)
        future.add_done_callback(lambda _: video.release())
        return Decoding(tuple(timestamps), future)

    def encode(self, run: Callable[[], T]) -> Future[T]:
        """`run` in the vision thread, or here and now without overlap: then its exceptions are raised here."""
        if self._tower is not None:
            return self._tower.submit(self._on_stream, run)
        done: Future[T] = Future()
        done.set_result(run())
        return done

    def close(self) -> None:
        """Drop what has not begun; what runs is finished in the background and forgotten."""
        for pool in (self._decoders, self._tower):
            if pool is not None:
                pool.shutdown(wait=False, cancel_futures=True)

    def _on_stream(self, run: Callable[[], T]) -> T:
        if self._stream is None:
            return run()
        with torch.cuda.stream(self._stream):
            result = run()
        self._stream.synchronize()  # this thread waits, so that whoever takes the result need not
        return result


def _timed_frames(video: FrameSource, timestamps: Sequence[float]) -> tuple[Clip, float]:
    started = time.perf_counter()
    clip = video.frames_at(timestamps)
    return clip, (time.perf_counter() - started) * 1e3
