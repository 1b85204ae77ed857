"""One conversation held by text: the `Session` that the engine runs, driven by what an expert or a script writes.

So every refusal, note, budget and clip is the engine's own, and the record that comes out can be tokenized.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...engine import Done, NeedFrames, NeedTokens, Session
from ...protocol import Vocabulary
from ...types import Clip, StopReason, calls_of
from ...video import ClipCache, FrameSource, PatchSpec, VideoReadError, look_each
from ..record import Record, RecordedTurn, Source, carried_out
from ..tokens import tokenize_record, turn_script
from ..videos import check_video
from .messages import Message, exchange, opening


class EpisodeFailed(ValueError):
    """No conversation can be had: the video cannot be read, or the vocabulary cannot spell a text.

    Args:
        reason: one word, for counting.
        detail: what went wrong, for the user.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class Episode:
    """One conversation. `messages` holds all that was said and shown so far, as an expert reads it.

    flawed[i] marks a turn that is shown and never learned, beside the turns that came to nothing.

    Args:
        question: a record without turns.
        frames: the video's frames.
        vocabulary: of the model that is to learn.

    Raises:
        ValueError: the record has turns, the video cannot be read, or its glance does not fit the budget.
    """

    def __init__(self, question: Record, frames: FrameSource, vocabulary: Vocabulary) -> None:
        if question.turns:
            raise ValueError(f"record {question.id} is a conversation already, not a question")
        self.question, self.frames, self.vocabulary = question, frames, vocabulary
        self.session = Session(question.question, question.video.info, vocabulary, question.config)
        self.sources: list[Source] = []
        self.flawed: list[bool] = []
        glance: Clip | None = None
        if isinstance(self.session.action, NeedFrames):  # not in a protocol without a glance
            need, keyframes = self.session.action, question.config.glance == "keyframe"
            glance, _ = look_each(frames, need.timestamps, need.per_clip, keyframes=keyframes, segments=need.segments)
            self.session.splice(glance)
        self.messages: list[Message] = opening(question.question, question.video.info, glance, question.config)

    @property
    def stop_reason(self) -> StopReason | None:
        """Why the conversation is over; None until it is."""
        return self.session.action.reason if isinstance(self.session.action, Done) else None

    @property
    def answer(self) -> str | None:
        """The text of the answer; None if there is none."""
        return self.session.trajectory.answer

    @property
    def texts(self) -> tuple[str, ...]:
        """What was written, turn by turn."""
        return tuple(turn.text for turn in self.session.trajectory.turns)

    def say(self, text: str, source: Source, *, flawed: bool = False) -> None:
        """Write one whole turn, and carry it out.

        Args:
            text: of the turn, its closing tag included.
            source: who wrote it.
            flawed: whether it is to be shown and never learned.

        Raises:
            EpisodeFailed: the text does not come out of the tokenizer as it went in.
        """
        assert isinstance(self.session.action, NeedTokens)
        self._accept(text)
        turn = self.session.turn
        if turn.text != text and self.stop_reason not in (StopReason.TURN_TOKENS, StopReason.TOTAL_TOKENS):
            raise EpisodeFailed("vocabulary", f"the turn {text!r} reads {turn.text!r} in this vocabulary")
        self.sources.append(source)
        self.flawed.append(flawed)
        clip = None
        if isinstance(self.session.action, NeedFrames):
            try:
                need = self.session.action
                clip, per_clip = look_each(
                    self.frames, need.timestamps, need.per_clip, keyframes=False, segments=need.segments
                )
            except VideoReadError as error:
                self.session.unreadable(str(error))
            else:
                self.session.splice(clip, per_clip)
        if self.stop_reason is None:
            accepted = clip if calls_of(turn.outcome) else None
            self.messages += exchange(
                self.session.trajectory,
                turn,
                accepted,
                self.question.config,
                zooms_left=self.session.generations_left - 1,
            )

    def record(self, id: str) -> Record:
        """The conversation as a record. It must be over.

        Args:
            id: of the record.

        Raises:
            InvalidRecord: `tokenize_record` does not give the tokens of this conversation.
        """
        trajectory = self.session.trajectory
        bare = [
            RecordedTurn(turn.text, source, turn.outcome, False, turn.pts_seconds, turn.clip_frames)
            for turn, source in zip(trajectory.turns, self.sources, strict=True)
        ]
        turns = [replace(turn, flawed=self.flawed[i] or not carried_out(bare, i)) for i, turn in enumerate(bare)]
        question = self.question
        record = Record(
            id=id,
            question=question.question,
            options=question.options,
            reference=question.reference,
            video=question.video,
            config=question.config,
            glance_seconds=trajectory.glance_seconds,
            turns=tuple(turns),
            stop_reason=trajectory.stop_reason,
        )
        replayed = tokenize_record(record, self.vocabulary).trajectory
        assert replayed.ids == trajectory.ids, f"record {id} is tokenized to other tokens than the episode had"
        return record

    def _accept(self, text: str) -> None:
        script = turn_script(text, self.vocabulary, self.question.config.protocol)
        for number, token in enumerate(script):
            if not isinstance(self.session.action, NeedTokens) or (number and self.session.action.opens_turn):
                break  # a limit, or a tag that the tokenizer merged with what follows
            self.session.accept(token, 0.0)
        if isinstance(self.session.action, NeedTokens) and not self.session.action.opens_turn:
            raise EpisodeFailed("vocabulary", f"the turn {text!r} has no end in this vocabulary")


@dataclass(frozen=True)
class EpisodeFactory:
    """Opens an episode for each question.

    Args:
        vocabulary: of the model that is to learn.
        spec: that model's patch geometry.
        clips: where frames are cached.
    """

    vocabulary: Vocabulary
    spec: PatchSpec
    clips: ClipCache

    def open(self, question: Record) -> Episode:
        """A new episode about `question`, which is shown its glance.

        Raises:
            ValueError: the file holds other bytes than when it was recorded.
            OSError: the file is gone.
            EpisodeFailed: the file cannot be decoded, or the glance does not fit. The user cannot mend that.
        """
        check_video(question.video)
        try:
            frames = self.clips.open(question.video.path, config=question.config, spec=self.spec)
            return Episode(question, frames, self.vocabulary)
        except ValueError as error:
            raise EpisodeFailed("unreadable", str(error)) from error
