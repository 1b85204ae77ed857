"""Reflection trajectories: a student that zoomed in vain, corrected by an expert.

A wrong rollout with at least one zoom loses its last turn. The expert is shown all of it, text and frames, is asked
what was wrong with the zoom, and continues from there with a corrected one. If the answer is then right, the student's
prefix and the expert's turns are kept.

Every turn of the student is marked flawed: shown, never learned. Its last zoom did not lead to the answer. Nobody has
verified its earlier turns, and good first zooms are what the exemplars show.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...protocol import Protocol
from ...types import calls_of
from ..record import Record
from .distill import check_task, continue_episode, judged, take_turn
from .episode import Episode, EpisodeFactory, EpisodeFailed
from .expert import Expert, Verifier
from .loop import Collected, CollectSummary, Passed, Rejected, collect
from .messages import with_request
from .progress import Say, silence
from .rollouts import StudentRollout, kind_of
from .settings import ExpertSettings

_REQUEST = (
    "Stop here. A student wrote the turns above, and then {ending} "
    "Say what was wrong with the last zoom and where to look instead, and make the corrected zoom: "
    "{turn}. "
    "Write it as the student would who notices the mistake by itself, without a word about this message; then go on "
    "until you know the answer."
)


@dataclass(frozen=True)
class _Case:
    rollout: StudentRollout
    is_repeat: bool  # an earlier rollout of the same question reads the same

    @property
    def id(self) -> str:
        return self.rollout.id


def reflect(
    questions: Sequence[Record],
    rollouts: Sequence[StudentRollout],
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
    """Have an expert correct a student's wrong rollouts, each in up to `attempts` attempts.

    A rollout that is right, or the same as another one, is passed over. One that cannot be corrected is rejected:
    no_zoom, no_zooms_left (for a zoom and an answer), no_correction (the expert did not zoom), wrong, …

    Args:
        questions: records without turns, each with its own id.
        rollouts: what the student made of them, as `roll_out` returns it.
        out: the folder of the run; see `loop.collect` for what is in it.
        factory: opens the conversations.
        expert: who corrects.
        verify: whether an answer is right.
        attempts: corrections per rollout, at most.
        concurrency: conversations at once.
        shard_records: records per Parquet shard.
        say: told about every rollout, together with what `costs` returns.
        costs: what was spent so far, as text.

    Returns:
        Counts of the whole folder. `stopped` says why it ended early, if it did.

    Raises:
        ValueError: a question has turns or cannot be verified, two have one id, or `attempts` is below 1.
    """
    check_task(questions, verify, attempts)
    by_id = {question.id: question for question in questions}
    seen: set[tuple[str, tuple[str, ...]]] = set()
    cases = []
    for rollout in rollouts:
        text = (rollout.question, rollout.turns)
        cases.append(_Case(rollout, text in seen))
        seen.add(text)

    def work(case: _Case) -> Collected:
        rollout, question = case.rollout, by_id[case.rollout.question]
        if rollout.problem:
            return Rejected(rollout.id, "unreadable", rollout.problem)
        if rollout.answer is not None and verify(question, rollout.answer):
            return Passed("right")
        if case.is_repeat:
            return Passed("repeated")
        if not rollout.zoomed:
            return Rejected(rollout.id, "no_zoom", f"it ended by {rollout.stop_reason}", rollout.turns)
        # A zoom and an answer, at least, must follow what is kept of the student.
        if len(rollout.turns) - 1 > question.config.max_zooms - 1:
            return Rejected(rollout.id, "no_zooms_left", f"{len(rollout.turns) - 1} turns were used", rollout.turns)
        for attempt in range(attempts):
            found = _one(question, rollout, factory, expert, verify, rollout.number * attempts + attempt)
            if isinstance(found, Record):
                return found
        return found

    return collect(
        cases,
        work,
        out,
        concurrency=concurrency,
        shard_records=shard_records,
        stop=expert.stop,
        say=say,
        costs=costs,
    )


def _one(
    question: Record, rollout: StudentRollout, factory: EpisodeFactory, expert: Expert, verify: Verifier, attempt: int
) -> Record | Rejected:
    said = list(rollout.turns[:-1])
    try:
        episode = factory.open(question)
        if problem := _repeat(episode, rollout):
            return Rejected(rollout.id, "not_repeated", problem, rollout.turns)
        episode.messages = with_request(episode.messages, _request(rollout, question.config.protocol))
        take_turn(episode, expert, task="reflect", attempt=attempt, said=said, source="reflection")
        if episode.stop_reason is not None or not calls_of(episode.session.trajectory.turns[-1].outcome):
            return Rejected(rollout.id, "no_correction", "the expert's first turn brought no clip", tuple(said))
        continue_episode(episode, expert, task="reflect", attempt=attempt, said=said)
    except EpisodeFailed as error:
        return Rejected(rollout.id, error.reason, str(error), tuple(said))
    return judged(episode, rollout.id, verify, said)


def _repeat(episode: Episode, rollout: StudentRollout) -> str:
    """Episode the student's turns but the last one; what comes out otherwise than when they were sampled, or ""."""
    for number, text in enumerate(rollout.turns[:-1]):
        episode.say(text, "student", flawed=True)
        turn = episode.session.trajectory.turns[number]
        if (kind_of(turn.outcome), bool(turn.pts_seconds)) != (rollout.kinds[number], number in rollout.zoomed):
            return f"turn {number + 1} was {rollout.kinds[number]}, and is {kind_of(turn.outcome)} when it is repeated"
        if episode.stop_reason is not None:
            return f"the conversation ends by {episode.stop_reason} after turn {number + 1} when it is repeated"
    return ""


def _request(rollout: StudentRollout, protocol: Protocol) -> str:
    thought, call = protocol.thought, protocol.call
    turn = f"{thought.open}what was wrong, and where to look{thought.close}{call.open}…{call.close}"
    return _REQUEST.format(ending=_ending(rollout), turn=turn)


def _ending(rollout: StudentRollout) -> str:
    if rollout.answer is None:
        return "came to no answer."
    return f"answered {' '.join(rollout.answer.split())!r}, which is wrong."
