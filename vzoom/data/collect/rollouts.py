"""What a student writes about questions, kept on the disk block by block, so that a run taken up repeats none.

A block is a fixed run of questions that share an engine of their own. Who is fed together decides the last bits of the
logits, so a block that was cut short is done again as a whole, and comes out as it would have.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any
from zlib import crc32

from ...config import Sampling
from ...engine import Engine, Outcome, Request
from ...models import FeatureCache
from ...types import Malformed, ZoomCall
from ..record import Record
from ..videos import check_video
from .collect import Say, silence
from .messages import cut_turn
from .reply_cache import Ledger, key_of

if TYPE_CHECKING:
    from ...zoomer import Zoomer


@dataclass(frozen=True)
class Rollout:
    """One conversation of the student about record `question`, by text. zoomed: turns that brought a clip.

    kinds: of each turn, "zoom", "answer", an error, or "cut". problem: why there is no conversation, else "".
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
    ledger: Ledger,
    *,
    num_rollouts: int,
    temperature: float,
    seed: int,
    max_sessions: int = 16,
    say: Say = silence,
) -> list[Rollout]:
    """`num_rollouts` conversations about each question, in order. The same for the same model, seed and questions.

    ledger: where finished blocks are; it must be that of this student and these settings.
    """
    if num_rollouts < 1 or max_sessions < num_rollouts:
        raise ValueError(f"need 1 ≤ num_rollouts ≤ max_sessions, got {num_rollouts}, {max_sessions}")
    sampling = Sampling(temperature=temperature)
    size = max(1, max_sessions // num_rollouts)
    found: list[Rollout] = []
    for first in range(0, len(questions), size):
        block = questions[first : first + size]
        settings = [[q.id for q in block], num_rollouts, temperature, seed]
        key = key_of({"task": "roll out", "settings": settings})
        kept = ledger.get(key)
        if kept is None:
            rollouts = _block(zoomer, block, num_rollouts, sampling, seed)
            kept = {"rollouts": [asdict(rollout) for rollout in rollouts]}
            ledger.put(key, kept)
            say(first + len(block), len(questions), "questions rolled out")
        found += [_from_json(row) for row in kept["rollouts"]]
    return found


def _block(
    zoomer: Zoomer, block: Sequence[Record], num_rollouts: int, sampling: Sampling, seed: int
) -> Iterator[Rollout]:
    requests = []
    for question in block:
        check_video(question.video)
        own = Sampling(sampling.temperature, seed=crc32(f"{seed} {question.id}".encode()) * num_rollouts)
        requests.append(
            Request.about(
                question.video.path,
                question.question,
                checkpoint=zoomer.checkpoint,
                clip_cache=zoomer.clip_cache,
                config=question.config,
                sampling=own,
                num_rollouts=num_rollouts,
            )
        )
    with Engine(
        zoomer.checkpoint,
        max_sessions=len(block) * num_rollouts,
        max_total_tokens=max(question.config.max_total_tokens for question in block),
        overlap=False,  # who is fed together must not depend on timing
        feature_cache=FeatureCache(),  # nor who is encoded together on what was asked before
    ) as engine:
        groups = engine.run(requests, keep_clips=False)
    for question, group in zip(block, groups, strict=True):
        for number, outcome in enumerate(group):
            yield _rollout(question.id, number, outcome)


def _rollout(question: str, number: int, outcome: Outcome) -> Rollout:
    if outcome.error is not None:
        return Rollout(question, number, (), (), (), None, "", str(outcome.error))
    held = outcome.unwrap()
    turns = held.turns
    return Rollout(
        question,
        number,
        # Tokens may go on behind a closing tag that they end with: the text is cut where the turn ended.
        tuple(cut_turn(turn.text) or turn.text for turn in turns),
        tuple(kind_of(turn.outcome) for turn in turns),
        tuple(i for i, turn in enumerate(turns) if turn.pts_seconds),
        held.answer,
        str(held.stop_reason),
    )


def kind_of(outcome: object) -> str:
    if isinstance(outcome, Malformed):
        return str(outcome.error)
    return "zoom" if isinstance(outcome, ZoomCall) else "cut" if outcome is None else "answer"


def _from_json(row: dict[str, Any]) -> Rollout:
    tuples = {name: tuple(row[name]) for name in ("turns", "kinds", "zoomed")}
    return Rollout(**{**row, **tuples})
