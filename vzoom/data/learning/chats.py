"""Published conversations: {"messages": [{"role", "content"}], "images": […]} per row, a JSON list or JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from ..validate import InvalidRecord

IMAGE, VIDEO = "<image>", "<video>"  # the places of frames in the text, one for each, or one for a whole clip
MESSAGE_END = "<|im_end|>"


@dataclass(frozen=True)
class Chat:
    """One conversation.

    Attributes:
        row: its number in the file, from 0.
        id: its own name; the row's number if it has none.
        system: the text of its system message; None if it has none.
        shown: the texts of the messages that the model was shown, the opening first.
        roles: their roles.
        written: the turns of the model; `written[i]` answers `shown[i]`.
        video: the path of its video, if the row names one.
    """

    row: int
    id: str
    system: str | None
    shown: tuple[str, ...]
    roles: tuple[str, ...]
    written: tuple[str, ...]
    video: str | None


def read_chats(path: str | PathLike[str]) -> list[Chat]:
    """Read a file of conversations.

    Args:
        path: a JSON list, or one JSON object per line.

    Raises:
        InvalidRecord: it is neither, a row has another form, or there are no rows. The message names the row.
        OSError: it cannot be read.
    """
    chats = [_chat(path, row, data) for row, data in enumerate(_rows(path))]
    if not chats:
        raise InvalidRecord(f"{path} holds no conversation")
    return chats


def _rows(path: str | PathLike[str]) -> Iterator[Any]:
    text = Path(path).read_text(encoding="utf-8")
    try:
        if text.lstrip()[:1] == "[":
            yield from json.loads(text)
        else:
            yield from (json.loads(line) for line in text.splitlines() if line.strip())
    except ValueError as error:
        raise InvalidRecord(f"{path} is no JSON list and no JSON lines: {error}") from error


def _chat(path: str | PathLike[str], row: int, data: Any) -> Chat:
    messages = data.get("messages") if isinstance(data, dict) else None
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise InvalidRecord(f"{path}, row {row}: must be an object whose messages are a list of objects")
    roles = [str(message.get("role")) for message in messages]
    texts = [_text(path, row, message.get("content")) for message in messages]
    system = texts.pop(0) if roles[:1] == ["system"] else None
    roles, texts = _joined(roles[len(roles) - len(texts) :], texts)
    if not roles or "assistant" in roles[::2] or set(roles[1::2]) - {"assistant"} or roles[0] != "user":
        raise InvalidRecord(f"{path}, row {row}: roles must be user and assistant in turn, got {roles}")
    videos = data.get("videos")
    video = videos[0] if isinstance(videos, list) and len(videos) == 1 and isinstance(videos[0], str) else None
    return Chat(
        row=row,
        id=str(data.get("id", row)),
        system=system,
        shown=tuple(texts[::2]),
        roles=tuple(roles[::2]),
        written=tuple(texts[1::2]),
        video=video,
    )


def _joined(roles: list[str], texts: list[str]) -> tuple[list[str], list[str]]:
    """Messages that the model was shown one after the other as one, with the tokens that stand between them."""
    found: tuple[list[str], list[str]] = ([], [])
    for role, text in zip(roles, texts, strict=True):
        if found[0] and role != "assistant" and found[0][-1] != "assistant":
            found[1][-1] += f"{MESSAGE_END}\n<|im_start|>{role}\n{text}"
        else:
            found[0].append(role)
            found[1].append(text)
    return found


def _text(path: str | PathLike[str], row: int, content: Any) -> str:
    """The text of a message; of one that is a list of parts, with the placeholders of frames in their places."""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        kinds = {"image": IMAGE, "image_url": IMAGE, "video": VIDEO, "video_url": VIDEO}
        return "".join(kinds.get(str(part.get("type")), str(part.get("text", ""))) for part in content)
    raise InvalidRecord(f"{path}, row {row}: content must be text, got {content!r:.80}")
