"""Whether an answer is right: by its letter if the question has options, else by a judge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from .answers import LETTERS, Choice, read_choice


@dataclass(frozen=True)
class JudgeFailed:
    """A judge gave no verdict. Never to be taken for "wrong".

    Attributes:
        reason: why, as the last attempt ended.
        num_attempts: how often the judge was asked.
    """

    reason: str
    num_attempts: int = 1


class Judge(Protocol):
    """Compares an open answer with the reference. `eval.HTTPJudge` is one."""

    def __call__(self, question: str, reference: str, answer: str, /) -> bool | JudgeFailed:
        """Whether `answer` means the same as `reference`, or why nobody could say."""
        ...


@dataclass(frozen=True)
class Reference:
    """The right answer to a question.

    Attributes:
        question: the text that was asked.
        answer: a letter of `options`, or a text for a judge if there are no options.
        options: the texts to choose from, in order; () for an open question.

    Raises:
        ValueError: the answer is empty, or no letter of the options.
    """

    question: str
    answer: str
    options: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.options and self.answer not in tuple(LETTERS[: len(self.options)]):
            raise ValueError(f"the answer must be one of {LETTERS[: len(self.options)]}, got {self.answer!r}")
        if not self.answer.strip():
            raise ValueError(f"no reference answer to {self.question!r}")


def is_right(answer: str | None, reference: Reference, *, judge: Judge | None = None) -> bool | JudgeFailed:
    """Whether an answer is right.

    Args:
        answer: the text between the answer tags; None if the conversation ended without one.
        reference: what was asked, and its right answer.
        judge: asked about open answers only.

    Returns:
        False for no answer at all, without asking the judge; the judge's failure if there is no verdict.

    Raises:
        ValueError: the question has no options and there is no judge.
    """
    if answer is None or not answer.strip():
        return False
    if reference.options:
        choice = read_choice(answer, reference.options)
        return isinstance(choice, Choice) and choice.letter == reference.answer
    if judge is None:
        raise ValueError(f"{reference.question!r} has no options: give a judge (eval.judge)")
    return judge(reference.question, reference.answer, answer)
