"""A session in progress, with what the engine holds for it."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
import torch

from ..config import Sampling
from ..models import Features
from ..types import Clip
from .kv_cache import BlockTable
from .session import Feed, Session
from .workers import Decoding, SharedVideo

Encoded = tuple[list[Features], dict[str, float]]  # features by clip, milliseconds by stage


@dataclass(frozen=True)
class Encoding:
    """Visual tokens on their way. All who are encoded together share the future; `mine` are one's clips in it."""

    future: Future[Encoded]
    mine: range

    def features(self) -> list[Features]:
        return self.future.result()[0][self.mine.start : self.mine.stop]


@dataclass(eq=False)
class Active:
    """`table` holds the keys and values of the session's first table.length tokens: all that were fed, unless the
    session was preempted. `clips` are those of the tokens that were fed, `forks` the sessions that branch off behind
    the next feed."""

    number: int
    session: Session
    video: SharedVideo
    table: BlockTable
    generator: torch.Generator
    forks: list[tuple[int, Sampling]] = field(default_factory=list)
    clips: list[Clip] = field(default_factory=list)
    decoding: Decoding | None = None
    encoding: Encoding | None = None  # of the `unseen` clips
    stage_ms: dict[str, float] = field(default_factory=dict)  # of the turn about to open

    def unseen(self, feed: Feed) -> list[Clip]:
        """The clips whose tokens the next run holds."""
        again = self.clips if self.table.length < self.session.num_fed else []
        return again if feed.clip is None else [*again, feed.clip]

    def run(self, feed: Feed) -> tuple[list[int], np.ndarray]:
        """Ids [n] and positions [3, n] to feed: what `feed` wants, behind what was lost when pages ran out."""
        length, num_fed = self.table.length, self.session.num_fed
        if length == num_fed:
            return feed.run.ids, feed.positions
        past = self.session.trajectory
        lost = np.array([axis[length:num_fed] for axis in past.positions], dtype=np.int64)
        return past.ids[length:num_fed] + feed.run.ids, np.concatenate([lost, feed.positions], axis=1)

    def run_length(self, feed: Feed) -> int:
        return self.session.num_fed - self.table.length + len(feed.run.ids)

    def blocks_to_come(self) -> int:
        """Pages that this session and its forks may still take until they end."""
        limit = -(-self.session.config.max_total_tokens // self.table.pool.block_size)
        return (1 + len(self.forks)) * (limit - len(self.table.blocks) + self.table.must_copy(1))

    def branch(self, number: int, sampling: Sampling) -> Active:
        """A session with the same past and what it wants next; its pages are shared."""
        return Active(
            number,
            self.session.fork(sampling),
            self.video.retain(),
            self.table.fork(),
            torch.Generator(self.generator.device).manual_seed(sampling.seed),
            clips=list(self.clips),
            stage_ms=dict(self.stage_ms),
        )

    def drop_decoding(self) -> None:
        if self.decoding is not None:
            self.decoding.future.cancel()
            self.decoding = None

    def preempt(self) -> None:
        """Give up the pages; `run` feeds again what was in them."""
        self.table.truncate(0)
        self.encoding = None

    def release(self) -> None:
        """Give back pages and video; what a worker still does for this session is dropped."""
        self.drop_decoding()
        self.table.truncate(0)
        self.video.release()
