"""The four kinds of turn of a protocol, as text and as tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ...config import ZoomConfig
from ...protocol import (
    ImagePart,
    Part,
    Protocol,
    TextPart,
    VideoPart,
    Vocabulary,
    error_turn,
    glance_timestamps,
    prompt,
    tokenize_parts,
    tool_turn,
    zoom_timestamps,
)
from ...types import CallError, Malformed, VideoInfo, ZoomCall

_VIDEO = VideoInfo("video.mp4", duration_seconds=64.0, fps=25.0, width=640, height=360)
_QUESTION = "What happens at the end?"
_NUM_FRAMES = 3  # of each turn
_LINE = 10  # tokens on one line
_PLACES: dict[type[Part], str] = {ImagePart: "<|image_pad|>", VideoPart: "<|video_pad|>"}


@dataclass(frozen=True)
class TokenRun:
    """Consecutive tokens, and the text that they are. One visual token stands for all of a frame, or of a
    temporal patch of a video."""

    text: str
    ids: tuple[int, ...]


def example_turns(protocol: Protocol) -> dict[str, list[Part]]:
    """One turn of each kind, about a video and a question that do not exist.

    Args:
        protocol: texts that it lacks are shown by their names: [system_text].

    Returns:
        The parts by kind: "glance turn", "tool turn", "last tool turn", "error turn".
    """
    protocol = replace(protocol, texts={name: f"[{name}]" for name in protocol.unknown_texts} | dict(protocol.texts))
    config = ZoomConfig.of(protocol)
    glance = glance_timestamps(_VIDEO, config)[:_NUM_FRAMES]
    call = ZoomCall(12.0, 20.0, 1.0)
    found = zoom_timestamps(call, _VIDEO, config)
    clips = [(call, [] if isinstance(found, Malformed) else found[:_NUM_FRAMES])]
    wrong = Malformed(CallError.REVERSED, "20 to 12")
    left = max(0, config.max_zooms - 1)
    shown = len(glance)
    return {
        "glance turn": prompt(_QUESTION, _VIDEO, glance, config),
        "tool turn": tool_turn(clips, _VIDEO, config, question=_QUESTION, zooms_left=left, num_shown=shown),
        "last tool turn": tool_turn(clips, _VIDEO, config, question=_QUESTION, zooms_left=0, num_shown=shown),
        "error turn": error_turn(wrong, _VIDEO, config, question=_QUESTION, zooms_left=left),
    }


def text_of(parts: Sequence[Part]) -> str:
    """The text of a turn, with one visual token for each frame, or for each clip of video tokens."""
    return "".join(part.text if isinstance(part, TextPart) else _PLACES[type(part)] for part in parts)


def token_runs(parts: Sequence[Part], vocabulary: Vocabulary) -> Iterator[TokenRun]:
    """The tokens of a turn in short runs, each with its text: a run ends with a line.

    Args:
        parts: of one turn.
        vocabulary: of the model that reads it.
    """
    one = (vocabulary.merge, vocabulary.merge)
    images = [part for part in parts if isinstance(part, ImagePart)]
    num_frames = len(images) + sum(len(part.times) for part in parts if isinstance(part, VideoPart))
    v, codec = vocabulary, vocabulary.codec
    ids = tokenize_parts(parts, [one] * num_frames, codec, v.image_token_id, v.merge, v.video).ids
    run: list[int] = []
    for i, token in enumerate(ids):
        run.append(token)
        text = codec.decode(run, special=True)
        is_whole = not text.endswith("\ufffd")  # a character may span tokens
        if i + 1 == len(ids) or (is_whole and (text.endswith("\n") or len(run) >= _LINE)):
            yield TokenRun(text, tuple(run))
            run = []
