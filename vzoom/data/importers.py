"""Importers for the data that VideoZoomer (arXiv 2512.22315) published.

RL: a JSON list of {"problem", "solution", "videos": [path], …}. SFT: a JSON list of {"messages", "images"}: chats whose
text names the time of every frame, `<frame3_time6.00s><image>`. Of those frames only the times are kept: an imported
conversation is shown to the model in our own words, with frames cut from the video again. So SFT, RL and use agree.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from ..config import ZoomConfig
from ..protocol import (
    LETTERS,
    Choice,
    Frames,
    builtin_protocol,
    cut_turn,
    parse_turn,
    read_choice,
    zoom_timestamps,
)
from ..types import Answer, CallError, Malformed, StopReason, TurnOutcome, calls_of
from ..video import is_url
from .learning.reading import label_pattern
from .record import Record, RecordedTurn, VideoRef, carried_out
from .validate import InvalidRecord, check
from .videos import refer

# Shown in our words, with the frames that the public code chooses.
PUBLIC_CONFIG = ZoomConfig(
    protocol=builtin_protocol("vzoom").override(
        name="vzoom, videozoomer frames", glance={"rule": "videozoomer"}, zoom={"rule": "videozoomer"}
    )
)
PUBLIC_FRAMES = builtin_protocol("videozoomer").frame

_IMAGE = "<image>"

_OPTION = re.compile(r"\(?(?P<letter>[A-Z])\s*[.):]\s*(?P<text>\S.*)")


def import_rl(
    path: str | PathLike[str], *, videos: str | PathLike[str] = ".", config: ZoomConfig = PUBLIC_CONFIG
) -> Iterator[Record]:
    """Questions with their reference answers, one per row.

    Args:
        path: the JSON file.
        videos: the folder that relative paths start from.
        config: the limits that the questions are to be asked under.

    Raises:
        InvalidRecord: with file, row and what is wrong. A video that cannot be read is wrong, too.
    """
    for name, row in _rows(path):
        with _NamesRow(path, name):
            question = _text(row, "problem").replace(_IMAGE, "").strip()
            solution = row.get("solution")
            if not isinstance(solution, str) or not solution.strip():
                raise InvalidRecord(f"solution must be text, got {solution!r}")
            tags = config.protocol.answer
            solution = solution.rpartition(tags.open)[2].partition(tags.close)[0].strip() if tags.open else solution
            options = options_in(question)
            choice = read_choice(solution, options) if options else None
            known = isinstance(choice, Choice)  # if not, it is an open question, whatever its last lines look like
            record = Record(
                id=str(row.get("doc_id", f"{Path(path).stem}-{name}")),
                question=question,
                options=options if known else (),
                reference=choice.letter if isinstance(choice, Choice) else solution,
                video=refer(_one_video(row, videos)),
                config=config,
            )
            check(record)
        yield record


def import_sft(
    path: str | PathLike[str],
    *,
    videos: str | PathLike[str] = ".",
    video_list: str | PathLike[str] | None = None,
    config: ZoomConfig = PUBLIC_CONFIG,
    frames: Frames = PUBLIC_FRAMES,
) -> Iterator[Record]:
    """Conversations of the expert, one per row.

    A turn that could not be carried out is marked flawed. The public data does not say which of the others are.

    Args:
        path: the JSON file.
        videos: the folder that relative paths start from.
        video_list: a JSON list with the video of each row, in order, for rows that hold no "videos" key of their own.
        config: the limits that the conversations were held under, and the protocol that they are shown in.
        frames: how their frames are labelled, with a {time}.

    Raises:
        InvalidRecord: with file, row and what is wrong.
    """
    labelled = re.compile(rf"{label_pattern(frames)}\s*{_IMAGE}")
    if "time" not in labelled.groupindex:
        raise ValueError(f"frames labelled {frames.label!r} tell no time: they cannot be cut from the video again")
    listed = None if video_list is None else _json(video_list)
    for name, row in _rows(path):
        with _NamesRow(path, name):
            if listed is not None:
                if not isinstance(listed, list) or len(listed) <= name:
                    raise InvalidRecord(f"{video_list} is not a list that names a video for this row")
                row = {**row, "videos": [listed[name]]}
            record = _conversation(f"{Path(path).stem}-{name}", row, refer(_one_video(row, videos)), config, labelled)
            check(record)
        yield record


def options_in(question: str) -> tuple[str, ...]:
    """The options that the last lines of a question list: "A. red", "(B) blue", "C: green", from A on, two or more."""
    options: list[str] = []
    for line in question.strip().splitlines():
        labelled = _OPTION.fullmatch(line.strip())
        if labelled and labelled["letter"] == LETTERS[len(options) : len(options) + 1]:
            options.append(labelled["text"].strip())
        elif line.strip():
            options = []  # a list further up is part of the question
    return tuple(options) if len(options) >= 2 else ()


class _NamesRow:
    """Says which row an error is of."""

    def __init__(self, path: str | PathLike[str], number: int) -> None:
        self.path, self.number = path, number

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: Any) -> None:
        if isinstance(error, ValueError | OSError):
            raise InvalidRecord(f"{self.path}, row {self.number}: {error}") from error


def _rows(path: str | PathLike[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    rows = _json(path)
    if not isinstance(rows, list):
        raise InvalidRecord(f"{path} must hold a JSON list, not {type(rows).__name__}")
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise InvalidRecord(f"{path}, row {number}: must be an object, got {type(row).__name__}")
        yield number, row


def _json(path: str | PathLike[str]) -> Any:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InvalidRecord(f"{path} is no JSON ({error})") from error


def _text(row: dict[str, Any], key: str) -> str:
    if not isinstance(row.get(key), str):
        raise InvalidRecord(f"{key} must be text, got {row.get(key)!r}")
    return str(row[key])


def _one_video(row: dict[str, Any], folder: str | PathLike[str]) -> str:
    videos = row.get("videos")
    if not (isinstance(videos, list) and len(videos) == 1 and isinstance(videos[0], str)):
        raise InvalidRecord(f"videos must be a list of one path, got {videos!r}")
    return videos[0] if is_url(videos[0]) else str(Path(folder) / videos[0])


# ---------------------------------------------------------------- chats


def _conversation(
    id: str, row: dict[str, Any], video: VideoRef, config: ZoomConfig, labelled: re.Pattern[str]
) -> Record:
    prompt, chat = _chat(row)
    glance, question = _times(prompt, labelled), labelled.sub("", prompt).strip()
    replies = chat[1::2]
    bare = []
    for number, text in enumerate(chat[::2]):
        reply = replies[number] if number < len(replies) else None
        text = cut_turn(text, config.protocol) or text  # what the model would have written
        clip = _times(reply, labelled) if reply is not None else ()
        outcome = _outcome(text, reply, clip, video, config)
        brought = clip if calls_of(outcome) else ()
        bare.append(RecordedTurn(text, "expert", outcome, False, brought))
    num_images = sum(text.count(_IMAGE) for text in (prompt, *chat))
    images = row.get("images")
    if not isinstance(images, list) or len(images) != num_images:
        found = len(images) if isinstance(images, list) else repr(images)
        raise InvalidRecord(f"{num_images} {_IMAGE} in the messages, but images: {found}")
    turns = [
        RecordedTurn(turn.text, turn.source, turn.outcome, not carried_out(bare, number), turn.pts_seconds)
        for number, turn in enumerate(bare)
    ]
    stop = StopReason.ANSWERED if isinstance(turns[-1].outcome, Answer) else StopReason.ROUNDS
    return Record(id, question, (), None, video, config, glance, tuple(turns), stop)


def _chat(row: dict[str, Any]) -> tuple[str, list[str]]:
    """The text of the first user message, and those after it: assistant, user, assistant, …, assistant."""
    messages = row.get("messages")
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise InvalidRecord(f"messages must be a list of objects, got {type(messages).__name__}")
    spoken = [message for message in messages if message.get("role") != "system"]
    wanted = ["user", "assistant"] * (len(spoken) // 2)
    if not spoken or [message.get("role") for message in spoken] != wanted:
        raise InvalidRecord(f"roles must be user, assistant in turn, got {[m.get('role') for m in spoken]}")
    texts = [_text(message, "content") for message in spoken]
    return texts[0], texts[1:]


def _times(text: str, labelled: re.Pattern[str]) -> tuple[float, ...]:
    """Seconds of the frames in a message. InvalidRecord for a frame without a time."""
    times = tuple(float(found["time"]) for found in labelled.finditer(text))
    if len(times) != text.count(_IMAGE):
        raise InvalidRecord(f"{text.count(_IMAGE)} {_IMAGE}, but {len(times)} with a time before them")
    return tuple(dict.fromkeys(times))  # the public tool repeats frames: see each once


def _outcome(text: str, reply: str | None, clip: Sequence[float], video: VideoRef, config: ZoomConfig) -> TurnOutcome:
    """What the text asks for, or why it came to nothing."""
    outcome = parse_turn(text, config.protocol, video_fps=video.fps)
    if reply is None:
        return outcome
    for call in calls_of(outcome):
        times = zoom_timestamps(call, video.info, config)
        if isinstance(times, Malformed):
            return times  # after the end the public tool brought copies of the last frame: here the model is told
    return outcome if clip or not calls_of(outcome) else Malformed(CallError.UNREADABLE, " ".join(reply.split())[:120])
