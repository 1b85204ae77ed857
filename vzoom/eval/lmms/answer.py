"""Questions asked in blocks, as `vzoom eval` asks them, and answers as soon as there are any."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from ..runs.ask import Asked, ask_block
from .question import LmmsQuestion
from .settings import Settings

if TYPE_CHECKING:
    from ...zoomer import Zoomer


@dataclass(frozen=True)
class LmmsReply:
    """The answer to one question.

    Args:
        text: what was between the answer tags; "" if the model gave no answer.
        num_fed: tokens that were fed, frames included, in all conversations about the question.
        num_written: tokens that the model wrote in them.
    """

    text: str
    num_fed: int
    num_written: int

    @classmethod
    def of(cls, asked: Asked, question: LmmsQuestion) -> LmmsReply:
        turns = [turn for trajectory in asked.held for turn in trajectory.turns]
        return cls(
            question.generation.cut(asked.last.answer or ""),
            num_fed=sum(turn.num_prefilled for turn in turns),
            num_written=sum(turn.num_sampled for turn in turns),
        )


def replies(zoomer: Zoomer, questions: Sequence[LmmsQuestion], settings: Settings) -> Iterator[LmmsReply]:
    """Replies in the questions' order. Those of a block come when it is done, so that a cache loses one block at most.

    Raises:
        ValueError: a video cannot be read, or a conversation ended in an error. An answer made up for it would count as
            the model's.
    """
    for temperature, alike in groupby(questions, key=lambda q: q.generation.temperature):
        for block in _blocks(list(alike), 2 * settings.sessions):
            asked = [Asked(q.item, q.path, q.seed) for q in block]
            ask_block(zoomer, asked, settings.look, temperature=temperature, max_sessions=settings.sessions)
            for one, question in zip(asked, block, strict=True):
                if one.problem:
                    raise ValueError(
                        f"{question.item.source}: {one.problem.detail}; fetch it again, or take its rows out"
                    )
                yield LmmsReply.of(one, question)


def _blocks(questions: list[LmmsQuestion], size: int) -> Iterator[list[LmmsQuestion]]:
    for begin in range(0, len(questions), size):
        yield questions[begin : begin + size]
