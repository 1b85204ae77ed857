"""Questions asked in blocks, as `vzoom eval` asks them, and answers as soon as there are any."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from ..runs.ask import Asked, ask_block
from .question import Question
from .settings import Settings

if TYPE_CHECKING:
    from ...zoomer import Zoomer


@dataclass(frozen=True)
class Reply:
    """text: what stood between the answer tags, "" where the model gave no answer. tokens: of all conversations held
    about the question, those that were fed (frames among them) and those that the model wrote."""

    text: str
    num_fed: int
    num_written: int

    @classmethod
    def of(cls, asked: Asked, question: Question) -> Reply:
        turns = [turn for trajectory in asked.held for turn in trajectory.turns]
        return cls(
            question.generation.cut(asked.last.answer or ""),
            num_fed=sum(turn.num_prefilled for turn in turns),
            num_written=sum(turn.num_sampled for turn in turns),
        )


def replies(zoomer: Zoomer, questions: Sequence[Question], settings: Settings) -> Iterator[Reply]:
    """In the questions' order; those of a block when the block is done, so that a cache loses one block at most.

    ValueError for a video that cannot be read: an answer made up for it would be counted as the model's.
    """
    for temperature, alike in groupby(questions, key=lambda q: q.generation.temperature):
        for block in _blocks(list(alike), 2 * settings.sessions):
            asked = [Asked(q.item, q.path, q.seed) for q in block]
            ask_block(zoomer, asked, settings.look, temperature=temperature, max_sessions=settings.sessions)
            for one, question in zip(asked, block, strict=True):
                if one.problem:
                    raise ValueError(f"{question.item.source}: {one.problem}; fetch it again, or take its rows out")
                yield Reply.of(one, question)


def _blocks(questions: list[Question], size: int) -> Iterator[list[Question]]:
    for begin in range(0, len(questions), size):
        yield questions[begin : begin + size]
