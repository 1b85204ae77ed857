"""Video-MME (arXiv 2405.21075): 2 700 multiple-choice questions about 900 videos, short, medium and long.

Hub lmms-lab/Video-MME: `videomme/test-00000-of-00001.parquet` with the columns video_id, duration, domain,
sub_category, url, videoID, question_id, task_type, question, options, answer; options are texts "A. red", the answer
is a letter. Videos `data/{videoID}.mp4`, subtitles `subtitle/{videoID}.srt` for those that have any.

Sources: the data set's card (columns, files); open-compass/VLMEvalKit, vlmeval/dataset/videomme.py @ 00fff545;
EvolvingLMMs-Lab/lmms-eval, lmms_eval/tasks/videomme/utils.py @ 06965734.

There, a model with subtitles is given the lines at its sampled frames. A model that zooms has no fixed frames: ours is
given all lines, by spans of time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from ...protocol import LETTERS
from ..item import SEVERAL, Benchmark, Item
from .options import MULTIPLE_CHOICE, listed, unlabelled
from .rows import AnnotationRow, locate, parquet_rows
from .scorers import CHOICE, score_choice
from .subtitles import SETTINGS, put_before, read_srt

FILE = "videomme/test-00000-of-00001.parquet"
DURATIONS = ("short", "medium", "long")

_COLUMNS = ("duration", "domain", "videoID", "question_id", "task_type", "question", "options", "answer")
_FOLDERS = ("", "data", "video", "videos")


def _load(benchmark: str, durations: tuple[str, ...], root: Path, subtitles: bool) -> Iterator[Item]:
    for row in parquet_rows(locate(root, _FOLDERS, FILE), _COLUMNS):
        if row.text("duration") not in DURATIONS:
            row.fail(f"duration must be one of {', '.join(DURATIONS)}, got {row.text('duration')!r}")
        if row.text("duration") in durations:
            yield _item(row, benchmark, root if subtitles else None)


def _item(row: AnnotationRow, benchmark: str, subtitle_root: Path | None) -> Item:
    options = unlabelled(row.texts("options"))
    if row.text("answer") not in tuple(LETTERS[: len(options)]):
        row.fail(f"answer must be one of {LETTERS[: len(options)]}, got {row.text('answer')!r}")
    question = MULTIPLE_CHOICE.format(question=row.text("question"), options=listed(options))
    spoken = f"subtitle/{row.text('videoID')}.srt"
    has_spoken = subtitle_root is not None and (subtitle_root / spoken).is_file()
    if subtitle_root is not None and has_spoken:
        question = put_before(question, read_srt(subtitle_root / spoken))
    return Item(
        id=row.text("question_id"),
        benchmark=benchmark,
        video=f"data/{row.text('videoID')}.mp4",
        question=question,
        options=options,
        reference=row.text("answer"),
        category=f"{row.text('domain')}{SEVERAL}{row.text('task_type')}",
        duration_bucket=row.text("duration"),
        subtitles=spoken if has_spoken else None,
        source=row.source,
    )


def _benchmark(name: str, title: str, durations: tuple[str, ...], paper: Mapping[str, float]) -> Benchmark:
    return Benchmark(
        name=name,
        title=title,
        hub_id="lmms-lab/Video-MME",
        revision="ead1408",
        files=(FILE, "subtitle/*.srt"),
        source="card of lmms-lab/Video-MME; VLMEvalKit videomme.py @ 00fff545; lmms-eval videomme @ 06965734",
        prompt=MULTIPLE_CHOICE,
        scorer=CHOICE,
        paper=paper,
        loads=partial(_load, name, durations),
        scores=score_choice,
        folders=_FOLDERS,
        has_subtitles=True,
        settings={**SETTINGS, "durations": list(durations)},
    )


ALL = _benchmark("videomme", "Video-MME", DURATIONS, {"base": 63.5, "videozoomer": 65.2})
LONG = _benchmark("videomme-long", "Video-MME long", ("long",), {"base": 53.9, "videozoomer": 55.8})
