"""Our conversation as messages of an OpenAI-compatible endpoint, and the endpoint's replies as turns of ours.

An expert always reads words that explain the grammar, even if the record's own protocol has none (`explained`).
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ...config import ZoomConfig
from ...protocol import (
    ImagePart,
    Part,
    Protocol,
    VideoPart,
    acting_text,
    cut_turn,
    error_turn,
    explained,
    prompt,
    stops,
    tool_turn,
)
from ...types import Clip, Malformed, Trajectory, Turn, VideoInfo

Message = dict[str, Any]

_CONTROL = re.compile(r"<\|im_start\|>(\w+)\n|<\|im_end\|>\n?|<\|vision_(?:start|end)\|>")
_SMALL_PIXELS = 128 * 128  # up to here PNG, which loses nothing and is hardly larger


def opening(question: str, video: VideoInfo, glance: Clip | None, config: ZoomConfig) -> list[Message]:
    """The system's and the user's first message: grammar, labelled glance frames, question."""
    times = () if glance is None else glance.pts_seconds
    return to_messages(prompt(question, video, times, _explaining(config)), glance)


def exchange(
    trajectory: Trajectory, turn: Turn, clip: Clip | None, config: ZoomConfig, *, zooms_left: int
) -> list[Message]:
    """A turn as the assistant's message, and what came back for it as the user's. clip: what its calls brought."""
    question, video, shown = trajectory.question, trajectory.video, _explaining(config)
    if clip is not None:
        back = tool_turn(turn.clips, video, shown, question=question, zooms_left=zooms_left)
    else:
        assert isinstance(turn.outcome, Malformed)
        back = error_turn(turn.outcome, video, shown, question=question, zooms_left=zooms_left)
    return [{"role": "assistant", "content": turn.text}, *to_messages(back, clip)]


def _explaining(config: ZoomConfig) -> ZoomConfig:
    """The settings with words that explain the grammar."""
    return replace(config, protocol=explained(config.protocol))


def to_messages(parts: Sequence[Part], clip: Clip | None) -> list[Message]:
    """Parts of the protocol without their control tokens. Text alone is a string, with frames a list of parts."""
    messages: list[Message] = []

    def add(text: str) -> None:
        if not messages or not text:
            return  # in front of the first message: the end of a turn that is a message by itself
        content = messages[-1]["content"]
        if content and content[-1]["type"] == "text":
            content[-1]["text"] += text
        else:
            content.append({"type": "text", "text": text})

    for part in parts:
        if isinstance(part, ImagePart | VideoPart):
            assert clip is not None
            first, count = (part.index, 1) if isinstance(part, ImagePart) else (part.first, len(part.times))
            for frame in clip.images[first : first + count]:
                messages[-1]["content"].append({"type": "image_url", "image_url": {"url": data_url(frame)}})
        elif not part.trusted:
            add(part.text)
        else:
            at = 0
            for control in _CONTROL.finditer(part.text):
                add(part.text[at : control.start()])
                at = control.end()
                if role := control[1]:
                    messages.append({"role": role, "content": []})
            add(part.text[at:])
    filled = [message for message in messages if message["content"]]  # the assistant's, which it is to write, is empty
    for message in filled:
        if len(message["content"]) == 1 and message["content"][0]["type"] == "text":
            message["content"] = message["content"][0]["text"]
    return filled


def with_request(messages: Sequence[Message], text: str) -> list[Message]:
    """The messages with `text` added to the last one, which is the user's: many endpoints want roles to alternate."""
    *before, last = messages
    content = last["content"]
    if isinstance(content, str):
        return [*before, {**last, "content": f"{content}\n{text}"}]
    return [*before, {**last, "content": [*content, {"type": "text", "text": text}]}]


def data_url(frame_HWC: np.ndarray) -> str:
    """A uint8 RGB frame as the URL of a PNG if it is small, else of a JPEG of high quality."""
    from PIL import Image as Picture

    picture = Picture.fromarray(np.ascontiguousarray(frame_HWC))
    buffer = io.BytesIO()
    if picture.width * picture.height <= _SMALL_PIXELS:
        picture.save(buffer, "PNG")
        kind = "png"
    else:
        picture.save(buffer, "JPEG", quality=92, subsampling=0)
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def whole_turn(text: str, protocol: Protocol) -> str:
    """A reply as a turn: up to its first closing tag, which is put back if the server took it for a stop string.

    Not for a reply that a limit cut short.
    """
    text = text.strip()
    if closed := cut_turn(text, protocol):
        return closed
    acting, _ = acting_text(text, protocol)
    call, answer = protocol.call, protocol.answer
    opened = {close: acting.rfind(open) for open, close in ((call.open, call.close), (answer.open, answer.close))}
    closing = max((tag for tag in opened if tag in stops(protocol)), key=lambda tag: opened[tag], default="")
    return text + closing if closing and opened[closing] >= 0 else text
