"""How well a model does on fresh synthetic questions: right answers, and whether it saw what proves them."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np

from ..data import answer_scores
from ..protocol import Reference, is_right
from .questions import Question, ask_questions, config_for, is_hit
from .spec import SyntheticConfig, make_video
from .video import render

if TYPE_CHECKING:
    from ..types import Event
    from ..zoomer import Result, Zoomer

_BATCH = 16  # videos on disk and conversations in memory at once


def evaluate_synthetic(
    zoomer: Zoomer,
    family: str,
    num_questions: int,
    seed: int,
    *,
    max_zooms: int | None = None,
    config: SyntheticConfig | None = None,
    cache_dir: str | Path | None = None,
    max_sessions: int = 8,
    on_event: Callable[[Event], None] | None = None,
) -> dict[str, Any]:
    """Draw fresh videos, one question about each, ask them greedily, and score the answers.

    Args:
        zoomer: the model.
        family: of the questions, see `FAMILIES`.
        num_questions: how many.
        seed: of the evaluation: another seed, other videos and questions.
        max_zooms: zooms allowed; None is the model's own limit, 0 the baseline without zooms.
        config: of the videos; None is the family's default.
        cache_dir: where rendered videos are kept and found again; without it they are removed.
        max_sessions: conversations at once.
        on_event: sees what happens, a `Finished` for each question included.

    Returns:
        {family, seed, n, max_zooms, chance, accuracy, answered, mean_zooms, mean_frames, hit_rate, correct_and_hit,
        correct_without_hit, failed, seconds}. accuracy, answered, hit_rate, correct_and_hit, correct_without_hit and
        failed are fractions of n.

    Raises:
        ValueError: there is no such family, or `num_questions` is below 1.
    """
    started = time.perf_counter()
    scores = ask_synthetic(
        zoomer,
        family,
        num_questions,
        seed,
        max_zooms=max_zooms,
        config=config,
        cache_dir=cache_dir,
        max_sessions=max_sessions,
        on_event=on_event,
    )
    mean = {name: float(np.mean([s[name] for s in scores])) for name in scores[0]}
    return {
        "family": family,
        "seed": seed,
        "n": num_questions,
        "max_zooms": zoomer.config.max_zooms if max_zooms is None else max_zooms,
        **{name: round(value, 4) for name, value in mean.items()},
        "seconds": round(time.perf_counter() - started, 2),
    }


def ask_synthetic(
    zoomer: Zoomer,
    family: str,
    num_questions: int,
    seed: int,
    *,
    max_zooms: int | None = None,
    config: SyntheticConfig | None = None,
    cache_dir: str | Path | None = None,
    max_sessions: int = 8,
    on_event: Callable[[Event], None] | None = None,
) -> list[dict[str, float]]:
    """The `score` of each question that `evaluate_synthetic` takes the means of.

    Args:
        zoomer: as there; so are all the others.

    Raises:
        ValueError: there is no such family, or `num_questions` is below 1.
    """
    if num_questions < 1:
        raise ValueError(f"num_questions must be 1 or more, got {num_questions}")
    config = config_for(family, config)
    seeds = question_seeds(seed, num_questions)
    scores: list[dict[str, float]] = []
    for begin in range(0, num_questions, _BATCH):
        with _folder(cache_dir) as folder:
            asked: list[tuple[Path, Question]] = []
            for one in seeds[begin : begin + _BATCH]:
                video = make_video(one, config)
                path = folder / f"synthetic-{one}-{crc32(repr(config).encode()):08x}.mp4"
                if not path.exists():
                    render(video, path)
                asked.append((path, ask_questions(video, family, one)))
            results = zoomer.ask_many(
                [(path, question.text) for path, question in asked],
                max_zooms=max_zooms,
                max_sessions=max_sessions,
                on_event=on_event,
                return_exceptions=True,
            )
        scores += [
            _failed(question) if isinstance(result, Exception) else score(result, question)
            for result, (_, question) in zip(results, asked, strict=True)
        ]
    return scores


def question_seeds(seed: int, num_questions: int) -> list[int]:
    """The public seeds of an evaluation's videos.

    Args:
        seed: of the evaluation: another seed, another set.
        num_questions: how many; fewer are the first of more.

    Returns:
        One seed for each question.
    """
    return [int(s) for s in np.random.SeedSequence(seed).generate_state(num_questions, np.uint64)]


def score(result: Result, question: Question) -> dict[str, float]:
    """One result against its question.

    Args:
        result: of the question.
        question: with its evidence.

    Returns:
        `answer_scores`, chance, hit_rate, correct_and_hit, correct_without_hit, and failed: whether the conversation
        ended in an error, which is no right answer. A hit: zooms showed all of the evidence. Each is 0 or 1, except
        chance, mean_zooms and mean_frames.
    """
    reference = Reference(question.text, question.answer_letter, question.options)
    correct = is_right(result.answer, reference) is True
    hit = is_hit(question.evidence, [t for turn in result.trajectory.zooms for t in turn.pts_seconds])
    return {
        "chance": question.chance,
        **answer_scores(result, right=correct),
        "hit_rate": float(hit),
        "correct_and_hit": float(correct and hit),
        "correct_without_hit": float(correct and not hit),
        "failed": 0.0,
    }


def _failed(question: Question) -> dict[str, float]:
    """`score` of a conversation that ended in an error: nothing is right, nothing was seen."""
    nothing = (
        "accuracy",
        "answered",
        "mean_zooms",
        "mean_frames",
        "hit_rate",
        "correct_and_hit",
        "correct_without_hit",
    )
    return {"chance": question.chance, **dict.fromkeys(nothing, 0.0), "failed": 1.0}


@contextmanager
def _folder(cache_dir: str | Path | None) -> Iterator[Path]:
    if cache_dir is None:
        with tempfile.TemporaryDirectory(prefix="vzoom-synthetic-") as name:
            yield Path(name)
    else:
        Path(cache_dir).mkdir(parents=True, exist_ok=True)
        yield Path(cache_dir)
