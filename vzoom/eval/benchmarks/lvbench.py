r"""LVBench (arXiv 2406.08035): 1 549 multiple-choice questions about 103 videos of an hour and more.

Hub zai-org/LVBench (before: THUDM/LVBench): `video_info.meta.jsonl`, one video a line: {"key", "type", "video_info":
{"duration_minutes", …}, "qa": [{"uid", "question", "answer", "question_type", "time_reference"}]}. The options are in
the question, "…?\n(A) 1636\n(B) 1366\n…"; question_type is a list of skills; time_reference is "MM:SS-MM:SS" or
"HH:MM:SS-HH:MM:SS", the moment that the question is about. The videos come from YouTube, `videos/{key}.mp4`.

Sources: THUDM/LVBench, lvbench/metrics/compute_accuracy.py @ dd7d99db (an item counts for each of its skills) and
README.md @ 518df472; the question's form and the time reference: loaders of others that split them the same way.

A time reference that names no interval leaves `Item.evidence` empty. Times are whole seconds, so the last is included.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from ...protocol import LETTERS
from ..item import SEVERAL, Benchmark, Item
from .durations import bucket
from .options import MULTIPLE_CHOICE, listed, split_bracketed
from .rows import AnnotationRow, jsonl_rows, locate
from .scorers import CHOICE, score_choice

FILE = "video_info.meta.jsonl"

_FOLDERS = ("", "data", "videos", "all_videos", "scripts/videos")
_CLOCK = r"(?:(\d+):)?(\d+):(\d{2})"
_INTERVAL = re.compile(rf"\s*{_CLOCK}\s*[-–~]\s*{_CLOCK}\s*")


def _load(root: Path, subtitles: bool) -> Iterator[Item]:
    for video in jsonl_rows(locate(root, _FOLDERS, FILE)):
        key = video.text("key")
        seconds = 60 * _duration_minutes(video)
        for qa in video.rows("qa"):
            stem, options = split_bracketed(qa.text("question"))
            if len(options) < 2:
                qa.fail(f"question {qa.data.get('uid')} must end in lines (A) … (B) …, got {qa.text('question')!r}")
            answer = qa.text("answer").upper()
            if answer not in tuple(LETTERS[:5])[: len(options)]:
                qa.fail(f"answer of question {qa.data.get('uid')} must be the letter of an option, got {answer!r}")
            yield Item(
                id=str(qa.data.get("uid", "")).strip() or qa.text("uid"),
                benchmark="lvbench",
                video=f"videos/{key}.mp4",
                question=MULTIPLE_CHOICE.format(question=stem, options=listed(options)),
                options=options,
                reference=answer,
                category=SEVERAL.join(qa.texts("question_type")),
                duration_bucket=bucket(seconds),
                subtitles=None,
                source=qa.source,
                evidence=_evidence(qa),
            )


def _duration_minutes(video: AnnotationRow) -> float:
    info = video.data.get("video_info")
    if not isinstance(info, dict):
        video.fail(f"video_info must be an object, got {info!r}")
    return AnnotationRow(info, video.source).number("duration_minutes")


def _evidence(qa: AnnotationRow) -> tuple[tuple[float, float], ...]:
    found = _INTERVAL.fullmatch(str(qa.data.get("time_reference", "")))
    if found is None:
        return ()
    start, end = (int(h or 0) * 3600 + int(m) * 60 + int(s) for h, m, s in (found.groups()[:3], found.groups()[3:]))
    return ((float(start), float(end + 1)),) if start <= end else ()


LVBENCH = Benchmark(
    name="lvbench",
    title="LVBench",
    hub_id="zai-org/LVBench",
    revision="0caedb9",
    files=(FILE,),
    source="THUDM/LVBench compute_accuracy.py @ dd7d99db, README.md @ 518df472",
    prompt=MULTIPLE_CHOICE,
    scorer=CHOICE,
    paper={"base": 36.9, "videozoomer": 41.5},
    loads=_load,
    scores=score_choice,
    folders=_FOLDERS,
)
