"""One record of each kind, small enough to write down what every token of it is."""

from __future__ import annotations

from dataclasses import replace

from protocols import BRIEF

from vzoom.config import ZoomConfig
from vzoom.data.record import Record, RecordedTurn, Source, TurnOutcome, VideoRef
from vzoom.types import Answer, CallError, Malformed, StopReason, ZoomCall

VIDEO = VideoRef("video.mp4", "0" * 64, duration_seconds=4.0, fps=8.0, width=56, height=56)
CONFIG = ZoomConfig(protocol=BRIEF, min_pixels=3136, max_pixels=3136, max_zooms=2, max_frames=6, answer_reserve=64)
QUESTION = "Which shape is red?"

LOOK = '<think>See.</think><video_zoom>{"segment": [1, 2], "fps": 2}</video_zoom>'
WRONG = '<think>There.</think><video_zoom>{"segment": [3, 4], "fps": 2}</video_zoom>'
BROKEN = '<think>Look.</think><video_zoom>{"segment": [1, 2]}</video_zoom>'
HUNGRY = '<think>All.</think><video_zoom>{"segment": [0, 4], "fps": 2}</video_zoom>'
DONE = "<think>A star.</think><answer>B</answer>"

Said = tuple[str, Source, TurnOutcome, bool, tuple[float, ...]]


def conversation(id: str, *turns: Said, stop: StopReason = StopReason.ANSWERED) -> Record:
    said = tuple(RecordedTurn(*turn) for turn in turns)
    return Record(id, QUESTION, ("ring", "star"), "B", VIDEO, CONFIG, (0.0, 2.0), said, stop)


ANSWERED: Said = (DONE, "expert", Answer("B"), False, ())
ZOOMED: Said = (LOOK, "expert", ZoomCall(1, 2, 2), False, (1.0, 1.5))

PLAIN = conversation("plain", ANSWERED)
ZOOM = conversation("zoom", ZOOMED, ANSWERED)
REFLECTION = conversation(
    "reflection",
    (WRONG, "student", ZoomCall(3, 4, 2), True, (3.0, 3.5)),
    (LOOK, "reflection", ZoomCall(1, 2, 2), False, (1.0, 1.5)),
    (DONE, "reflection", Answer("B"), False, ()),
)
MALFORMED = conversation(
    "malformed",
    (BROKEN, "expert", Malformed(CallError.MISSING_KEY, '{"segment": [1, 2]}'), True, ()),
    ZOOMED,
    ANSWERED,
)
OVER_BUDGET = conversation(
    "over-budget",
    (HUNGRY, "student", Malformed(CallError.OVER_BUDGET, "8 frames, 4 are left"), True, ()),
    ("I give up.", "student", Malformed(CallError.EMPTY, "I give up."), True, ()),
    (LOOK, "student", ZoomCall(1, 2, 2), True, ()),
    stop=StopReason.ROUNDS,
)
PROMPT = Record("prompt", QUESTION, ("ring", "star"), "B", VIDEO, CONFIG)
RECORDS = (PLAIN, ZOOM, REFLECTION, MALFORMED, OVER_BUDGET, PROMPT)


def with_turn(record: Record, number: int, **changes: object) -> Record:
    turns = list(record.turns)
    turns[number] = replace(turns[number], **changes)  # type: ignore[arg-type]
    return replace(record, turns=tuple(turns))
