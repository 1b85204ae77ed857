"""One conversation as a state machine: no model, no tensors, no files.

`action` says what the session needs next: frames (NeedFrames), tokens fed (NeedTokens), or nothing (Done). The engine
carries it out and answers with `splice`, `unreadable` or `accept`. Nothing is committed until the engine reports
success, so a feed that fails leaves the session as it was: a clip is spliced whole or not at all. `prefetch_seconds`
says early which frames the call that the model is writing will ask for, so that they can be decoded meanwhile; nothing
depends on it.

Pending token: the token sampled last was never fed, so its key and value do not exist yet. It opens the next need:
alone while the model writes, or in front of the tool turn when a clip is spliced.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Self

import numpy as np

from .. import protocol
from ..config import Sampling, ZoomConfig
from ..protocol import (
    TextStream,
    TokenSpan,
    TurnScanner,
    VideoPart,
    Vocabulary,
    clamped_end,
    glance_segments,
    glance_timestamps,
    span_positions,
    tokenize_parts,
    zoom_segments,
    zoom_timestamps,
)
from ..types import (
    Answer,
    CallError,
    Clip,
    Malformed,
    StopReason,
    Trajectory,
    Turn,
    VideoInfo,
    Visual,
    ZoomCall,
    ZoomCalls,
    calls_of,
)


@dataclass(frozen=True)
class NeedFrames:
    """The session needs the frames at these times: the glance, or the clips of a turn's calls.

    Attributes:
        timestamps: seconds, those of the second clip after those of the first.
        call: what asks for them; None for the glance.
        per_clip: how many of them each clip has. A frame that is in two clips comes twice.
        segments: (start, end) of what each clip samples, if all frames of it are wanted where they are no more than
            the times: of a video whose frames follow unevenly. Else empty.
    """

    timestamps: tuple[float, ...]
    call: ZoomCall | ZoomCalls | None
    per_clip: tuple[int, ...]
    segments: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class NeedTokens:
    """The session needs these tokens fed, and one token sampled after them.

    Attributes:
        span: the tokens, and where the vision blocks are in them.
        positions: int64 [3, tokens] (time, row, column).
        next_position: of the token to be sampled, on all three axes.
        clip: the frames of span.blocks, if it has any.
        opens_turn: whether the sampled token is the first of a turn of the model.
    """

    span: TokenSpan
    positions: np.ndarray
    next_position: int
    clip: Clip | None
    opens_turn: bool

    @property
    def clips(self) -> list[Clip]:
        """`clip` in the pieces that the vision tower may encode apart: no video begins within one of them."""
        if self.clip is None:
            return []
        videos = [self.clip.part(block.first_frame, block.num_frames) for block in self.span.blocks if block.is_video]
        return videos or [self.clip]


@dataclass(frozen=True)
class Done:
    """The conversation is over."""

    reason: StopReason


class Session:
    """The conversation about one question. The text of this file says in which order to call its methods.

    config.max_zooms allows max_zooms + 1 turns of the model; a call that cannot be carried out also uses one up.

    Attributes:
        action: what the session needs next.
        trajectory: the conversation so far.
        num_fed: tokens of the trajectory that were fed: all but the pending one.
        prefetch_seconds: times of the frames that the call being written seems to ask for.

    Raises:
        ValueError: the question is empty, or frames are to be video tokens and the vocabulary has none.
    """

    def __init__(
        self,
        question: str,
        video: VideoInfo,
        vocabulary: Vocabulary,
        config: ZoomConfig,
        sampling: Sampling | None = None,
    ) -> None:
        if not question.strip():
            raise ValueError("the question is empty")
        if config.protocol.frame.encoding == "video" and vocabulary.video is None:
            raise ValueError(
                f"the protocol {config.protocol.name} shows frames as video tokens (frame.encoding), and how this "
                "model writes those is not known"
            )
        self.config = config = config.for_video(video.duration_seconds)
        self.sampling = sampling or Sampling()
        self.vocabulary = vocabulary
        self.trajectory = Trajectory(
            question=question, video=video, protocol=config.protocol.name, glance=config.glance
        )
        self.prefetch_seconds: tuple[float, ...] = ()
        self.num_fed = 0
        self._next_position = 0
        self._stream = TextStream(vocabulary.codec)
        self._scanner = TurnScanner(config.protocol)
        self.action: NeedFrames | NeedTokens | Done
        if times := tuple(glance_timestamps(video, config)):
            self.action = NeedFrames(times, None, (len(times),), glance_segments(video, config))
        else:  # a protocol without a glance
            self._feed(self._prompt((), (0, 0), ()), None, opens_turn=True)

    @property
    def turn(self) -> Turn:
        """The turn that the model is writing, or is about to write."""
        return self.trajectory.turns[-1]

    @property
    def generations_left(self) -> int:
        """Turns that the model may still write, the one in progress not counted."""
        return self.config.max_zooms + 1 - len(self.trajectory.turns)

    def fork(self, sampling: Sampling) -> Self:
        """A second conversation with the same past, which continues on its own with `sampling`."""
        other = copy.copy(self)
        other.sampling = sampling
        other.trajectory = copy.deepcopy(self.trajectory)
        other._stream, other._scanner = self._stream.fork(), self._scanner.fork()
        return other

    # ------------------------------------------------------------ what the engine reports

    def splice(self, clip: Clip, per_clip: Sequence[int] = ()) -> None:
        """The frames that were needed. Clips that do not fit become an error text for the model, all of them.

        Args:
            clip: all frames, those of the second clip after those of the first.
            per_clip: how many frames each clip has; all are one clip if not given.

        Raises:
            ValueError: the glance does not fit.
        """
        assert isinstance(self.action, NeedFrames)
        if self.action.call is None:
            span = self._prompt(clip.pts_seconds, clip.frames.shape[1:3], self.action.timestamps)
            self._feed(span, clip, opens_turn=True)
            self.trajectory.glance_seconds = clip.pts_seconds
            return
        if all(clip.clamped):  # a file that was cut off still claims its whole duration
            self.unreadable(f"nothing can be decoded behind {clip.pts_seconds[-1]:.2f} s")
            return
        counts = tuple(per_clip) or (len(clip),)
        calls = calls_of(self.action.call)
        asked = _groups(self.action.timestamps, self.action.per_clip)
        span = self._tool_turn(calls, _groups(clip.pts_seconds, counts), clip.frames.shape[1:3], asked)
        if problem := self._over_budget(len(clip), len(span.ids)):
            self._refuse(problem)
            return
        self.turn.pts_seconds, self.turn.clip_frames = clip.pts_seconds, counts if len(counts) > 1 else ()
        self.turn.end_seconds = clamped_end(calls[-1], self.trajectory.video)
        self._feed(span, clip, opens_turn=True)

    def unreadable(self, detail: str) -> None:
        """The frames of a zoom could not be decoded: the model is told and may look elsewhere."""
        assert isinstance(self.action, NeedFrames)
        assert self.action.call is not None
        self._refuse(Malformed(CallError.UNREADABLE, detail))

    def cancel(self) -> None:
        """End the conversation here."""
        self._finish(StopReason.CANCELLED)

    def accept(self, token: int, logprob: float) -> str:
        """The tokens were fed, and `token` was sampled after them.

        Args:
            token: its id.
            logprob: its natural log-probability.

        Returns:
            The text that became certain: none while a character is incomplete.
        """
        assert isinstance(self.action, NeedTokens)
        self._commit(self.action)
        trajectory, turn = self.trajectory, self.turn
        trajectory.ids.append(token)
        trajectory.sampled.append(True)
        trajectory.logprobs.append(logprob)
        for axis in trajectory.positions:
            axis.append(self._next_position)
        turn.num_sampled += 1

        ended = token in self.vocabulary.end_ids
        delta = self._stream.finish() if ended else self._stream.push(token)
        turn.text = self._stream.text
        if self._scanner.read(turn.text) is not None or ended:
            self._end_turn()
        elif turn.num_sampled >= self.config.max_new_tokens:
            self._finish(StopReason.TURN_TOKENS)
        elif len(trajectory.ids) >= self.config.max_total_tokens:
            self._finish(StopReason.TOTAL_TOKENS)
        else:
            self._feed(TokenSpan([token]), None, opens_turn=False)
            self._prefetch()
        return delta

    # ------------------------------------------------------------ inside

    def _prefetch(self) -> None:
        config, video, start = self.config, self.trajectory.video, self._scanner.call_start
        if start is None:
            return
        body = self.turn.text[start : start + config.protocol.call.max_characters + 1]
        call = protocol.partial_call(body, config.protocol, video_fps=video.fps, max_frames=config.zoom_max_frames)
        if call is not None:
            times = zoom_timestamps(call, video, config, shown=self.trajectory.shown_seconds)
            # Of an uneven video the end of the segment decides too, which is written last.
            is_even = not zoom_segments([call], video, config)
            self.prefetch_seconds = tuple(times) if is_even and not isinstance(times, Malformed) else ()

    def _end_turn(self) -> None:
        spoken, text = self.config.protocol, self.turn.text
        outcome = protocol.parse_turn(text, spoken, video_fps=self.trajectory.video.fps)
        untagged = protocol.untagged_answer(text, spoken) if self.vocabulary.untagged_answers else None
        if untagged is not None:
            outcome = Answer(untagged)
        self.turn.outcome = outcome
        if isinstance(outcome, Answer):
            self.trajectory.answer, self.trajectory.answer_is_untagged = outcome.text, untagged is not None
            self._finish(StopReason.ANSWERED)
        elif self.generations_left == 0:
            self._finish(StopReason.ROUNDS)
        elif isinstance(outcome, Malformed):
            self._refuse(outcome)
        else:
            self._plan(outcome)

    def _plan(self, outcome: ZoomCall | ZoomCalls) -> None:
        """Check the calls of a turn against the video and against what is left before anything is decoded."""
        video, calls = self.trajectory.video, calls_of(outcome)
        groups: list[list[float]] = []
        for call in calls:
            found = zoom_timestamps(call, video, self.config, shown=self.trajectory.shown_seconds)
            if isinstance(found, Malformed):
                self._refuse(found)
                return
            groups.append(found)
        times, counts = tuple(t for group in groups for t in group), tuple(map(len, groups))
        span = self._tool_turn(calls, groups, (video.height, video.width), groups)
        if problem := self._over_budget(len(times), len(span.ids)):
            self._refuse(problem)
            return
        self.action = NeedFrames(times, outcome, counts, zoom_segments(calls, video, self.config))

    def _over_budget(self, num_frames: int, num_tokens: int) -> Malformed | None:
        config, trajectory = self.config, self.trajectory
        frames_left = config.max_frames - trajectory.num_frames
        if num_frames > frames_left:
            return Malformed(CallError.OVER_BUDGET, f"{num_frames} frames, {frames_left} are left")
        # The pending token heads the span and is in trajectory.ids already.
        tokens_left = config.max_total_tokens - config.answer_reserve - (len(trajectory.ids) - 1)
        if num_tokens > tokens_left:
            return Malformed(CallError.OVER_BUDGET, f"{num_tokens} tokens, {max(0, tokens_left)} are left")
        return None

    def _refuse(self, problem: Malformed) -> None:
        """Send the error text back, or the number of a frame that was asked, if there is room for it."""
        self.turn.outcome = problem
        parts = protocol.error_turn(
            problem,
            self.trajectory.video,
            self.config,
            question=self.trajectory.question,
            zooms_left=self.generations_left - 1,
            turn_is_open=self._turn_is_open,
        )
        span = self._tokenize_parts(parts, 0, (0, 0)).after(self.trajectory.ids[-1])
        if len(self.trajectory.ids) - 1 + len(span.ids) >= self.config.max_total_tokens:
            self._finish(StopReason.TOTAL_TOKENS)
        else:
            self._feed(span, None, opens_turn=True)

    def _prompt(self, times: Sequence[float], size_hw: tuple[int, ...], asked: Sequence[float]) -> TokenSpan:
        config, count = self.config, len(times)
        parts = protocol.prompt(self.trajectory.question, self.trajectory.video, times, config)
        span = self._tokenize_parts(_spaced(parts, [times], [asked]), count, size_hw)
        room = config.max_total_tokens - config.answer_reserve
        if len(span.ids) > room or count > config.max_frames:
            raise ValueError(
                f"the glance of {count} frames and the question take {len(span.ids)} tokens, but {room} tokens "
                f"and {config.max_frames} frames are allowed: lower glance_max_frames or max_pixels, "
                "or raise max_total_tokens"
            )
        return span

    @property
    def _turn_is_open(self) -> bool:
        """Whether the model has not sampled its own end of turn."""
        return self.trajectory.ids[-1] != self.vocabulary.end_of_turn_id

    def _tool_turn(
        self,
        calls: Sequence[ZoomCall],
        times: Sequence[Sequence[float]],
        size_hw: tuple[int, ...],
        asked: Sequence[Sequence[float]],
    ) -> TokenSpan:
        """Pending token + tool turn, as it would be fed now. times: of each clip's frames. asked: of each call."""
        parts = protocol.tool_turn(
            list(zip(calls, times, strict=True)),
            self.trajectory.video,
            self.config,
            question=self.trajectory.question,
            zooms_left=self.generations_left - 1,
            num_shown=self.trajectory.num_frames,
            turn_is_open=self._turn_is_open,
        )
        span = self._tokenize_parts(_spaced(parts, times, asked), sum(map(len, times)), size_hw)
        return span.after(self.trajectory.ids[-1])

    def _tokenize_parts(self, parts: list[protocol.Part], num_frames: int, size_hw: tuple[int, ...]) -> TokenSpan:
        v = self.vocabulary
        grid = v.grid_hw(size_hw[0], size_hw[1], self.config) if num_frames else (0, 0)
        return tokenize_parts(parts, [grid] * num_frames, v.codec, v.image_token_id, v.merge, v.video)

    def _feed(self, span: TokenSpan, clip: Clip | None, *, opens_turn: bool) -> None:
        v = self.vocabulary
        rule = self.config.protocol.frame.rope_rule
        positions, next_position = span_positions(self._next_position, span, v.merge, v.video, rule)
        self.action = NeedTokens(span, positions, next_position, clip, opens_turn)

    def _commit(self, need: NeedTokens) -> None:
        """Enter what was fed in the trajectory; the pending token at the head of a span is there already."""
        trajectory = self.trajectory
        fresh = len(need.span.ids) - (len(trajectory.ids) - self.num_fed)
        added = need.span.ids[len(need.span.ids) - fresh :]
        base = self.num_fed
        trajectory.ids += added
        trajectory.sampled += [False] * fresh
        trajectory.logprobs += [0.0] * fresh
        for axis, row in zip(trajectory.positions, need.positions, strict=True):
            axis += row[len(row) - fresh :].tolist()
        for block in need.span.blocks:
            assert need.clip is not None
            trajectory.visuals.append(
                Visual(
                    need.clip.pts_seconds[block.frames],
                    block.grid_thw,
                    base + block.offset,
                    block.num_tokens(self.vocabulary.merge),
                    block.is_video,
                    block.seconds_per_patch,
                )
            )
        self.num_fed += len(need.span.ids)
        self._next_position = need.next_position
        if need.opens_turn:
            self.prefetch_seconds = ()
            trajectory.turns.append(Turn(num_prefilled=len(need.span.ids)))
            self._stream = TextStream(self.vocabulary.codec)
            self._scanner = TurnScanner(self.config.protocol)

    def _finish(self, reason: StopReason) -> None:
        self.trajectory.stop_reason = reason
        self.action = Done(reason)


def _groups(times: Sequence[float], counts: Sequence[int]) -> list[Sequence[float]]:
    """times[0 : counts[0]], the next counts[1], and so on."""
    ends = list(accumulate(counts))
    return [times[end - count : end] for end, count in zip(ends, counts, strict=True)]


def _spaced(
    parts: list[protocol.Part], times: Sequence[Sequence[float]], asked: Sequence[Sequence[float]]
) -> list[protocol.Part]:
    """The parts, each video with the spacing of the times that were asked for.

    Not of those of the frames that came: a file has them up to a frame off, and positions are rounded down.
    """
    spacings, first = {}, 0
    for own, wanted in zip(times, asked, strict=True):
        spacings[first] = (wanted[-1] - wanted[0]) / (len(own) - 1) if len(own) > 1 else 0.0
        first += len(own)
    return [
        replace(part, seconds_per_frame=spacings[part.first]) if isinstance(part, VideoPart) else part for part in parts
    ]
