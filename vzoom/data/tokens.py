"""A record -> its tokens and masks, by replaying it through the session that the engine runs: one truth for both.

Three kinds of tokens. Fed: prompt, frames, tool turns, and the end of turn that follows a call. Sampled: what the model
chose. Learned: sampled, and in a turn that is not flawed. SFT learns the learned ones, RL the sampled ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..engine import Done, NeedFrames, NeedTokens, Session
from ..protocol import Protocol, Vocabulary, cut_turn
from ..types import Answer, CallError, Clip, Malformed, Trajectory, TurnOutcome, ZoomCall, ZoomCalls
from .record import Record
from .validate import InvalidRecord


@dataclass(frozen=True)
class Tokens:
    """The tokens of a conversation.

    Args:
        trajectory: its ids, sampled, positions and visuals.
        learned: which tokens SFT learns, bool [T].
    """

    trajectory: Trajectory
    learned: list[bool]


def learned_mask(sampled: Sequence[bool], flawed: Sequence[bool]) -> list[bool]:
    """Sampled tokens without those of flawed turns: [T]. Each run of sampled tokens is one turn; flawed: by turn."""
    turns, before = [], False
    number = -1
    for now in sampled:
        number += now and not before
        before = now
        turns.append(number if now else None)
    if number + 1 != len(flawed):
        raise ValueError(f"{number + 1} runs of sampled tokens for {len(flawed)} turns")
    return [turn is not None and not flawed[turn] for turn in turns]


def tokenize_record(record: Record, vocabulary: Vocabulary) -> Tokens:
    """The record's tokens, positions and masks.

    If the record holds `ids`, its own tokens are used; otherwise the text of its turns is encoded.

    Args:
        record: with turns.
        vocabulary: of the model that is to learn.

    Raises:
        InvalidRecord: the engine would not have held this conversation: another outcome, other tokens, another end.
    """
    if not record.turns:
        raise InvalidRecord(f"record {record.id} is a question without turns: it has no tokens to learn")
    trajectory = _replay(record, vocabulary)
    if record.ids is not None and list(record.ids) != trajectory.ids:
        at = next((i for i, (a, b) in enumerate(zip(record.ids, trajectory.ids, strict=False)) if a != b), -1)
        raise InvalidRecord(
            f"the {len(record.ids)} recorded tokens are not the {len(trajectory.ids)} that this vzoom feeds, from "
            f"token {at} on: the record is of another tokenizer, or of another version of the prompts"
        )
    return Tokens(trajectory, learned_mask(trajectory.sampled, [turn.flawed for turn in record.turns]))


def _replay(record: Record, vocabulary: Vocabulary) -> Trajectory:
    session = Session(record.question, record.video.info, vocabulary, record.config)
    if isinstance(session.action, NeedFrames):  # not in a protocol without a glance
        session.splice(_blank(record, record.glance_seconds))
    for number, (turn, script) in enumerate(zip(record.turns, _scripts(record, vocabulary), strict=True)):
        where = f"turn {number + 1}"
        if isinstance(session.action, Done):
            raise InvalidRecord(f"{where} follows a conversation that is over: {session.action.reason}")
        for i, token in enumerate(script):
            if not isinstance(session.action, NeedTokens) or (i and session.action.opens_turn):
                raise InvalidRecord(f"{where} ends after {i} of its {len(script)} tokens: {session.turn.text[-40:]!r}")
            session.accept(token, 0.0)
        if isinstance(session.action, NeedTokens) and not session.action.opens_turn:
            raise InvalidRecord(f"{where} has no end: {turn.text[-40:]!r}")
        replayed = session.turn
        if isinstance(session.action, NeedFrames):
            if isinstance(turn.outcome, Malformed) and turn.outcome.error is CallError.UNREADABLE:
                session.unreadable(turn.outcome.detail)
            elif turn.pts_seconds:
                session.splice(_blank(record, turn.pts_seconds), turn.clip_frames)
            else:
                raise InvalidRecord(f"{where} is {turn.outcome}, but {replayed.outcome} would be carried out")
        if replayed.text != turn.text:
            raise InvalidRecord(f"{where} reads {turn.text!r}, its tokens {replayed.text!r}: another tokenizer?")
        if _kind(replayed.outcome) != _kind(turn.outcome):
            raise InvalidRecord(f"{where} is recorded as {turn.outcome}, but comes out as {replayed.outcome}")
    if not isinstance(session.action, Done) or session.action.reason != record.stop_reason:
        raise InvalidRecord(f"the conversation does not end by {record.stop_reason} after turn {len(record.turns)}")
    return session.trajectory


def _kind(outcome: TurnOutcome | None) -> ZoomCall | ZoomCalls | Answer | CallError | None:
    """What must agree. The detail of an error holds figures for the model to read: their wording may change."""
    return outcome.error if isinstance(outcome, Malformed) else outcome


def _scripts(record: Record, vocabulary: Vocabulary) -> Iterator[list[int]]:
    """The sampled tokens of each turn."""
    if record.ids is not None and record.sampled is not None:
        run: list[int] = []
        for token, sampled in zip((*record.ids, 0), (*record.sampled, False), strict=True):
            if sampled:
                run.append(token)
            elif run:
                yield run
                run = []
        return
    for turn in record.turns:
        yield turn_script(turn.text, vocabulary, record.config.protocol)


def turn_script(text: str, vocabulary: Vocabulary, protocol: Protocol) -> list[int]:
    """The tokens that a turn of this text samples: with an end of turn if no closing tag ends it."""
    ids = vocabulary.codec.encode_turn(text, protocol.tags)
    return [*ids, vocabulary.end_of_turn_id] if cut_turn(text, protocol) is None else ids


def _blank(record: Record, pts_seconds: tuple[float, ...]) -> Clip:
    """Frames of the video's size that take no memory: only their number, size and times matter here."""
    n = len(pts_seconds)
    frames = np.broadcast_to(np.zeros((), np.uint8), (n, record.video.height, record.video.width, 3))
    return Clip(frames, pts_seconds, tuple(range(n)), (False,) * n)
