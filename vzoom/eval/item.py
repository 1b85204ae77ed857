"""What every benchmark is made of: questions about videos, and what an answer to one of them is worth."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, Literal, get_args

from ..protocol import LETTERS, Judge

VerdictKind = Literal["right", "wrong", "unanswered", "unparsable", "unjudged", "missing_video"]
KINDS: tuple[VerdictKind, ...] = get_args(VerdictKind)

SEVERAL = " + "  # between the categories of an item that has more than one

Headline = Literal["items", "categories"]  # the mean over items, or over the means of categories

_PARTS = re.compile(r"(\d+) of (\d+) parts right")
_SUFFIXES = (".mp4", ".mkv", ".webm", ".MP4")


@dataclass(frozen=True)
class Item:
    """One question.

    video: the file as the benchmark names it; `Benchmark.video_path` finds it. question: the whole text that the model
    is given, options and subtitles included. options: texts without labels, () for an open question. reference: a
    letter of `options`, or a text; None where the benchmark keeps it to itself. category: of the benchmark's own,
    several joined by SEVERAL. duration_bucket: "" where nobody says how long the video is. subtitles: the file whose
    text is in the question; None without. source: "file:line" (or row) of the annotation. evidence: intervals
    [start, end) in seconds that hold what the answer needs, () where nobody says.
    """

    id: str
    benchmark: str
    video: str
    question: str
    options: tuple[str, ...]
    reference: str | None
    category: str
    duration_bucket: str
    subtitles: str | None
    source: str
    evidence: tuple[tuple[float, float], ...] = ()

    def __post_init__(self) -> None:
        for name in ("id", "benchmark", "video", "question", "category", "source"):
            if not getattr(self, name).strip():
                raise ValueError(f"{self.source}: {name} of item {self.id!r} is empty")
        if self.options and not 2 <= len(self.options) <= len(LETTERS):
            raise ValueError(f"{self.source}: 2 to {len(LETTERS)} options are needed, got {len(self.options)}")
        if self.options and self.reference is not None and self.reference not in tuple(LETTERS[: len(self.options)]):
            raise ValueError(
                f"{self.source}: the reference must be one of {LETTERS[: len(self.options)]}, got {self.reference!r}"
            )
        if any(not 0 <= start < end for start, end in self.evidence):
            raise ValueError(f"{self.source}: evidence must be intervals 0 ≤ start < end, got {self.evidence}")

    @property
    def categories(self) -> tuple[str, ...]:
        return tuple(self.category.split(SEVERAL))


@dataclass(frozen=True)
class Verdict:
    """What became of an answer.

    right, wrong: an answer was read, and compared with the reference. unanswered: the model gave none. unparsable: it
    said something, but no option, or more than one. unjudged: no verdict could be had (no judge, a judge that failed,
    a reference that is not public). missing_video: nothing was asked. said: what was read out of the answer, a letter
    where there are options. detail: why, in our words and never in the model's. An answer that is judged in parts has
    its count there, and is right where at least half of them are.
    """

    kind: VerdictKind
    said: str | None = None
    detail: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"a verdict is one of {', '.join(KINDS)}, got {self.kind!r}")

    @property
    def points(self) -> float:
        """From 0 to 1: the share of right parts where the answer was judged in parts, else 1 for a right answer."""
        parts = _PARTS.fullmatch(self.detail) if self.kind in ("right", "wrong") else None
        return int(parts[1]) / int(parts[2]) if parts else float(self.kind == "right")


def judged_in_parts(num_right: int, num_parts: int, *, said: str) -> Verdict:
    """The verdict on an answer of which num_right of num_parts facts are right."""
    if not 0 <= num_right <= num_parts or num_parts < 1:
        raise ValueError(f"{num_right} of {num_parts} parts cannot be right")
    detail = f"{num_right} of {num_parts} parts right"
    return Verdict("right" if 2 * num_right >= num_parts else "wrong", said, detail)


def missing_video(path: str | PathLike[str]) -> Verdict:
    """The verdict on an item whose video is not there."""
    return Verdict("missing_video", detail=f"no file {path}")


Load = Callable[[Path, bool], Iterator[Item]]  # (root, subtitles) -> items
Score = Callable[[Item, str, Judge | None], Verdict]  # an answer that is not empty -> its verdict


@dataclass(frozen=True)
class Benchmark:
    """A benchmark as it is published. `paper`: accuracy in percent by row (base, videozoomer), from arXiv 2512.22315.

    revision: of the hub's data set, as its format was looked up; None where none is known to us. files: what `load`
    reads, below one of `folders` of its root. prompt: the template of `Item.question`. scorer: name and version of the
    rule; a change of the rule changes the version. settings: whatever else the files alone do not decide.
    headline: how the figure that the benchmark's authors report is averaged.
    render: makes the video of an item that is not there, for a benchmark that is drawn and not filmed.
    """

    name: str
    title: str
    hub_id: str
    revision: str | None
    files: tuple[str, ...]
    source: str
    prompt: str
    scorer: str
    paper: Mapping[str, float]
    loads: Load
    scores: Score
    folders: tuple[str, ...] = ("",)
    headline: Headline = "items"
    has_subtitles: bool = False
    needs_judge: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    render: Callable[[Path, Item], None] | None = None

    def load(self, root: str | PathLike[str], *, subtitles: bool = False) -> Iterator[Item]:
        """Items in the order of the files. subtitles: put into the questions.

        ValueError with file and line for what does not fit the published schema, an id that appears twice, and
        subtitles where the benchmark has none; FileNotFoundError where the annotation is not below `root`.
        """
        if subtitles and not self.has_subtitles:
            raise ValueError(f"{self.name} has no subtitles: leave subtitles out")
        seen: dict[str, str] = {}
        for item in self.loads(Path(root), subtitles):
            if item.id in seen:
                raise ValueError(f"{item.source}: the id {item.id!r} is that of {seen[item.id]}, too")
            seen[item.id] = item.source
            yield item

    def score(self, item: Item, answer: str | None, judge: Judge | None = None) -> Verdict:
        """The verdict on an answer: the text between the answer tags, or None where there was none."""
        if item.benchmark != self.name:
            raise ValueError(f"item {item.id!r} is of {item.benchmark}, not of {self.name}")
        if answer is None or not answer.strip():
            return Verdict("unanswered")
        if item.reference is None:
            return Verdict("unjudged", said=answer.strip(), detail="the reference is not public")
        return self.scores(item, answer, judge)

    def video_path(self, root: str | PathLike[str], item: Item) -> Path | None:
        """The file of an item's video, rendered if the benchmark is one that can be; None where it is missing.

        Looked for in each of `folders`, with and without the folder that the annotation names, and with the suffixes
        of other containers: what people unpack is not always laid out as it was described.
        """
        named = Path(item.video)
        for folder in self.folders:
            for name in dict.fromkeys((named, Path(named.name))):
                for suffix in dict.fromkeys((named.suffix, *_SUFFIXES)):
                    path = Path(root) / folder / name.with_suffix(suffix)
                    if path.is_file():
                        return path
        if self.render is None:
            return None
        path = Path(root) / item.video
        self.render(path, item)
        return path

    def protocol_hash(self, limits: Mapping[str, Any], *, revision: str | None = None) -> str:
        """16 hex digits over all that makes two runs comparable: data, prompt, scorer, and `limits`.

        limits: whatever else of the run decides the answers or the verdicts, in JSON's types: the conversation's
        limits, sampling, subtitles, the judge's model.
        """
        fixed = {
            "benchmark": self.name,
            "hub_id": self.hub_id,
            "revision": revision or self.revision,
            "prompt": self.prompt,
            "scorer": self.scorer,
            "settings": dict(self.settings),
            "limits": dict(limits),
        }
        text = json.dumps(fixed, sort_keys=True, ensure_ascii=True, allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]
