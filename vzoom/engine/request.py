"""What an engine is asked to do, and what comes back: a question about a video, and its conversations."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from ..config import Sampling, ZoomConfig
from ..models import CheckpointInfo
from ..protocol import Vocabulary
from ..types import Clip, Event, Failed, Finished, Trajectory, TurnOpened, VideoInfo
from ..video import ClipCache, FrameSource, VideoInput
from .session import Session

SessionFactory = Callable[[str, VideoInfo, Vocabulary, ZoomConfig, Sampling], Session]


@dataclass(frozen=True)
class Request:
    """A question about a video, to be answered `num_rollouts` times.

    Attributes:
        open_video: opens the video. The engine calls it on admission, so waiting requests hold no files.
        question: the text, options included.
        config: how the conversations look at the video.
        sampling: how tokens are chosen; rollout i samples with seed sampling.seed + i.
        num_rollouts: how many conversations are held. They share the glance, which is fed once, and their request ids
            are consecutive.
        session: makes the state machine of a conversation.
    """

    open_video: Callable[[], FrameSource]
    question: str
    config: ZoomConfig
    sampling: Sampling
    num_rollouts: int = 1
    session: SessionFactory = Session

    @classmethod
    def about(
        cls,
        video: VideoInput,
        question: str,
        *,
        checkpoint: CheckpointInfo,
        clip_cache: ClipCache,
        config: ZoomConfig,
        sampling: Sampling | None = None,
        num_rollouts: int = 1,
        check: Callable[[], None] | None = None,
        session: SessionFactory = Session,
    ) -> Request:
        """A request about `video`, whose frames are read through `clip_cache`.

        Args:
            video: as for `open_video`; or an open video of your own, which stays yours to close.
            question: the text, options included.
            checkpoint: the model that will answer; it decides the size of the frames.
            clip_cache: decoded frames, shared between requests.
            config: how the conversations look at the video.
            sampling: greedy if not given.
            num_rollouts: how many conversations are held.
            check: called before the video is opened; what it raises (ValueError, OSError) fails this request alone.
            session: makes the state machine of a conversation.
        """

        def open_video() -> FrameSource:
            if check is not None:
                check()
            return clip_cache.open(video, config=config, spec=checkpoint.patch_spec)

        return cls(open_video, question, config, sampling or Sampling(), num_rollouts, session)


@dataclass(frozen=True)
class Outcome:
    """How one conversation ended: exactly one of `trajectory` and `error` is there.

    Attributes:
        request_id: the id that the conversation's events carried.
        trajectory: the conversation, token for token.
        error: why there is none: the video cannot be read, its glance does not fit, or something in it was raised.
        glance: the frames of the whole video, if they were fed and clips are kept; None in a protocol without a glance.
        clips: the clips that the zooms brought, in order, if clips are kept.
        seconds: wall time from the start of the call to the end of this conversation.
    """

    request_id: int
    trajectory: Trajectory | None
    error: Exception | None
    glance: Clip | None
    clips: tuple[Clip, ...]
    seconds: float

    def __post_init__(self) -> None:
        assert (self.trajectory is None) != (self.error is None), "an outcome is a trajectory or an error"

    def unwrap(self) -> Trajectory:
        """The trajectory. Raises the error if there is none."""
        if self.error is not None:
            raise self.error
        assert self.trajectory is not None
        return self.trajectory


class OutcomeBuilder:
    """Makes outcomes out of events. Its clock starts when it is made.

    Args:
        keep_clips: keep the frames that were seen in the outcomes. They take memory until the outcomes go.
    """

    def __init__(self, *, keep_clips: bool) -> None:
        self._keep_clips = keep_clips
        self._started = time.perf_counter()
        self._clips: defaultdict[int, list[Clip | None]] = defaultdict(list)  # what opened each turn

    def add(self, event: Event) -> Outcome | None:
        """Take an event in. Returns the outcome of its conversation if that ends with it."""
        if isinstance(event, TurnOpened) and self._keep_clips:
            self._clips[event.request_id].append(event.clip)
        if not isinstance(event, Finished | Failed):
            return None
        shown = self._clips.pop(event.request_id, [])
        return Outcome(
            event.request_id,
            trajectory=event.trajectory if isinstance(event, Finished) else None,
            error=event.error if isinstance(event, Failed) else None,
            glance=shown[0] if shown else None,
            clips=tuple(clip for clip in shown[1:] if clip is not None),
            seconds=time.perf_counter() - self._started,
        )
