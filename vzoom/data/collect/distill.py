"""Exemplar trajectories: an expert plays our game; conversations whose answer is right are kept.

An expert sees what the model to be trained will see: our frames, our labels, our refusals, within its budget.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...protocol import Vocabulary, strict_action
from ...types import StopReason
from ...video import ClipCache, PatchSpec
from ..record import Record, Source
from ..validate import InvalidRecord
from ..videos import check_video
from .collect import Harvest, Outcome, Rejected, Say, harvest, silence
from .episode import Play, Unplayable
from .expert import Expert, Verifier
from .messages import cut_turn, whole_turn


@dataclass(frozen=True)
class Table:
    """Where the game is played: the vocabulary and patch geometry of the model that is to learn, and frames."""

    vocabulary: Vocabulary
    spec: PatchSpec
    clips: ClipCache

    def open(self, question: Record) -> Play:
        """ValueError where the file is gone, or is not the recorded one; Unplayable for what the user cannot mend."""
        check_video(question.video)
        try:
            frames = self.clips.open(question.video.path, config=question.config, spec=self.spec)
            return Play(question, frames, self.vocabulary)
        except ValueError as error:  # not decodable, or a glance that does not fit
            raise Unplayable("unreadable", str(error)) from error


def distill(
    questions: Sequence[Record],
    out: Path,
    *,
    table: Table,
    expert: Expert,
    verify: Verifier,
    attempts: int = 1,
    concurrency: int = 8,
    shard_records: int = 512,
    say: Say = silence,
    costs: Callable[[], str] = lambda: "",
) -> Harvest:
    """Let the expert play each question up to `attempts` times, until it is right. See `harvest` for what is left."""
    check_task(questions, verify, attempts)

    def work(question: Record) -> Outcome:
        tried: list[Rejected] = []
        for attempt in range(attempts):
            found = _one(question, table, expert, verify, attempt)
            if isinstance(found, Record):
                return found
            tried.append(found)
        return tried[-1]

    return harvest(
        questions,
        work,
        out,
        concurrency=concurrency,
        shard_records=shard_records,
        stop=expert.stop,
        say=say,
        costs=costs,
    )


def check_task(questions: Sequence[Record], verify: Verifier, attempts: int) -> None:
    """ValueError where a question is a conversation already, or cannot be verified, or two have one id, or where there
    is no attempt."""
    if attempts < 1:
        raise ValueError(f"attempts must be 1 or more, got {attempts}")
    for question in questions:
        verify.check(question)
    if held := [question.id for question in questions if question.turns]:
        raise ValueError(f"record {held[0]} is a conversation already: questions are records without turns")
    if twice := [id for id, count in Counter(question.id for question in questions).items() if count > 1]:
        raise ValueError(f"{len(twice)} ids are there more than once, {twice[0]} among them")


def _one(question: Record, table: Table, expert: Expert, verify: Verifier, attempt: int) -> Record | Rejected:
    try:
        play = table.open(question)
    except Unplayable as error:
        return Rejected(question.id, error.reason, str(error))
    said: list[str] = []
    try:
        play_on(play, expert, task="distill", attempt=attempt, said=said)
    except Unplayable as error:
        return Rejected(question.id, error.reason, str(error), tuple(said))
    return judged(play, question.id, verify, said)


def play_on(play: Play, expert: Expert, *, task: str, attempt: int, said: list[str], source: Source = "expert") -> None:
    """Ask the expert turn by turn until the conversation is over. said: gets every text, even one that fails."""
    while play.stop_reason is None:
        take_turn(play, expert, task=task, attempt=attempt, said=said, source=source)


def take_turn(play: Play, expert: Expert, *, task: str, attempt: int, said: list[str], source: Source) -> None:
    """One turn of the expert. Unplayable where its reply was cut short: what it would have said nobody knows."""
    reply = expert.ask(play.messages, tag=play.question.id, task=task, attempt=attempt)
    cut_short = reply.finish == "length" and cut_turn(reply.text) is None
    text = reply.text if cut_short else whole_turn(reply.text)
    said.append(text)
    if cut_short:
        raise Unplayable("cut_short", f"turn {len(said)} reached the endpoint's limit of tokens")
    play.say(text, source)


def judged(play: Play, id: str, verify: Verifier, said: Sequence[str]) -> Record | Rejected:
    """A conversation that is over as a record, where its answer is right and its learned turns keep the form."""

    def rejected(reason: str, detail: str) -> Rejected:
        return Rejected(id, reason, detail, tuple(said))

    if play.stop_reason is not StopReason.ANSWERED or play.answer is None:
        return rejected("no_answer", f"it ended by {play.stop_reason}")
    if not verify(play.question, play.answer):
        return rejected("wrong", f"the answer is {play.answer!r}, the reference {play.question.reference!r}")
    try:
        record = play.record(id)
    except InvalidRecord as error:
        return rejected("invalid", str(error))
    for number, turn in enumerate(record.turns):
        if not turn.flawed and strict_action(turn.text) is None:
            return rejected("form", f"turn {number + 1} is not one closed thought and then its action")
    return record
