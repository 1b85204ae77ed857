"""Published conversations of checkpoints that do not exist: known facts, and texts that are drawn at random."""

from __future__ import annotations

import random
import string
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


def clock(seconds: float) -> str:
    return f"{int(seconds) // 3600:02}:{int(seconds) // 60 % 60:02}:{int(seconds) % 60:02}"


def short_clock(seconds: float) -> str:
    return f"{int(seconds) // 60:02}:{int(seconds) % 60:02}"


Label = Callable[[int, float], str]  # index in the message, time -> text before the frame


@dataclass(frozen=True)
class Facts:
    """What another checkpoint's protocol is like; its texts are drawn at random."""

    label: Label
    call: Callable[[float, float, random.Random], str]
    head: Callable[[int, float, float], str] = lambda n, start, end: ""  # what a clip's words tell of it
    separator: str = ""
    question_first: bool = False
    shows_duration: bool = False
    question_again: bool = False
    tool_role: str = "user"
    most_calls: int = 1  # of one turn; if there may be more than one, each clip is a message of its own


def segment_call(start: float, end: float, rng: random.Random) -> str:
    return f'<video_zoom> {{"segment": [{start}, {end}], "fps": {rng.choice((1, 2, 0.5))}}} </video_zoom>'


def crop_call(start: float, end: float, rng: random.Random) -> str:
    arguments = f'{{"video_path": "a.mp4", "start_time": {start}, "end_time": {end}}}'
    return f'<tool_call>{{"name": "crop_video", "arguments": {arguments}}}</tool_call>'


def seek_call(start: float, end: float, rng: random.Random) -> str:
    arguments = f'{{"query": "x", "start_time": {start}, "end_time": {end}, "num_frames": {rng.randrange(1, 9)}}}'
    return f'<tool_call>\n{{"name": "seek_video_frames", "arguments": {arguments}}}\n</tool_call>'


def clip_call(start: float, end: float, rng: random.Random) -> str:
    return f"<score>7</score><clip>{clock(start)}-{clock(end)}</clip>"


KINDS: dict[str, Facts] = {
    "videozoomer": Facts(lambda i, t: f"<frame{i}_time{t:.2f}s>", segment_call),
    "numbered": Facts(
        lambda i, t: f"Frame {i + 1} at {t:.1f}s: ",
        segment_call,
        head=lambda n, start, end: f"{n} frames, {start:.1f} to {end:.1f}. ",
        separator="\n",
        shows_duration=True,
    ),
    "longvt": Facts(
        lambda i, t: "", crop_call, head=lambda n, start, end: f"{start}s-{end}s, {n} frames", tool_role="tool"
    ),
    "paravt": Facts(lambda i, t: "", crop_call, head=lambda n, start, end: f"{start}-{end}: {n}", most_calls=3),
    "timesearch-r": Facts(lambda i, t: f"{t:.1f}s", seek_call, tool_role="tool", question_again=True),
    "conan": Facts(lambda i, t: clock(t), clip_call, question_again=True),
    "minutes": Facts(lambda i, t: f"[{short_clock(t)}] #{i:02d} ", segment_call, separator=" | ", question_first=True),
}


def words(rng: random.Random, count: int) -> str:
    """Text of unknown words, marks and braces; never one that looks like a number."""
    marks = ["{", "}", "{name}", "{time:.2f}", "<tag>", "…", "ü", "\n", ":", "(", "[x]", "\\n", '"', "'", "%s", "{{x}}"]
    found = []
    for _ in range(count):
        found.append("".join(rng.choices(string.ascii_letters, k=rng.randrange(2, 9))))
        if rng.random() < 0.3:
            found.append(rng.choice(marks))
    return " ".join(found)


@dataclass
class Texts:
    """The fixed texts of one protocol."""

    system: str
    before: str
    after: str
    clip: str
    more: str
    last: str
    error: str
    retry: str

    @classmethod
    def drawn(cls, rng: random.Random) -> Texts:
        return cls(*(words(rng, rng.randrange(3, 30)) for _ in range(8)))


def rows_of(facts: Facts, rng: random.Random, count: int, *, rounds: int = 5) -> tuple[list[dict[str, Any]], Texts]:
    """Conversations as they are published: {"messages", "images"}."""
    texts = Texts.drawn(rng)
    made = []
    for number in range(count):
        glance = [i * 2.0 for i in range(rng.randrange(3, 9))]
        duration = round(glance[-1] + rng.uniform(1, 50), 2)
        question = f"{rng.choice(('What', 'Who', 'When', 'Why'))} {words(rng, rng.randrange(4, 12))}{rng.choice('?.!')}"
        length = f"({duration:.2f} s) " if facts.shows_duration else ""
        shown = block(facts, glance)
        asked = f"{texts.before} {question} {texts.after}"
        opening = f"{length}{asked}\n{shown}" if facts.question_first else f"{length}{shown}{asked}"
        messages = [{"role": "system", "content": texts.system}, {"role": "user", "content": opening}]
        num_frames = len(glance)
        # Every fifth conversation takes all the rounds there are, so that the last round is seen.
        for turn in range(1, rounds if number % 5 == 0 else rng.randrange(1, rounds)):
            last = texts.last if turn == rounds - 1 else ""
            again = f"\nQ: {question}" if facts.question_again else ""
            spans = [drawn_span(rng, duration) for _ in range(min(facts.most_calls, rng.choice((1, 1, 1, 2, 3))))]
            calls = "\n".join(facts.call(start, end, rng) for start, end in spans)
            messages.append({"role": "assistant", "content": f"<think>{words(rng, 5)}</think>{calls}"})
            told = []
            if rng.random() < 0.25:
                told.append(f"<tool_response>\n{texts.error} {words(rng, 4)}.\n</tool_response>{texts.retry}")
            else:
                for start, end in spans:
                    times = [start + i * 0.5 for i in range(rng.randrange(2, 9))]
                    num_frames += len(times)
                    said = texts.clip + facts.head(len(times), start, min(end, duration))
                    shown = block(facts, times)
                    if facts.most_calls > 1:
                        told.append(f"{shown}<tool_response>\n{said}\n</tool_response>{texts.more}")
                    else:
                        told.append(f"<tool_response>\n{said}\n{shown}\n</tool_response>{texts.more}{again}")
            if facts.most_calls > 1 and last:
                told.append(last)
            else:
                told[-1] += last
            messages += ({"role": facts.tool_role, "content": text} for text in told)
        messages.append({"role": "assistant", "content": f"<think>{words(rng, 5)}</think><answer>A</answer>"})
        made.append({"messages": messages, "images": [f"{i}.jpg" for i in range(num_frames)]})
    return made, texts


def drawn_span(rng: random.Random, duration: float) -> tuple[float, float]:
    start = round(rng.uniform(0, duration - 1), 1)
    return start, round(start + rng.uniform(2, 20), 1)


def block(facts: Facts, times: list[float]) -> str:
    return facts.separator.join(f"{facts.label(i, t)}<image>" for i, t in enumerate(times))
