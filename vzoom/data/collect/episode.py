"""Our game, played by text: the `Session` that the engine runs, driven by what an expert (or a script) writes.

So every refusal, note, budget and clip is the engine's own, and the record that comes out can be tokenised.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from ...engine import Done, NeedFrames, NeedTokens, Session
from ...protocol import Vocabulary
from ...types import Answer, StopReason, ZoomCall
from ...video import FrameSource, VideoReadError
from ..record import Record, RecordedTurn, Source, carried_out
from ..tokens import tokenise, turn_script
from .messages import Message, exchange, opening

T = TypeVar("T")

# A fast tokenizer keeps its settings in itself: two threads that encode with different ones spoil each other's tokens.
_TOKENIZER = threading.Lock()


class Unplayable(ValueError):
    """No conversation can be had: the video cannot be read, or a text does not come out of the tokenizer as it went in.

    reason: one word, for counting.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class Play:
    """One conversation. `messages` tells an expert all that was said and shown so far.

    flawed[i] marks a turn to be shown and never learned, beside those that came to nothing. ValueError where the video
    cannot be read, or its glance does not fit.
    """

    def __init__(self, question: Record, frames: FrameSource, vocabulary: Vocabulary) -> None:
        if question.turns:
            raise ValueError(f"record {question.id} is a conversation already, not a question")
        self.question, self.frames, self.vocabulary = question, frames, vocabulary
        self.session = _alone(lambda: Session(question.question, question.video.info, vocabulary, question.config))
        self.sources: list[Source] = []
        self.flawed: list[bool] = []
        assert isinstance(self.session.action, NeedFrames)
        glance = frames.frames_at(self.session.action.timestamps)
        _alone(lambda: self.session.splice(glance))
        self.messages: list[Message] = opening(question.question, question.video.info, glance, question.config)

    @property
    def stop_reason(self) -> StopReason | None:
        """Why the conversation is over; None while it goes on."""
        return self.session.action.reason if isinstance(self.session.action, Done) else None

    @property
    def answer(self) -> str | None:
        return self.session.trajectory.answer

    @property
    def texts(self) -> tuple[str, ...]:
        return tuple(turn.text for turn in self.session.trajectory.turns)

    def say(self, text: str, source: Source, *, flawed: bool = False) -> None:
        """One whole turn. Unplayable where the vocabulary has no such text."""
        assert isinstance(self.session.action, NeedTokens)
        _alone(lambda: self._accept(text))
        turn = self.session.turn
        if turn.text != text and self.stop_reason not in (StopReason.TURN_TOKENS, StopReason.TOTAL_TOKENS):
            raise Unplayable("vocabulary", f"the turn {text!r} reads {turn.text!r} in this vocabulary")
        self.sources.append(source)
        self.flawed.append(flawed)
        clip = None
        if isinstance(self.session.action, NeedFrames):
            try:
                clip = self.frames.frames_at(self.session.action.timestamps)
            except VideoReadError as error:
                problem = str(error)
                _alone(lambda: self.session.unreadable(problem))
            else:
                fetched = clip
                _alone(lambda: self.session.splice(fetched))
        if self.stop_reason is None:
            accepted = clip if isinstance(turn.outcome, ZoomCall) else None
            zooms_left = self.session.generations_left - 1
            self.messages += exchange(turn, accepted, zooms_left=zooms_left)

    def record(self, id: str) -> Record:
        """The conversation, which must be over. InvalidRecord where it does not come out of `tokenise` as it was."""
        trajectory = self.session.trajectory
        bare = [
            RecordedTurn(turn.text, source, turn.outcome, False, turn.pts_seconds)
            for turn, source in zip(trajectory.turns, self.sources, strict=True)
        ]
        turns = [
            RecordedTurn(t.text, t.source, t.outcome, self.flawed[i] or not carried_out(bare, i), t.pts_seconds)
            for i, t in enumerate(bare)
        ]
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
        replayed = _alone(lambda: tokenise(record, self.vocabulary)).trajectory
        assert replayed.ids == trajectory.ids, f"record {id} is tokenised to other tokens than were played"
        return record

    def _accept(self, text: str) -> None:
        script = turn_script(text, self.vocabulary)
        for number, token in enumerate(script):
            if not isinstance(self.session.action, NeedTokens) or (number and self.session.action.opens_turn):
                break  # a limit, or a tag that the tokenizer merged with what follows
            self.session.accept(token, 0.0)
        if isinstance(self.session.action, NeedTokens) and not self.session.action.opens_turn:
            raise Unplayable("vocabulary", f"the turn {text!r} has no end in this vocabulary")


def is_strict(turn: RecordedTurn) -> bool:
    """Whether a turn is one closed thought and behind it nothing but its action: the form that is worth learning."""
    thought, closed, acting = turn.text.partition("</think>")
    action = "<answer>" if isinstance(turn.outcome, Answer) else "<video_zoom>"
    return bool(closed) and thought.startswith("<think>") and acting.strip().startswith(action)


def _alone(run: Callable[[], T]) -> T:
    with _TOKENIZER:
        return run()
