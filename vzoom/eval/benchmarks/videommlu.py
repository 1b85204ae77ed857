r"""Video-MMLU (arXiv 2504.14693): lectures in mathematics, physics and chemistry; a quiz, and a description ("notes").

Hub Enxin/Video-MMLU: `video_mmlu.jsonl`, one video a line: {"video_id", "caption", "captions_qa": [{"question",
"answer"}], "reasoning_qa": [{"question", "answer"}]}; `video_sources.jsonl` gives the discipline, {"video_id",
"label"}. Quotes are escaped (\'). Videos `youtube_videos/{video_id}.mp4`.

Quiz: one item per reasoning question, judged. Caption: one item per video; the model describes it, and the description
is compared with the video's caption questions. A video without questions of a part (six have no caption questions) is
no item of that part. The authors report the mean over the three disciplines.

Sources: Espere-1119-Song/Video-MMLU, post_eval/{gener_qa,eval_reason_qa,eval_cap_qa}.py @ 1f88dffd,
calculate_scores.py @ 69654d7d, add_source.py @ 1f88dffd; open-compass/VLMEvalKit, vlmeval/dataset/video_mmlu.py @
0315d1a3 (prompt of the quiz, folder of the videos). Public audits count 1 065 videos, 15 853 reasoning and 15 875
caption questions, and one video under two names.

The authors' judge also gives 0 to 5 points, and for captions a second model first answers from the description. The
public code of VideoZoomer takes those points: whether the paper's column is a share of right answers or a mean of
points it does not say. Ours is the share.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..item import Benchmark, Item
from .rows import AnnotationRow, jsonl_rows, locate
from .scorers import JUDGED, PARTS, parts_reference, score_judged, score_parts

FILE, SOURCES_FILE = "video_mmlu.jsonl", "video_sources.jsonl"
QUIZ_PROMPT = "{question}\nAnswer briefly and directly in one sentence."
CAPTION_PROMPT = "Describe this lecture in detail: what is explained, and every formula, number and text that is shown."

_FOLDERS = ("", "youtube_videos")
_OTHER_NAME = {
    "Maclaurin_Series_Visualization": "PE_0n9Ph_PQ",
    "PE_0n9Ph_PQ": "Maclaurin_Series_Visualization",
}


def _load_quiz(root: Path, subtitles: bool) -> Iterator[Item]:
    labels = _disciplines(root)
    for row in jsonl_rows(locate(root, _FOLDERS, FILE)):
        for number, (question, answer) in enumerate(_pairs(row, "reasoning_qa")):
            prompt = QUIZ_PROMPT.format(question=question)
            yield _item(row, "videommlu-quiz", f"{row.text('video_id')}-{number}", prompt, answer, labels)


def _load_caption(root: Path, subtitles: bool) -> Iterator[Item]:
    labels = _disciplines(root)
    for row in jsonl_rows(locate(root, _FOLDERS, FILE)):
        if parts := _pairs(row, "captions_qa"):
            reference = parts_reference(parts)
            yield _item(row, "videommlu-caption", row.text("video_id"), CAPTION_PROMPT, reference, labels)


def _item(row: AnnotationRow, benchmark: str, id: str, question: str, reference: str, labels: dict[str, str]) -> Item:
    video = row.text("video_id")
    label = labels.get(video) or labels.get(_OTHER_NAME.get(video, ""))
    if label is None:
        row.fail(f"video {video} has no discipline in {SOURCES_FILE}")
    return Item(
        id=id,
        benchmark=benchmark,
        video=f"youtube_videos/{video}.mp4",
        question=question,
        options=(),
        reference=reference,
        category=label,
        duration_bucket="",
        subtitles=None,
        source=row.source,
    )


def _disciplines(root: Path) -> dict[str, str]:
    """The discipline of a video; spelled with a capital, as some are not."""
    rows = jsonl_rows(locate(root, _FOLDERS, SOURCES_FILE))
    return {row.text("video_id"): row.text("label").capitalize() for row in rows}


def _pairs(row: AnnotationRow, key: str) -> list[tuple[str, str]]:
    return [(qa.text("question").replace("\\'", "'"), qa.text("answer").replace("\\'", "'")) for qa in row.rows(key)]


_SOURCE = "Espere-1119-Song/Video-MMLU post_eval @ 1f88dffd; VLMEvalKit video_mmlu.py @ 0315d1a3"
_REVISION = "f626a2e2fa6411ecc06be176c31501f1fc700d15"

QUIZ = Benchmark(
    name="videommlu-quiz",
    title="Video-MMLU quiz",
    hub_id="Enxin/Video-MMLU",
    revision=_REVISION,
    files=(FILE, SOURCES_FILE),
    source=_SOURCE,
    prompt=QUIZ_PROMPT,
    scorer=JUDGED,
    paper={"base": 61.0, "videozoomer": 67.9},
    loads=_load_quiz,
    scores=score_judged,
    folders=_FOLDERS,
    headline="categories",
    needs_judge=True,
)
CAPTION = Benchmark(
    name="videommlu-caption",
    title="Video-MMLU caption",
    hub_id="Enxin/Video-MMLU",
    revision=_REVISION,
    files=(FILE, SOURCES_FILE),
    source=_SOURCE,
    prompt=CAPTION_PROMPT,
    scorer=PARTS,
    paper={},
    loads=_load_caption,
    scores=score_parts,
    folders=_FOLDERS,
    headline="categories",
    needs_judge=True,
)
