"""MLVU (arXiv 2406.04264): nine tasks on videos of 3 minutes to 2 hours; seven multiple-choice, two open-ended.

Dev, hub MLVU/MVLU: `json/{task}.json`, JSON lists of {"video", "duration", "question", "candidates", "answer",
"question_type"}; the answer is an option's text. Videos are in `video/{task}/`; the same names recur in several of
them. 8_sub_scene and 9_summary have no candidates, and a text for an answer.
Test, hub MLVU/MLVU_Test: `test-ground-truth/test_mcq_gt.json`, the same with a "question_id"; videos in `video/`.

Sources: open-compass/VLMEvalKit, vlmeval/dataset/mlvu.py @ 06d45c58 (files, folders, fields of dev); JUNJIE99/MLVU,
Evaluation_Test/test_bench.py @ 2d801560 and README.md @ 0264adb8 (test, M-Avg and G-Avg); the name of the test's
ground truth: loaders of others that read it by the same fields.

M-Avg, which the authors report, is the mean of the tasks' accuracies. Their G-Avg (2 to 10 points that GPT-4 gives to
open answers) is another scale than ours of `mlvu-generation`: here a judge says right or wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from ..item import Benchmark, Item
from .durations import bucket
from .options import MULTIPLE_CHOICE, letter_of_option, listed
from .rows import AnnotationRow, json_rows, locate
from .scorers import CHOICE, JUDGED, score_choice, score_judged

CHOICE_TASKS = (
    "1_plotQA",
    "2_needle",
    "3_ego",
    "4_count",
    "5_order",
    "6_anomaly_reco",
    "7_topic_reasoning",
)
OPEN_TASKS = ("8_sub_scene", "9_summary")
OPEN_PROMPT = "{question}"

_DEV_FOLDERS = ("", "MLVU")
_TEST_FOLDERS = ("", "MLVU_Test", "video", "MLVU_Test/video", "MLVU_Test/test_video")
_TEST_FILE = "test-ground-truth/test_mcq_gt.json"


def _load_dev(benchmark: str, tasks: tuple[str, ...], root: Path, subtitles: bool) -> Iterator[Item]:
    for task in tasks:
        for number, row in enumerate(json_rows(locate(root, _DEV_FOLDERS, f"json/{task}.json"))):
            video = f"video/{task}/{row.text('video')}"
            yield _item(row, benchmark, f"{task}-{number}", video, is_open=task in OPEN_TASKS)


def _load_test(root: Path, subtitles: bool) -> Iterator[Item]:
    for row in json_rows(locate(root, _TEST_FOLDERS, _TEST_FILE)):
        yield _item(row, "mlvu-test", row.text("question_id"), row.text("video"), is_open=False)


def _item(row: AnnotationRow, benchmark: str, id: str, video: str, *, is_open: bool) -> Item:
    options = () if is_open else row.texts("candidates")
    question, answer = row.text("question"), str(row.data.get("answer", "")).strip() or row.text("answer")
    if not is_open:
        answer = letter_of_option(answer, options, row)
        question = MULTIPLE_CHOICE.format(question=question, options=listed(options))
    return Item(
        id=id,
        benchmark=benchmark,
        video=video,
        question=question,
        options=options,
        reference=answer,
        category=row.text("question_type"),
        duration_bucket=bucket(row.number("duration")),
        subtitles=None,
        source=row.source,
    )


_SOURCE = "VLMEvalKit vlmeval/dataset/mlvu.py @ 06d45c58; JUNJIE99/MLVU @ 2d801560"

DEV = Benchmark(
    name="mlvu-dev",
    title="MLVU dev",
    hub_id="MLVU/MVLU",
    revision=None,
    files=tuple(f"json/{task}.json" for task in CHOICE_TASKS),
    source=_SOURCE,
    prompt=MULTIPLE_CHOICE,
    scorer=CHOICE,
    paper={"base": 58.3, "videozoomer": 68.8},
    loads=partial(_load_dev, "mlvu-dev", CHOICE_TASKS),
    scores=score_choice,
    folders=_DEV_FOLDERS,
    headline="categories",
)
TEST = Benchmark(
    name="mlvu-test",
    title="MLVU test",
    hub_id="MLVU/MLVU_Test",
    revision=None,
    files=(_TEST_FILE,),
    source=_SOURCE,
    prompt=MULTIPLE_CHOICE,
    scorer=CHOICE,
    paper={"base": 45.5, "videozoomer": 55.8},
    loads=_load_test,
    scores=score_choice,
    folders=_TEST_FOLDERS,
    headline="categories",
)
GENERATION = Benchmark(
    name="mlvu-generation",
    title="MLVU dev, open-ended tasks",
    hub_id="MLVU/MVLU",
    revision=None,
    files=tuple(f"json/{task}.json" for task in OPEN_TASKS),
    source=_SOURCE,
    prompt=OPEN_PROMPT,
    scorer=JUDGED,
    paper={},
    loads=partial(_load_dev, "mlvu-generation", OPEN_TASKS),
    scores=score_judged,
    folders=_DEV_FOLDERS,
    headline="categories",
    needs_judge=True,
)
