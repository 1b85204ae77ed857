"""Exemplar trajectories: an expert answers questions as a student would, and the right conversations are kept.

The expert sees what the model that is to learn will see: the same frames, labels and refusals, within the same budget.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from ...protocol import cut_turn, stops, strict_action
from ...types import StopReason
from ..record import Record, Source
from ..validate import InvalidRecord
from .episode import Episode, EpisodeFactory, EpisodeFailed
from .expert import Expert, Verifier
from .loop import Collected, CollectSummary, Rejected, collect
from .messages import whole_turn
from .progress import Say, silence
from .settings import ExpertSettings


def distill(
    questions: Sequence[Record],
    out: Path,
    *,
    factory: EpisodeFactory,
    expert: Expert,
    verify: Verifier,
    attempts: int = ExpertSettings.attempts,
    concurrency: int = ExpertSettings.concurrency,
    shard_records: int = 512,
    say: Say = silence,
    costs: Callable[[], str] = lambda: "",
) -> CollectSummary:
    """Have the expert answer each question, in up to `attempts` attempts, until one is right.

    Args:
        questions: records without turns, each with its own id.
        out: the folder of the run; see `loop.collect` for what is in it.
        factory: opens the conversations.
        expert: who is asked.
        verify: whether an answer is right.
        attempts: conversations per question, at most.
        concurrency: conversations at once.
        shard_records: records per Parquet shard.
        say: told about every question, together with what `costs` returns.
        costs: what was spent so far, as text.

    Returns:
        Counts of the whole folder. `stopped` says why it ended early, if it did.

    Raises:
        ValueError: a question has turns or cannot be verified, two have one id, or `attempts` is below 1.
    """
    check_task(questions, verify, attempts)

    def work(question: Record) -> Collected:
        tried: list[Rejected] = []
        for attempt in range(attempts):
            found = _one(question, factory, expert, verify, attempt)
            if isinstance(found, Record):
                return found
            tried.append(found)
        return tried[-1]

    return collect(
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
    """ValueError if a question has turns or cannot be verified, two have one id, or `attempts` is below 1."""
    if attempts < 1:
        raise ValueError(f"attempts must be 1 or more, got {attempts}")
    for question in questions:
        verify.check(question)
    if held := [question.id for question in questions if question.turns]:
        raise ValueError(f"record {held[0]} is a conversation already: questions are records without turns")
    if twice := [id for id, count in Counter(question.id for question in questions).items() if count > 1]:
        raise ValueError(f"{len(twice)} ids are there more than once, {twice[0]} among them")


def _one(
    question: Record, factory: EpisodeFactory, expert: Expert, verify: Verifier, attempt: int
) -> Record | Rejected:
    try:
        episode = factory.open(question)
    except EpisodeFailed as error:
        return Rejected(question.id, error.reason, str(error))
    said: list[str] = []
    try:
        continue_episode(episode, expert, task="distill", attempt=attempt, said=said)
    except EpisodeFailed as error:
        return Rejected(question.id, error.reason, str(error), tuple(said))
    return judged(episode, question.id, verify, said)


def continue_episode(
    episode: Episode, expert: Expert, *, task: str, attempt: int, said: list[str], source: Source = "expert"
) -> None:
    """Ask the expert turn by turn until the conversation is over. said: gets every text, even one that fails."""
    while episode.stop_reason is None:
        take_turn(episode, expert, task=task, attempt=attempt, said=said, source=source)


def take_turn(episode: Episode, expert: Expert, *, task: str, attempt: int, said: list[str], source: Source) -> None:
    """One turn of the expert. EpisodeFailed if its reply was cut short: nobody knows the rest of it."""
    protocol = episode.question.config.protocol
    reply = expert.ask(episode.messages, tag=episode.question.id, task=task, attempt=attempt, stop=stops(protocol))
    cut_short = reply.finish == "length" and cut_turn(reply.text, protocol) is None
    text = reply.text if cut_short else whole_turn(reply.text, protocol)
    said.append(text)
    if cut_short:
        raise EpisodeFailed("cut_short", f"turn {len(said)} reached the endpoint's limit of tokens")
    episode.say(text, source)


def judged(episode: Episode, id: str, verify: Verifier, said: Sequence[str]) -> Record | Rejected:
    """The record of a finished conversation, if its answer is right and its learned turns are well formed."""

    def rejected(reason: str, detail: str) -> Rejected:
        return Rejected(id, reason, detail, tuple(said))

    if episode.stop_reason is not StopReason.ANSWERED or episode.answer is None:
        return rejected("no_answer", f"it ended by {episode.stop_reason}")
    if not verify(episode.question, episode.answer):
        return rejected("wrong", f"the answer is {episode.answer!r}, the reference {episode.question.reference!r}")
    try:
        record = episode.record(id)
    except InvalidRecord as error:
        return rejected("invalid", str(error))
    for number, turn in enumerate(record.turns):
        if not turn.flawed and strict_action(turn.text, record.config.protocol) is None:
            return rejected("form", f"turn {number + 1} is not one closed thought and then its action")
    return record
