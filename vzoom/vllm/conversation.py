"""One conversation: answers a `Session` with frames that are decoded here and tokens that vLLM samples."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..config import Sampling
from ..engine import NO_NUMBERS, Done, NeedFrames, NeedTokens, Session, give_token
from ..types import Clip, Event, Failed, Finished, TurnEnded, calls_of
from ..video import FrameSource, VideoReadError, look_each
from .prompts import Frame, PlacedFrame, frames_of

if TYPE_CHECKING:
    from .server import Server
    from .stream import Stream


@dataclass(eq=False)
class Conversation:
    """A session that runs, as a task of the server's event loop.

    Attributes:
        request_id: that its events carry.
        session: the state machine.
        video: its frames; closed by whoever opened it.
        server: vLLM.
        emit: takes its events.
        branch: takes a conversation that branches off this one, before this one goes on.
        frames: that were fed, in order.
        forks: (request id, sampling) of what branches off at the next token.
        stream: the request of vLLM that holds the past of the session; None if it must be fed from the start.
        fed_anew: how often the past was fed (or found in the prefix cache) again.
    """

    request_id: int
    session: Session
    video: FrameSource
    server: Server
    emit: Callable[[Event], None]
    branch: Callable[[Conversation], None]
    frames: list[Frame] = field(default_factory=list)
    forks: list[tuple[int, Sampling]] = field(default_factory=list)
    stage_ms: dict[str, float] = field(default_factory=dict)
    stream: Stream | None = None
    fed_anew: int = 0
    is_cancelled: bool = False
    _placed: tuple[NeedTokens, list[Frame]] | None = None

    async def run(self) -> None:
        """Hold the conversation to its end. Whatever it raises ends it alone, with `Failed`."""
        try:
            while not isinstance(need := self.session.action, Done):
                if isinstance(need, NeedFrames):
                    await self._fetch(need)
                else:
                    await self._feed(need)
        except asyncio.CancelledError:
            if not self.is_cancelled:
                raise
            self.part()
            self.session.cancel()
        except Exception as error:  # noqa: BLE001  it ends this conversation alone
            for request_id in (self.request_id, *(number for number, _ in self.forks)):
                self.emit(Failed(request_id, self.server.explained(error)))
            return
        finally:
            await self._leave()
        self.emit(Finished(self.request_id, self.session.trajectory))

    def part(self) -> None:
        """Let the forks go their ways."""
        forks, self.forks = self.forks, []
        for request_id, sampling in forks:
            other = Conversation(
                request_id,
                self.session.fork(sampling),
                self.video,
                self.server,
                self.emit,
                self.branch,
                list(self.frames),
                stage_ms=dict(self.stage_ms),
                _placed=self._placed,
            )
            self.branch(other)

    async def _fetch(self, need: NeedFrames) -> None:
        session, started = self.session, time.perf_counter()
        keyframes = need.call is None and session.config.glance == "keyframe"
        found: Clip | None = None
        try:
            clip, per_clip = await asyncio.to_thread(
                look_each, self.video, need.timestamps, need.per_clip, keyframes=keyframes, segments=need.segments
            )
            session.splice(clip, per_clip)
            found = clip
        except VideoReadError as error:
            if need.call is None:
                raise
            session.unreadable(str(error))
        self.stage_ms["decode"] = (time.perf_counter() - started) * 1e3
        if need.call is not None:
            accepted = bool(calls_of(session.turn.outcome))
            self.emit(TurnEnded(self.request_id, session.turn, found if accepted else None))

    async def _feed(self, need: NeedTokens) -> None:
        """Feed what is needed, and give the session tokens until vLLM stops."""
        new = await self._new_frames(need)
        is_continued = self.stream is not None
        prompt = await self.server.rendered(*self._span(need, new, whole=not is_continued))
        params = self.server.params(self.session, num_before=0 if is_continued else self._num_sampled)
        if self.stream is None:
            self.stream = self.server.stream(params)
            self.fed_anew += bool(self.session.num_fed)
        fed: NeedTokens | None = need  # None once the session does not follow what vLLM writes
        started, num_tokens, overran = time.perf_counter(), 0, False
        async with aclosing(self.stream.sample(prompt, params)) as sampled:
            async for token, logprob in sampled:
                if overran := fed is None:
                    break
                assert fed is not None
                if math.isnan(logprob):
                    raise ValueError(NO_NUMBERS)
                self.part()
                self.frames += new
                new, self._placed, now = [], None, time.perf_counter()
                for event in give_token(
                    self.session,
                    fed,
                    token,
                    logprob,
                    request_id=self.request_id,
                    stage_ms=self.stage_ms,
                    elapsed_ms=(now - started) * 1e3,
                ):
                    self.emit(event)
                started, num_tokens, after = now, num_tokens + 1, self.session.action
                fed = after if isinstance(after, NeedTokens) and after.span.ids == [token] else None
        if not num_tokens:
            raise ValueError("vLLM sampled no token: is the conversation longer than it was made for?")
        if overran or not self.server.appends:
            await self._leave()

    @property
    def _num_sampled(self) -> int:
        return sum(self.session.trajectory.sampled)

    async def _new_frames(self, need: NeedTokens) -> list[Frame]:
        """The frames of `need`, in the order of its vision blocks."""
        if need.clip is None:
            return []
        if self._placed is None or self._placed[0] is not need:
            started = time.perf_counter()
            frames = await asyncio.to_thread(frames_of, need.clip, self.session.config, self.server.patch_spec)
            self._placed = need, [frames[block.first_frame] for block in need.span.blocks]
            self.stage_ms["patches"] = (time.perf_counter() - started) * 1e3
        return self._placed[1]

    def _span(self, need: NeedTokens, new: list[Frame], *, whole: bool) -> tuple[list[int], list[PlacedFrame]]:
        """The tokens of `need` with their frames; with all that was fed before if `whole`."""
        session = self.session
        past = session.num_fed if whole else 0
        placed = []
        if whole:
            visuals = session.trajectory.visuals
            placed = [PlacedFrame(f, v.offset, v.num_tokens) for f, v in zip(self.frames, visuals, strict=True)]
        merge = session.vocabulary.merge
        for frame, block in zip(new, need.span.blocks, strict=True):
            placed.append(PlacedFrame(frame, past + block.offset, block.num_tokens(merge)))
        return session.trajectory.ids[:past] + need.span.ids, placed

    async def _leave(self) -> None:
        """Give the request of vLLM up. The past is fed again if the session goes on."""
        stream, self.stream = self.stream, None
        if stream is not None:
            await stream.close()
