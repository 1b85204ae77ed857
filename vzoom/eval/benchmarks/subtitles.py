"""Subtitles as text before a question, with the times that frames are labelled with.

SubRip files (Video-MME) and LongVideoBench's JSON are read. Lines are gathered into spans of ten seconds. If that is
still longer than a question may be, only every second, third, … span is kept.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .rows import AnnotationRow, json_rows

SPAN_SECONDS = 10
MOST_CHARACTERS = 40_000
HEADER = "Subtitles of the video, each behind the second at which it begins:"
SETTINGS = {"subtitle_span_seconds": SPAN_SECONDS, "subtitle_most_characters": MOST_CHARACTERS}

_TIMES = re.compile(r"\s*(\d+):(\d{2}):(\d{2})[,.](\d{1,3})\s*-->\s*(\d+):(\d{2}):(\d{2})[,.](\d{1,3})\b.*")
_CLOCK = re.compile(r"(\d+):(\d{2}):(\d{2}(?:\.\d+)?)")
_MARKUP = re.compile(r"<[^>]+>|\{\\[^}]*\}")


@dataclass(frozen=True)
class Line:
    """What is said from start_seconds to end_seconds."""

    start_seconds: float
    end_seconds: float
    text: str


def put_before(question: str, lines: Sequence[Line]) -> str:
    """The subtitles and then the question; the question alone if there are none."""
    spoken = as_text(lines)
    return f"{HEADER}\n{spoken}\n\n{question}" if spoken else question


def as_text(lines: Sequence[Line], *, most_characters: int = MOST_CHARACTERS) -> str:
    """ "[0s] …", "[10s] …": one line per span, in order of time, at most `most_characters` of them together."""
    spans: dict[int, list[str]] = {}
    for line in sorted(lines, key=lambda line: line.start_seconds):
        spoken = spans.setdefault(int(line.start_seconds // SPAN_SECONDS), [])
        if not spoken or spoken[-1] != line.text:  # rolling captions say every line twice
            spoken.append(line.text)
    written = [f"[{span * SPAN_SECONDS}s] {' '.join(spoken)}" for span, spoken in spans.items()]
    step = 1
    while sum(len(one) + 1 for one in written[::step]) > most_characters:
        step += 1
        if step > len(written):
            return ""
    return "\n".join(written[::step])


def read_srt(path: Path) -> list[Line]:
    """The lines of a SubRip file. ValueError with file and line for a block that does not begin with its times."""
    lines: list[Line] = []
    numbered = list(enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1))
    at = 0
    while at < len(numbered):
        number, text = numbered[at]
        at += 1
        if not text.strip() or text.strip().isdigit():
            continue
        times = _TIMES.fullmatch(text)
        if times is None:
            raise ValueError(f"{path}:{number}: expected times as 00:00:01,000 --> 00:00:02,500, got {text!r}")
        said: list[str] = []
        while at < len(numbered) and numbered[at][1].strip():
            said.append(_MARKUP.sub("", numbered[at][1]).strip())
            at += 1
        if spoken := " ".join(filter(None, said)):
            lines.append(Line(_srt_seconds(times.groups()[:4]), _srt_seconds(times.groups()[4:]), spoken))
    return lines


def read_longvideobench(path: Path, *, offset_seconds: float, duration_seconds: float) -> list[Line]:
    """The lines inside a clip. offset_seconds: when the clip begins in the video that the subtitles are of.

    A row is {"timestamp": [start, end], "text"} or {"start": "00:00:01.5", "end": …, "line"}; an end that is null
    is the end of the clip.
    """
    lines: list[Line] = []
    for row in json_rows(path):
        start, end, text = _spoken(row, offset_seconds + duration_seconds)
        line = Line(start - offset_seconds, end - offset_seconds, _MARKUP.sub("", text).strip())
        if line.text and line.end_seconds > 0 and line.start_seconds < duration_seconds:
            lines.append(Line(max(line.start_seconds, 0.0), line.end_seconds, line.text))
    return lines


def _spoken(row: AnnotationRow, last_seconds: float) -> tuple[float, float, str]:
    if "timestamp" not in row.data:
        return _clock(row, "start"), _clock(row, "end"), str(row.data.get("line", ""))
    times = row.data["timestamp"]
    if not isinstance(times, list) or len(times) != 2 or not isinstance(times[0], int | float):
        row.fail(f"timestamp must be [start, end], got {times!r}")
    end = times[1] if isinstance(times[1], int | float) else last_seconds
    return float(times[0]), float(end), str(row.data.get("text", ""))


def _clock(row: AnnotationRow, key: str) -> float:
    found = _CLOCK.fullmatch(row.text(key))
    if found is None:
        row.fail(f"{key} must be a time as 00:00:01.5, got {row.data[key]!r}")
    return int(found[1]) * 3600 + int(found[2]) * 60 + float(found[3])


def _srt_seconds(parts: Sequence[str]) -> float:
    hours, minutes, seconds, fraction = parts
    return int(hours) * 3600 + int(minutes) * 60 + int(seconds) + int(fraction.ljust(3, "0")) / 1000
