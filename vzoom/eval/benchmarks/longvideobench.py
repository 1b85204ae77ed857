"""LongVideoBench, validation (arXiv 2407.15754): 1 337 multiple-choice questions that refer to a moment of the video.

Hub longvideobench/LongVideoBench: `lvb_val.json`, a JSON list of {"id", "video_path", "subtitle_path", "question",
"candidates", "correct_choice", "duration", "duration_group", "question_category",
"starting_timestamp_for_subtitles", …}; correct_choice counts from 0, candidates are two to five. Videos in `videos/`,
subtitles in `subtitles/`: JSON lists of {"timestamp", "text"} or {"start", "end", "line"}, of the whole video that a
clip was cut from. The test split has no correct_choice; its items are unjudged.

Sources: longvideobench/LongVideoBench, longvideobench/longvideobench_dataset.py @ 2aa4f91a and README.md @ 321e1ad1;
EvolvingLMMs-Lab/lmms-eval, lmms_eval/tasks/longvideobench/utils.py @ 03a5823f.

There, subtitles are between the frames. Ours are before the question, each span with its time, as every frame has. If
no letter can be read, the public scorer draws one by chance; here the answer is unparsable.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ...protocol import LETTERS
from ..item import Benchmark, Item
from .options import MULTIPLE_CHOICE, listed
from .rows import AnnotationRow, json_rows, locate
from .scorers import CHOICE, score_choice
from .subtitles import SETTINGS, put_before, read_longvideobench

FILE = "lvb_val.json"
GROUPS = {15: "8 to 15 s", 60: "15 to 60 s", 600: "3 to 10 min", 3600: "15 to 60 min"}

_FOLDERS = ("", "videos")


def _load(root: Path, subtitles: bool) -> Iterator[Item]:
    for row in json_rows(locate(root, _FOLDERS, FILE)):
        options = row.texts("candidates")
        question = MULTIPLE_CHOICE.format(question=row.text("question"), options=listed(options))
        name = f"subtitles/{row.text('subtitle_path')}" if subtitles else None
        if name is not None:
            lines = read_longvideobench(
                locate(root, _FOLDERS, name),
                offset_seconds=row.number("starting_timestamp_for_subtitles"),
                duration_seconds=row.number("duration"),
            )
            question = put_before(question, lines)
        yield Item(
            id=row.text("id"),
            benchmark="longvideobench",
            video=f"videos/{row.text('video_path')}",
            question=question,
            options=options,
            reference=_reference(row, len(options)),
            category=row.text("question_category"),
            duration_bucket=_group(row),
            subtitles=name,
            source=row.source,
        )


def _reference(row: AnnotationRow, num_options: int) -> str | None:
    """None for the test split, which leaves the field out or says -1."""
    if "correct_choice" not in row.data or row.integer("correct_choice") == -1:
        return None
    choice = row.integer("correct_choice")
    if not 0 <= choice < num_options:
        row.fail(f"correct_choice {choice} is none of {num_options} candidates")
    return LETTERS[choice]


def _group(row: AnnotationRow) -> str:
    group = row.integer("duration_group")
    if group not in GROUPS:
        row.fail(f"duration_group must be one of {', '.join(map(str, GROUPS))}, got {group}")
    return GROUPS[group]


VALIDATION = Benchmark(
    name="longvideobench",
    title="LongVideoBench val",
    hub_id="longvideobench/LongVideoBench",
    revision=None,
    files=(FILE, "subtitles/*.json"),
    source="longvideobench/LongVideoBench longvideobench_dataset.py @ 2aa4f91a; lmms-eval longvideobench @ 03a5823f",
    prompt=MULTIPLE_CHOICE,
    scorer=CHOICE,
    paper={"base": 51.0, "videozoomer": 57.7},
    loads=_load,
    scores=score_choice,
    folders=_FOLDERS,
    has_subtitles=True,
    settings=SETTINGS,
)
