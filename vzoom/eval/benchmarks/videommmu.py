"""Video-MMMU (arXiv 2501.13826): 300 lectures, each with a question of three tracks.

Hub lmms-lab/VideoMMMU: `{track}/test-00000-of-00001.parquet` for Perception, Comprehension and Adaptation, with the
columns id, question, options, answer, question_type (and link_selected, qa_type, image, which are not read). The ids
are the same in all tracks: `validation_Art_Theory_18`. Multiple choice with up to 14 options and a letter; Adaptation
has 20 open questions. Videos `{domain}/{id}.mp4` from six archives; the last frame shows the quiz question.

Sources: EvolvingLMMs-Lab/lmms-eval, lmms_eval/tasks/videommmu/utils.py @ 2bb5e985 and _default_template_yaml @
394bb49a; open-compass/VLMEvalKit, vlmeval/dataset/videommmu.py @ 8035155d; the data set's card (columns).

What a row offers decides: one with options whose answer is a letter is scored as multiple choice whatever its
question_type says, unless that is "open". (One row of Adaptation is labelled "None"; the public scorer hides its
options.) The question's picture is seen in the video only, in its last frame.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ...protocol import LETTERS, Judge
from ..item import SEVERAL, Benchmark, Item, Verdict
from .open_answers import OPEN, score_open
from .options import listed, unlabelled
from .rows import AnnotationRow, locate, parquet_rows
from .scorers import CHOICE, score_choice

TRACKS = ("Perception", "Comprehension", "Adaptation")
DOMAINS = ("Art", "Business", "Engineering", "Humanities", "Medicine", "Science")
SEEN_PROMPT = (
    "{question}\n{options}\nIgnore the quiz question in the last frame of the video. "
    "Answer with the letter of the right option."
)
ADAPTATION_PROMPT = (
    "Learn from the video, then apply it to this question; its picture is at the end of the video.\n"
    "{question}\n{options}\nAnswer with the letter of the right option."
)
OPEN_PROMPT = (
    "Learn from the video, then apply it to this question; its picture is at the end of the video.\n"
    "{question}\nAnswer with the value or the words alone."
)

_COLUMNS = ("id", "question", "options", "answer", "question_type")
_FOLDERS = ("", *DOMAINS, "videos", *(f"videos/{domain}" for domain in DOMAINS))


def _load(root: Path, subtitles: bool) -> Iterator[Item]:
    for track in TRACKS:
        for row in parquet_rows(locate(root, _FOLDERS, f"{track}/test-00000-of-00001.parquet"), _COLUMNS):
            yield _item(row, track)


def _item(row: AnnotationRow, track: str) -> Item:
    options, answer = unlabelled(row.texts("options")), row.text("answer")
    if row.text("question_type") == "open":
        options = ()
    elif answer not in tuple(LETTERS[: len(options)]):
        row.fail(f"answer must be the letter of one of {len(options)} options, got {answer!r}")
    if not options:
        prompt = OPEN_PROMPT
    else:
        prompt = ADAPTATION_PROMPT if track == "Adaptation" else SEEN_PROMPT
    return Item(
        id=f"{track}-{row.text('id')}",
        benchmark="videommmu",
        video=f"{row.text('id')}.mp4",
        question=prompt.format(question=row.text("question"), options=listed(options)),
        options=options,
        reference=answer,
        category=f"{track}{SEVERAL}{_subject(row)}",
        duration_bucket="",
        subtitles=None,
        source=row.source,
    )


def _subject(row: AnnotationRow) -> str:
    """The words between the first part of the id and its number."""
    parts = row.text("id").split("_")
    if len(parts) < 3 or not parts[-1].isdigit():
        row.fail(f"id must be as validation_Art_Theory_18, got {row.text('id')!r}")
    return " ".join(parts[1:-1])


def _score(item: Item, answer: str, judge: Judge | None = None) -> Verdict:
    return score_choice(item, answer) if item.options else score_open(item, answer)


VIDEOMMMU = Benchmark(
    name="videommmu",
    title="Video-MMMU",
    hub_id="lmms-lab/VideoMMMU",
    revision="d1c35ac933123d79e877b7f1b9506afb0309cf1b",
    files=tuple(f"{track}/test-00000-of-00001.parquet" for track in TRACKS),
    source="lmms-eval videommmu @ 2bb5e985; VLMEvalKit videommmu.py @ 8035155d; card of lmms-lab/VideoMMMU",
    prompt="\n---\n".join((SEEN_PROMPT, ADAPTATION_PROMPT, OPEN_PROMPT)),
    scorer=f"{CHOICE} {OPEN}",
    paper={"base": 48.1, "videozoomer": 52.2},
    loads=_load,
    scores=_score,
    folders=_FOLDERS,
)
