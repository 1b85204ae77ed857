"""The mask printer, for one trajectory of each kind: every token with its mask, as written down in tests/masks."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from data_records import CONFIG, DONE, LOOK, MALFORMED, PLAIN, QUESTION, REFLECTION, ZOOM

from vzoom.config import Sampling
from vzoom.data.record import Record, from_trajectory
from vzoom.data.show import MARKS, token_lines
from vzoom.engine.scripted_session import ScriptedSession
from vzoom.engine.session import Done, NeedFrames, NeedTokens
from vzoom.protocol.render import TextPart
from vzoom.protocol.text_codec import TextCodec
from vzoom.protocol.vocabulary import Vocabulary
from vzoom.types import Clip, StopReason

MASKS = Path(__file__).parent / "masks"

_CONTROL = r"<\|\w+\|>"
_PIECE = re.compile(r"</?\w+>| ?\w+|\s|.", re.DOTALL)


class WordCodec(TextCodec):
    """Words, tags and single signs: what a token is can be read off, and no checkpoint changes it."""

    def __init__(self) -> None:
        self.ids: dict[str, int] = {}

    def encode_parts(self, parts: Iterable[TextPart]) -> list[int]:
        pieces = []
        for part in parts:
            for text in re.split(f"({_CONTROL})", part.text) if part.trusted else [part.text]:
                pieces += [text] if part.trusted and re.fullmatch(_CONTROL, text) else _PIECE.findall(text)
        return [self.id_of(piece) for piece in pieces]

    def encode_turn(self, text: str, tags: tuple[str, ...]) -> list[int]:
        return self.encode_parts([TextPart(text, trusted=False)])

    def decode(self, ids: Sequence[int], *, special: bool = False) -> str:
        texts = list(self.ids)
        return "".join(texts[i] for i in ids)

    def id_of(self, piece: str) -> int:
        return self.ids.setdefault(piece, len(self.ids))


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    codec = WordCodec()
    image, end = (codec.id_of(token) for token in ("<|image_pad|>", "<|im_end|>"))
    return Vocabulary(codec, image, end, frozenset({end}), merge=2, grid_hw=lambda h, w, config: (4, 4))


def cut_short(vocabulary: Vocabulary) -> Record:
    """A student whose second turn reaches the limit of new tokens."""
    config = replace(CONFIG, max_new_tokens=len(vocabulary.codec.encode(LOOK)) + 1)
    texts = [LOOK, "<think>I wonder" + ", and I wonder" * 20]
    session = ScriptedSession(texts, QUESTION, PLAIN.video.info, vocabulary, config, Sampling())
    while not isinstance(session.action, Done):
        if isinstance(session.action, NeedFrames):
            times = session.action.timestamps
            frames = np.zeros((len(times), 56, 56, 3), np.uint8)
            session.splice(Clip(frames, times, tuple(range(len(times))), (False,) * len(times)))
        else:
            assert isinstance(session.action, NeedTokens)
            session.accept(0, 0.0)
    assert session.trajectory.stop_reason is StopReason.TURN_TOKENS
    return from_trajectory(session.trajectory, config, id="cut", video=PLAIN.video)


def record_of(kind: str, vocabulary: Vocabulary) -> Record:
    records = {"answer": PLAIN, "zoom": ZOOM, "malformed": MALFORMED, "reflection": REFLECTION}
    return records[kind] if kind in records else cut_short(vocabulary)


@pytest.mark.parametrize("kind", ["answer", "zoom", "malformed", "reflection", "cut_short"])
def test_every_token_has_its_mask(kind: str, vocabulary: Vocabulary) -> None:
    record = record_of(kind, vocabulary)
    lines = [f"{MARKS[line.mask]} {line.text!r}" for line in token_lines(record, vocabulary, every_visual=True)]
    assert lines == (MASKS / f"{kind}.txt").read_text().splitlines()


def test_the_lists_say_what_they_should() -> None:
    """Of the files themselves: what is learned reads as the turns that are to be learned, and nothing else."""

    def text(kind: str, mark: str) -> str:
        lines = (MASKS / f"{kind}.txt").read_text().splitlines()
        return "".join(ast.literal_eval(line[2:]) for line in lines if line[0] == mark)

    assert text("answer", "+") == DONE
    assert text("zoom", "+") == text("malformed", "+") == text("reflection", "+") == LOOK + DONE
    assert text("zoom", "-") == ""
    assert text("malformed", "-") == MALFORMED.turns[0].text
    assert text("reflection", "-") == REFLECTION.turns[0].text
    assert text("cut_short", "+") == LOOK
    assert text("cut_short", "-").startswith("<think>I wonder, and I wonder")
    for kind in ("zoom", "malformed", "reflection", "cut_short"):
        assert "</video_zoom>" not in text(kind, ".")
        assert "<|im_end|>" in text(kind, ".")
        assert "<|im_end|>" not in text(kind, "+") + text(kind, "-")
