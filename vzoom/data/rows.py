"""A record <-> one row of a Parquet file. FORMAT grows when the meaning of a column changes."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from ..config import ZoomConfig, missing_extra
from ..types import Answer, CallError, Malformed, StopReason, TurnOutcome, ZoomCall, ZoomCalls
from .record import Record, RecordedTurn, VideoRef
from .validate import InvalidRecord, check

FORMAT = 1
FORMAT_KEY = b"vzoom.format"  # in the metadata of the file's schema

Row = dict[str, Any]


def arrow() -> Any:
    """The module pyarrow with its `parquet`. ImportError, naming the extra, if it is not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise missing_extra("pyarrow", "train") from error
    return pyarrow


def schema() -> Any:
    """The columns, as a pyarrow schema. `config` is the JSON of a `vzoom.json`; kind: zoom, zooms, answer,
    malformed, cut."""
    pa = arrow()
    seconds, text = pa.list_(pa.float64()), pa.string()
    call = [("start_seconds", pa.float64()), ("end_seconds", pa.float64()), ("fps", pa.float64())]
    call += [("num_frames", pa.int32())]
    video = [("path", text), ("sha256", text), ("duration_seconds", pa.float64()), ("fps", pa.float64())]
    video += [("width", pa.int32()), ("height", pa.int32()), ("max_fps", pa.float64())]
    turn = [("text", text), ("source", text), ("flawed", pa.bool_()), ("kind", text), ("call", pa.struct(call))]
    turn += [("calls", pa.list_(pa.struct(call))), ("clip_frames", pa.list_(pa.int32()))]
    turn += [("answer", text), ("error", text), ("detail", text), ("pts_seconds", seconds)]
    columns = [
        ("id", text),
        ("question", text),
        ("options", pa.list_(text)),
        ("reference", text),
        ("video", pa.struct(video)),
        ("config", text),
        ("glance_seconds", seconds),
        ("turns", pa.list_(pa.struct(turn))),
        ("stop_reason", text),
        ("ids", pa.list_(pa.int32())),
        ("sampled", pa.list_(pa.bool_())),
    ]
    return pa.schema(columns, metadata={FORMAT_KEY: str(FORMAT).encode()})


def to_row(record: Record) -> Row:
    """The record's row. InvalidRecord if the record does not pass `check`: nothing is written that cannot be read."""
    check(record)
    return {
        "id": record.id,
        "question": record.question,
        "options": list(record.options),
        "reference": record.reference,
        "video": asdict(record.video),
        "config": json.dumps(record.config.to_dict()),
        "glance_seconds": list(record.glance_seconds),
        "turns": [_turn_to_row(turn) for turn in record.turns],
        "stop_reason": None if record.stop_reason is None else str(record.stop_reason),
        "ids": None if record.ids is None else list(record.ids),
        "sampled": None if record.sampled is None else list(record.sampled),
    }


def from_row(row: Row) -> Record:
    """The row's record. InvalidRecord says what is wrong: a missing column, a bad value, fields that disagree."""
    try:
        _filled(row, ("id", "question", "options", "video", "config", "glance_seconds", "turns"))
        record = Record(
            id=row["id"],
            question=row["question"],
            options=tuple(row["options"]),
            reference=row["reference"],
            video=VideoRef(**row["video"]),
            config=ZoomConfig.from_dict(json.loads(row["config"]), f"record {row['id']}"),
            glance_seconds=tuple(row["glance_seconds"]),
            turns=tuple(_turn_from_row(turn) for turn in row["turns"]),
            stop_reason=None if row["stop_reason"] is None else StopReason(row["stop_reason"]),
            ids=None if row["ids"] is None else tuple(row["ids"]),
            sampled=None if row["sampled"] is None else tuple(row["sampled"]),
        )
        check(record)
    except KeyError as error:
        raise InvalidRecord(f"column {error} is missing") from error
    except (TypeError, RecursionError) as error:
        raise InvalidRecord(f"a value is missing or of another type ({error})") from error
    except ValueError as error:
        raise InvalidRecord(str(error)) from error
    return record


def _filled(row: Row, names: tuple[str, ...]) -> None:
    """ValueError if a column that must hold something is null, KeyError if it is missing."""
    for name in names:
        if row[name] is None:
            raise ValueError(f"{name} is null")


def _turn_to_row(turn: RecordedTurn) -> Row:
    outcome = turn.outcome
    row: Row = {"text": turn.text, "source": turn.source, "flawed": turn.flawed, "pts_seconds": list(turn.pts_seconds)}
    row |= {"kind": "cut", "call": None, "calls": None, "answer": None, "error": None, "detail": None}
    row["clip_frames"] = list(turn.clip_frames)
    match outcome:
        case ZoomCall():
            row |= {"kind": "zoom", "call": asdict(outcome)}
        case ZoomCalls():
            row |= {"kind": "zooms", "calls": [asdict(call) for call in outcome.calls]}
        case Answer():
            row |= {"kind": "answer", "answer": outcome.text}
        case Malformed():
            row |= {"kind": "malformed", "error": str(outcome.error), "detail": outcome.detail}
    return row


def _turn_from_row(row: Row) -> RecordedTurn:
    outcome: TurnOutcome | None
    _filled(row, ("text", "source", "flawed", "pts_seconds"))
    match row["kind"]:
        case "zoom":
            outcome = ZoomCall(**row["call"])
        case "zooms":
            outcome = ZoomCalls(tuple(ZoomCall(**call) for call in row["calls"]))
        case "answer":
            outcome = Answer(row["answer"])
        case "malformed":
            _filled(row, ("detail",))
            outcome = Malformed(CallError(row["error"]), row["detail"])
        case "cut":
            outcome = None
        case other:
            raise ValueError(f"kind of a turn must be zoom, zooms, answer, malformed or cut, got {other!r}")
    clip_frames = tuple(row.get("clip_frames") or ())  # files of vzoom 1 have no such column
    return RecordedTurn(row["text"], row["source"], outcome, row["flawed"], tuple(row["pts_seconds"]), clip_frames)
