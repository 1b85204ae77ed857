"""Synthetic videos as a benchmark that needs no download: 400 questions, one per video, with exact evidence.

The two families that the embedded model has learned take turns. The seeds are public, so its training never drew them.
A missing video is rendered into the root.

The benchmark's name "world" and the sources "vzoom.world:N" stay as they are: they are in the content hash of every
prediction, and other names would make other hashes of the same answers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from ...synthetic import Question, ask_questions, config_for, make_video, question_seeds, render
from ..item import Benchmark, Item
from .scorers import CHOICE, score_choice

FAMILIES, NUM_QUESTIONS, SEED = ("which", "count"), 400, 0

_NAME = re.compile(rf"({'|'.join(FAMILIES)})-(\d+)\.mp4")


def _load(root: Path, subtitles: bool) -> Iterator[Item]:
    for number, seed in enumerate(question_seeds(SEED, NUM_QUESTIONS)):
        family = FAMILIES[number % len(FAMILIES)]
        config = config_for(family)
        video = make_video(seed, config)
        question: Question = ask_questions(video, family, seed)
        yield Item(
            id=f"{family}-{number:03d}",
            benchmark="world",
            video=f"{family}-{seed}.mp4",
            question=question.text,
            options=question.options,
            reference=question.answer_letter,
            category=family,
            duration_bucket=f"{config.duration_seconds:g} s",
            subtitles=None,
            source=f"vzoom.world:{number + 1}",
            evidence=question.evidence,
        )


def _render(path: Path, item: Item) -> None:
    name = _NAME.fullmatch(item.video)
    assert name
    path.parent.mkdir(parents=True, exist_ok=True)
    render(make_video(int(name[2]), config_for(name[1])), path)


SYNTHETIC = Benchmark(
    name="world",
    title="vzoom's synthetic videos",
    hub_id="",
    revision=None,
    files=(),
    source="vzoom.synthetic",
    prompt="{question}\nA: …\nB: …\nC: …\nD: …",
    scorer=CHOICE,
    paper={},
    loads=_load,
    scores=score_choice,
    settings={"families": FAMILIES, "questions": NUM_QUESTIONS, "seed": SEED},
    render=_render,
)
