"""What a student writes about questions, kept on the disk block by block, so that a resumed run repeats none.

A block is a fixed number of questions that share one engine. Which tokens are fed together decides the last bits of the
logits. So a block that was cut short is done again as a whole, and comes out as it would have.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any
from zlib import crc32

from ...config import Sampling
from ...engine import Outcome
from ...protocol import Protocol, cut_turn
from ...types import Malformed, ZoomCall, ZoomCalls
from ..ask import ask_alone
from ..record import Record
from ..videos import check_video
from .progress import Say, silence
from .reply_cache import ReplyCache, key_of
from .settings import RolloutSettings

if TYPE_CHECKING:
    from ...zoomer import Zoomer


@dataclass(frozen=True)
class StudentRollout:
    """One conversation of the student, by text.

    Args:
        question: id of the record that it is about.
        number: from 0, among the rollouts of this question.
        turns: what was written.
        kinds: of each turn: "zoom", "answer", an error, or "cut".
        zoomed: numbers of the turns that brought a clip.
        answer: None if there is none.
        stop_reason: why it ended.
        problem: why there is no conversation, else "".
    """

    question: str
    number: int
    turns: tuple[str, ...]
    kinds: tuple[str, ...]
    zoomed: tuple[int, ...]
    answer: str | None
    stop_reason: str
    problem: str = ""

    @property
    def id(self) -> str:
        """Of the record that a correction of it becomes."""
        return f"{self.question}+r{self.number}"


def roll_out(
    zoomer: Zoomer,
    questions: Sequence[Record],
    cache: ReplyCache,
    *,
    num_rollouts: int,
    temperature: float,
    seed: int,
    max_sessions: int = RolloutSettings.max_sessions,
    say: Say = silence,
) -> list[StudentRollout]:
    """`num_rollouts` conversations about each question. The same model, seed and questions give the same conversations.

    Args:
        zoomer: the student.
        questions: records without turns.
        cache: where finished blocks are kept; it must be that of this student and these settings.
        num_rollouts: conversations per question.
        temperature: of the student.
        seed: each question draws from its own stream of it.
        max_sessions: conversations at once; whole questions only.
        say: told after every block that was not in the cache.

    Returns:
        The rollouts of the first question, then those of the second, …

    Raises:
        ValueError: `num_rollouts` is below 1 or above `max_sessions`, or a video's file has changed.
    """
    if num_rollouts < 1 or max_sessions < num_rollouts:
        raise ValueError(f"need 1 ≤ num_rollouts ≤ max_sessions, got {num_rollouts}, {max_sessions}")
    sampling = Sampling(temperature=temperature)
    size = max(1, max_sessions // num_rollouts)
    found: list[StudentRollout] = []
    for first in range(0, len(questions), size):
        block = questions[first : first + size]
        settings = [[q.id for q in block], num_rollouts, temperature, seed]
        key = key_of({"task": "roll out", "settings": settings})
        kept = cache.get(key)
        if kept is None:
            rollouts = _block(zoomer, block, num_rollouts, sampling, seed)
            kept = {"rollouts": [asdict(rollout) for rollout in rollouts]}
            cache.put(key, kept)
            say(first + len(block), len(questions), "questions rolled out")
        found += [_from_json(row) for row in kept["rollouts"]]
    return found


def _block(
    zoomer: Zoomer, block: Sequence[Record], num_rollouts: int, sampling: Sampling, seed: int
) -> Iterator[StudentRollout]:
    requests = []
    for question in block:
        check_video(question.video)
        own = Sampling(sampling.temperature, seed=crc32(f"{seed} {question.id}".encode()) * num_rollouts)
        requests.append(
            zoomer.request(
                question.video.path, question.question, config=question.config, sampling=own, num_rollouts=num_rollouts
            )
        )
    # What a student writes becomes data, which shows tags: an answer without them is refused.
    groups = ask_alone(zoomer, requests, max_sessions=len(block) * num_rollouts, untagged_answers=False)
    for question, outcomes in zip(block, groups, strict=True):
        for number, outcome in enumerate(outcomes):
            yield _rollout(question.id, number, outcome, question.config.protocol)


def _rollout(question: str, number: int, outcome: Outcome, protocol: Protocol) -> StudentRollout:
    if outcome.error is not None:
        return StudentRollout(question, number, (), (), (), None, "", str(outcome.error))
    held = outcome.unwrap()
    turns = held.turns
    return StudentRollout(
        question,
        number,
        # A token may hold more than the closing tag that it ends: the text is cut where the turn ended.
        tuple(cut_turn(turn.text, protocol) or turn.text for turn in turns),
        tuple(kind_of(turn.outcome) for turn in turns),
        tuple(i for i, turn in enumerate(turns) if turn.pts_seconds),
        held.answer,
        str(held.stop_reason),
    )


def kind_of(outcome: object) -> str:
    if isinstance(outcome, Malformed):
        return str(outcome.error)
    return "zoom" if isinstance(outcome, ZoomCall | ZoomCalls) else "cut" if outcome is None else "answer"


def _from_json(row: dict[str, Any]) -> StudentRollout:
    tuples = {name: tuple(row[name]) for name in ("turns", "kinds", "zoomed")}
    return StudentRollout(**{**row, **tuples})
