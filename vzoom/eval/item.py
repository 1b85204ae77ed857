"""What every benchmark is made of: questions about videos, and what an answer to one of them is worth."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from ..protocol import LETTERS, Judge

VerdictKind = Literal["right", "wrong", "unanswered", "unparsable", "unjudged", "missing_video", "failed"]
KINDS: tuple[VerdictKind, ...] = get_args(VerdictKind)

SEVERAL = " + "  # between the categories of an item that has several

Headline = Literal["items", "categories"]  # the mean over items, or over the means of categories

_SUFFIXES = (".mp4", ".mkv", ".webm", ".MP4")


@dataclass(frozen=True)
class Item:
    """One question of a benchmark.

    Args:
        id: unlike that of any other item of the benchmark.
        benchmark: its name.
        video: the file as the benchmark names it; `Benchmark.video_path` finds it.
        question: the whole text that the model is given, options and subtitles included.
        options: texts without labels; () for an open question.
        reference: a letter of `options`, or a text; None if the benchmark keeps it secret.
        category: the benchmark's own; several are joined by SEVERAL.
        duration_bucket: "" if nobody says how long the video is.
        subtitles: the file whose text is in the question; None without subtitles.
        source: "file:line" (or row) of the annotation.
        evidence: intervals [start, end), in seconds, that hold what the answer needs; () if nobody says.

    Raises:
        ValueError: a field is empty, or two do not agree. The message names `source`.
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
        """One by one."""
        return tuple(self.category.split(SEVERAL))


class Parts(NamedTuple):
    """Of an answer that is judged in parts: how many parts are right, and how many there are."""

    num_right: int
    num_parts: int


@dataclass(frozen=True)
class Verdict:
    """What became of an answer.

    Args:
        kind: right, wrong: an answer was read, and compared with the reference. unanswered: the model gave none.
            unparsable: it said something, but no option, or more than one. unjudged: there is no verdict (no judge, a
            judge that failed, a reference that is not public). missing_video: nothing was asked. failed: the
            conversation ended in an error.
        said: what was read out of the answer, a letter if there are options.
        detail: why, in our words and never in the model's.
        parts: of an answer that was judged in parts, which is right if at least half of them are; None for others.

    Raises:
        ValueError: there is no such kind, or parts that do not agree with it.
    """

    kind: VerdictKind
    said: str | None = None
    detail: str = ""
    parts: Parts | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"a verdict is one of {', '.join(KINDS)}, got {self.kind!r}")
        if self.parts is not None:
            num_right, num_parts = self.parts
            if not 0 <= num_right <= num_parts or num_parts < 1:
                raise ValueError(f"{num_right} of {num_parts} parts cannot be right")
            if self.kind != ("right" if 2 * num_right >= num_parts else "wrong"):
                raise ValueError(f"with {num_right} of {num_parts} parts right, an answer is not {self.kind}")

    @property
    def points(self) -> float:
        """From 0 to 1: the share of right parts if the answer was judged in parts, else 1 for a right answer."""
        return self.parts.num_right / self.parts.num_parts if self.parts else float(self.kind == "right")


def judged_in_parts(num_right: int, num_parts: int, *, said: str) -> Verdict:
    """The verdict on an answer of which `num_right` of `num_parts` facts are right."""
    kind: VerdictKind = "right" if 2 * num_right >= num_parts else "wrong"
    return Verdict(kind, said, f"{num_right} of {num_parts} parts right", Parts(num_right, num_parts))


LoadItems = Callable[[Path, bool], Iterator[Item]]  # (root, subtitles) -> items
ScoreAnswer = Callable[[Item, str, Judge | None], Verdict]  # an answer that is not empty -> its verdict


@dataclass(frozen=True)
class Benchmark:
    """A benchmark as it is published.

    Args:
        name: as the command line takes it.
        title: as people know it.
        hub_id: of its data set on the hub; "" for a benchmark that is rendered.
        revision: of the hub's data set whose format was looked up; None if we know of none.
        files: what `load` reads, below one of `folders` of its root.
        source: where the format and the rule were looked up.
        prompt: the template of `Item.question`.
        scorer: name and version of the rule. A change of the rule changes the version.
        paper: accuracy in percent by row (base, videozoomer), from arXiv 2512.22315.
        loads: reads the items below a root.
        scores: gives the verdict on an answer.
        folders: where files and videos may be, below the root.
        headline: how the benchmark's authors average the figure that they report.
        has_subtitles: whether `load` can put subtitles into the questions.
        needs_judge: whether answers are judged by a language model.
        settings: whatever else decides the questions beside the files.
        render: makes the video of an item that is missing, for a benchmark that is drawn and not filmed.
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
    loads: LoadItems
    scores: ScoreAnswer
    folders: tuple[str, ...] = ("",)
    headline: Headline = "items"
    has_subtitles: bool = False
    needs_judge: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    render: Callable[[Path, Item], None] | None = None

    def load(self, root: str | PathLike[str], *, subtitles: bool = False) -> Iterator[Item]:
        """The items, in the order of the files.

        Args:
            root: the folder of the data set.
            subtitles: whether to put them into the questions.

        Raises:
            ValueError: a row does not fit the published schema, or an id appears twice (with file and line); or
                subtitles are asked of a benchmark that has none.
            FileNotFoundError: the annotation is not below `root`.
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
        """The verdict on an answer.

        Args:
            item: of this benchmark.
            answer: the text between the answer tags; None if there was none.
            judge: for open answers; without one they are unjudged.

        Raises:
            ValueError: the item is of another benchmark.
        """
        if item.benchmark != self.name:
            raise ValueError(f"item {item.id!r} is of {item.benchmark}, not of {self.name}")
        if answer is None or not answer.strip():
            return Verdict("unanswered")
        if item.reference is None:
            return Verdict("unjudged", said=answer.strip(), detail="the reference is not public")
        return self.scores(item, answer, judge)

    def video_path(self, root: str | PathLike[str], item: Item) -> Path | None:
        """The file of an item's video; None if it is missing. A benchmark that is drawn renders it.

        It is looked for in each of `folders`, with and without the folder that the annotation names, and with the
        suffixes of other containers: what people unpack is not always laid out as described.
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
        """A hash of all that makes two runs comparable: data, prompt, scorer, and `limits`.

        Args:
            limits: whatever else of the run decides the answers or the verdicts, in JSON's types: the conversation's
                limits, sampling, subtitles, the judge's model.
            revision: of the data; None is the benchmark's own.

        Returns:
            16 hex digits.
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
