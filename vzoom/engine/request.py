"""What an engine is asked to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..config import Sampling, ZoomConfig
from ..protocol import Vocabulary
from ..types import VideoInfo
from ..video import FrameSource
from .session import Session

SessionFactory = Callable[[str, VideoInfo, Vocabulary, ZoomConfig, Sampling], Session]


@dataclass(frozen=True)
class Job:
    """A question that waits for room. `open_video` is called on admission, so waiting jobs hold no files.

    num_rollouts: so many conversations about it, numbered on from the first; they share the glance, fed once, and
    rollout i samples with seed sampling.seed + i.
    """

    open_video: Callable[[], FrameSource]
    question: str
    config: ZoomConfig
    sampling: Sampling
    num_rollouts: int = 1
    session: SessionFactory = Session
