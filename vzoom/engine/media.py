"""How clips come in: threads decode frames and compute visual features, for all sessions together.

A result is a Future in any case, so the engine reads the same whether it waits for it or not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any, TypeVar

import torch

from ..config import ZoomConfig
from ..models import Checkpoint, FeatureCache, encode_clips
from ..types import Clip, Event, TurnEnded, calls_of
from ..video import PatchBuffer, VideoReadError, look_each
from .daemon_pool import DaemonPool
from .running_session import Encoded, PendingClip, PendingFeatures, RunningSession, SharedVideo
from .session import NeedFrames, NeedTokens

T = TypeVar("T")


class Media:
    """Decodes and encodes clips for an engine. With `overlap` no session waits for the clip of another."""

    def __init__(self, checkpoint: Checkpoint, cache: FeatureCache, *, overlap: bool, max_step_tokens: int) -> None:
        self.cache = cache
        self.overlap = overlap
        self._checkpoint = checkpoint
        self._max_step_tokens = max_step_tokens
        self._buffer = PatchBuffer()
        self._threads = _Threads(checkpoint.model.device, overlap=overlap)

    def fetch(self, running: RunningSession, need: NeedFrames, events: list[Event]) -> None:
        """Hand the session its clip once it is decoded.

        Raises:
            Exception: what the model cannot mend: the glance cannot be read or does not fit, or decoding failed for
                another reason than the file.
        """
        is_glance = need.call is None
        keyframes = is_glance and running.session.config.glance == "keyframe"
        self._decode(running, need, keyframes=keyframes)
        assert running.pending_clip is not None
        if self.overlap and not running.pending_clip.future.done():
            return
        session, started = running.session, time.perf_counter()
        pending, running.pending_clip = running.pending_clip, None
        clip: Clip | None = None
        try:
            clip, per_clip, milliseconds = pending.future.result()
            session.splice(clip, per_clip)
        except VideoReadError as error:
            if need.call is None:
                raise
            session.unreadable(str(error))
            clip, milliseconds = None, (time.perf_counter() - started) * 1e3
        running.stage_ms["decode"] = milliseconds
        if need.call is not None:
            accepted = bool(calls_of(session.turn.outcome))
            events.append(TurnEnded(running.request_id, session.turn, clip if accepted else None))

    def prefetch(self, running: RunningSession) -> None:
        """Start to decode the frames that the call being written seems to ask for."""
        if running.session.prefetch_seconds and not isinstance(running.session.action, NeedFrames):
            seconds = running.session.prefetch_seconds
            self._decode(running, NeedFrames(seconds, None, (len(seconds),)), keyframes=False)

    def encode(self, sessions: Sequence[RunningSession]) -> None:
        """Start the vision tower on the clips whose turn it is, all those of a step in one run."""
        new: list[tuple[RunningSession, list[Clip]]] = []
        room = self._max_step_tokens
        for running in sessions:
            need = running.session.action
            if not isinstance(need, NeedTokens) or running.pending_features is not None:
                continue
            clips = running.clips_to_encode(need)
            if clips and (not new or running.num_tokens_to_run(need) <= room):
                new.append((running, clips))
                room -= running.num_tokens_to_run(need)
        if not new:
            return
        inputs = [(clip, running.session.config) for running, clips in new for clip in clips]
        shared = self._threads.encode(lambda: self._encoded(inputs))
        first = 0
        for running, clips in new:
            running.pending_features = PendingFeatures(shared, range(first, first + len(clips)))
            first += len(clips)

    def wait(self, sessions: Sequence[RunningSession]) -> None:
        """Wait until a clip or features that a session needs are done. Returns at once if none are pending."""
        pending: list[Future[Any]] = [
            s.pending_clip.future for s in sessions if s.pending_clip and isinstance(s.session.action, NeedFrames)
        ]
        pending += [s.pending_features.future for s in sessions if s.pending_features]
        if pending:
            wait(pending, return_when=FIRST_COMPLETED)

    def close(self) -> None:
        self._threads.close()

    def _decode(self, running: RunningSession, need: NeedFrames, *, keyframes: bool) -> None:
        pending = running.pending_clip
        if pending is None or not pending.answers(need):
            running.drop_pending_clip()
            running.pending_clip = self._threads.decode(running.video, need, keyframes)

    def _encoded(self, inputs: list[tuple[Clip, ZoomConfig]]) -> Encoded:
        return encode_clips(
            inputs, self._checkpoint.model, spec=self._checkpoint.patch_spec, cache=self.cache, buffer=self._buffer
        )


class _Threads:
    """Threads for decoding and, with `overlap`, one for the vision tower (on CUDA: on a stream of its own)."""

    def __init__(self, device: torch.device, *, overlap: bool, num_decoders: int = 2) -> None:
        self._decoders = DaemonPool(num_decoders, "vzoom-decode")
        self._tower = DaemonPool(1, "vzoom-vision") if overlap else None
        self._stream = torch.cuda.Stream(device) if overlap and device.type == "cuda" else None

    def decode(self, video: SharedVideo, need: NeedFrames, keyframes: bool) -> PendingClip:
        future = self._decoders.submit(_timed_frames, video.retain(), need, keyframes)
        future.add_done_callback(lambda _: video.release())
        return PendingClip(need, future)

    def encode(self, run: Callable[[], T]) -> Future[T]:
        """`run` in the vision thread; without overlap here and now."""
        if self._tower is not None:
            return self._tower.submit(self._on_stream, run)
        done: Future[T] = Future()
        try:
            done.set_result(run())
        except Exception as error:  # noqa: BLE001  raised to whoever takes the result, as from the thread
            done.set_exception(error)
        return done

    def close(self) -> None:
        """Drop what has not begun; what runs is finished in the background and forgotten."""
        for pool in (self._decoders, self._tower):
            if pool is not None:
                pool.close()

    def _on_stream(self, run: Callable[[], T]) -> T:
        if self._stream is None:
            return run()
        with torch.cuda.stream(self._stream):
            result = run()
        self._stream.synchronize()  # this thread waits, so that whoever takes the result need not
        return result


def _timed_frames(shared: SharedVideo, need: NeedFrames, keyframes: bool) -> tuple[Clip, tuple[int, ...], float]:
    """All frames, how many each clip has, and the milliseconds that it took."""
    started = time.perf_counter()
    clip, counts = look_each(shared.video, need.timestamps, need.per_clip, keyframes=keyframes, segments=need.segments)
    return clip, counts, (time.perf_counter() - started) * 1e3
