"""A session in progress, and what the engine holds for it: its video, its pages, its clips on their way."""

from __future__ import annotations

import threading
import warnings
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
import torch

from ..config import Sampling
from ..models import Features
from ..types import Clip
from ..video import FrameSource
from .kv_cache import BlockTable
from .session import NeedFrames, NeedTokens, Session

Encoded = tuple[list[Features], dict[str, float]]  # features by clip, milliseconds by stage


class SharedVideo:
    """A video that several sessions and threads read; closed when the last of them releases it."""

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
            try:
                self.video.close()
            except Exception as error:  # noqa: BLE001  nobody waits for it, and pages are still to be given back
                warnings.warn(f"{self.video.info.path} could not be closed: {error}", RuntimeWarning, stacklevel=2)


@dataclass(frozen=True)
class PendingClip:
    """Clips that are being decoded: (all frames, how many each clip has, milliseconds that decoding took)."""

    need: NeedFrames
    future: Future[tuple[Clip, tuple[int, ...], float]]

    def answers(self, need: NeedFrames) -> bool:
        """Whether these are the frames of `need`: it may have been foreseen before its call was whole."""
        own = self.need
        return (own.timestamps, own.per_clip, own.segments) == (need.timestamps, need.per_clip, need.segments)


@dataclass(frozen=True)
class PendingFeatures:
    """Features that are being computed. The clips of one encoder run share the future; `mine` are one's own in it."""

    future: Future[Encoded]
    mine: range

    def features(self) -> list[Features]:
        return self.future.result()[0][self.mine.start : self.mine.stop]


@dataclass(eq=False)
class RunningSession:
    """A session that was admitted.

    Attributes:
        table: pages with the keys and values of the session's first table.length tokens: all that were fed, unless the
            session was preempted.
        forks: the request ids and samplings of the sessions that branch off after the next feed.
        clips: the clips of the tokens that were fed, in order, as `NeedTokens.clips` has them.
        pending_clip: the clip that is being decoded, if any.
        pending_features: the features of `clips_to_encode`, if they are being computed.
        stage_ms: milliseconds by stage, of the turn about to open.
        error: what the last run of the model raised, if this session was in it. It is then fed alone, to find out
            whose fault that was.
    """

    request_id: int
    session: Session
    video: SharedVideo
    table: BlockTable
    generator: torch.Generator
    forks: list[tuple[int, Sampling]] = field(default_factory=list)
    clips: list[Clip] = field(default_factory=list)
    pending_clip: PendingClip | None = None
    pending_features: PendingFeatures | None = None
    stage_ms: dict[str, float] = field(default_factory=dict)
    error: Exception | None = None

    def clips_to_encode(self, need: NeedTokens) -> list[Clip]:
        """The clips whose tokens the next run holds: that of `need`, after those that a preemption lost."""
        lost = self.clips if self.table.length < self.session.num_fed else []
        return [*lost, *need.clips]

    def tokens_to_run(self, need: NeedTokens) -> tuple[list[int], np.ndarray]:
        """Ids [n] and positions [3, n] to feed: those of `need`, after those that a preemption lost."""
        length, num_fed = self.table.length, self.session.num_fed
        if length == num_fed:
            return need.span.ids, need.positions
        past = self.session.trajectory
        lost = np.array([axis[length:num_fed] for axis in past.positions], dtype=np.int64)
        return past.ids[length:num_fed] + need.span.ids, np.concatenate([lost, need.positions], axis=1)

    def num_tokens_to_run(self, need: NeedTokens) -> int:
        """How many tokens `tokens_to_run` gives."""
        return self.session.num_fed - self.table.length + len(need.span.ids)

    def blocks_to_come(self) -> int:
        """Pages that this session and its forks may still take until they end."""
        limit = -(-self.session.config.max_total_tokens // self.table.pool.block_size)
        return (1 + len(self.forks)) * (limit - len(self.table.blocks) + self.table.must_copy(1))

    def branch(self, request_id: int, sampling: Sampling) -> RunningSession:
        """A second session with the same past and the same need; the two share their pages."""
        return RunningSession(
            request_id,
            self.session.fork(sampling),
            self.video.retain(),
            self.table.fork(),
            torch.Generator(self.generator.device).manual_seed(sampling.seed),
            clips=list(self.clips),
            stage_ms=dict(self.stage_ms),
        )

    def drop_pending_clip(self) -> None:
        """Cancel decoding, if it has not begun, and forget its result."""
        if self.pending_clip is not None:
            self.pending_clip.future.cancel()
            self.pending_clip = None

    def preempt(self) -> None:
        """Give up the pages; `tokens_to_run` feeds again what was in them."""
        self.table.truncate(0)
        self.pending_features = None

    def release(self) -> None:
        """Give back pages and video; what a thread still does for this session is dropped."""
        self.drop_pending_clip()
        self.table.truncate(0)
        self.video.release()
