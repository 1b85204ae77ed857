"""LongVideo-Reason-eval (arXiv 2507.07966): 1 000 multiple-choice questions of four kinds of reasoning.

Hub LongVideo-Reason/longvideo-reason: `test.jsonl`, one question a line: {"problem_id", "problem", "problem_type",
"videos", "answer", …}. The options are in the problem, in lines "A. …"; the answer is "B" between answer tags;
problem_type is temporal, goal, spatial or plot. Videos: hub LongVideo-Reason/longvideo_eval_videos; the file says
`longvila_videos/{name}`, the archives unpack into `longvideo_eval_subset{n}/`, and both are found.

Sources: EvolvingLMMs-Lab/lmms-eval, lmms_eval/tasks/longvideo_reason/{utils.py @ 20e37295, README.md @ bef35edf}, whose
authors examined the published files; NVlabs/Long-RL (the protocol). VideoZoomer's own copy is
zsgvivo/eval_datasets, LongVideoReason_test_processed.json.

Five of the published problems carry no whole set of options. They stay in, as the authors count them, and any of the
four letters can be answered. Always answering B is right in 44.1 % of the items.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from ...protocol import LETTERS, builtin_protocol, render_answer
from ..item import Benchmark, Item
from .options import MULTIPLE_CHOICE, listed, split_dotted
from .rows import AnnotationRow, jsonl_rows, locate
from .scorers import CHOICE, score_choice

FILE = "test.jsonl"
PROBLEM_TYPES = ("temporal", "goal", "spatial", "plot")
WITHOUT_OPTIONS = frozenset({147, 379, 743, 825, 857})  # problem_id of rows that were published broken
BROKEN_PROMPT = "{question}\nAnswer with the letter of the right option, A, B, C or D."

_LETTERS = tuple(LETTERS[:4])
_TAGS = builtin_protocol("vzoom")  # the annotations have the same
_ANSWER = re.compile(rf"\s*(?:{_TAGS.answer.open})?\s*([A-Z])\s*\.?\s*(?:{_TAGS.answer.close})?\s*")
_FOLDERS = ("", "longvila_videos", "videos", *(f"longvideo_eval_subset{n}" for n in range(11)))


def _load(root: Path, subtitles: bool) -> Iterator[Item]:
    for row in jsonl_rows(locate(root, _FOLDERS, FILE)):
        number, kind = row.integer("problem_id"), row.text("problem_type")
        if kind not in PROBLEM_TYPES:
            row.fail(f"problem_type must be one of {', '.join(PROBLEM_TYPES)}, got {kind!r}")
        question, options = _question(row, number)
        yield Item(
            id=str(number),
            benchmark="longvideoreason",
            video=row.text("videos"),
            question=question,
            options=options,
            reference=_reference(row, options),
            category=kind,
            duration_bucket="",
            subtitles=None,
            source=row.source,
        )


def _question(row: AnnotationRow, number: int) -> tuple[str, tuple[str, ...]]:
    if number in WITHOUT_OPTIONS:
        return BROKEN_PROMPT.format(question=row.text("problem")), _LETTERS
    stem, options = split_dotted(row.text("problem"))
    if len(options) != len(_LETTERS):
        row.fail(f"the problem must end in four lines A. … to D. …, got {len(options)} of them")
    return MULTIPLE_CHOICE.format(question=stem, options=listed(options)), options


def _reference(row: AnnotationRow, options: tuple[str, ...]) -> str:
    found = _ANSWER.fullmatch(row.text("answer"))
    if found is None or found[1] not in _LETTERS[: len(options)]:
        wanted = " to ".join(render_answer(letter, _TAGS) for letter in (_LETTERS[0], _LETTERS[-1]))
        row.fail(f"answer must be {wanted}, got {row.text('answer')!r}")
    return found[1]


LONGVIDEOREASON = Benchmark(
    name="longvideoreason",
    title="LongVideo-Reason-eval",
    hub_id="LongVideo-Reason/longvideo-reason",
    revision="311eccb",
    files=(FILE,),
    source="lmms-eval longvideo_reason @ 20e37295 and bef35edf",
    prompt="\n---\n".join((MULTIPLE_CHOICE, BROKEN_PROMPT)),
    scorer=CHOICE,
    paper={"base": 70.8, "videozoomer": 80.3},
    loads=_load,
    scores=score_choice,
    folders=_FOLDERS,
)
