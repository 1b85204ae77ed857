"""What vLLM is given, as far as that needs no vLLM."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import vzoom
from vzoom.models import load_checkpoint_info, vocabulary_of
from vzoom.protocol import builtin_protocol, stops
from vzoom.vllm import parse_settings
from vzoom.vllm.prompts import Frame, PlacedFrame, prompt_of, stop_ids
from vzoom.vllm.server import Room
from vzoom.zoomer import embedded_path


def test_every_token_that_can_end_a_closing_tag_stops_and_few_others() -> None:
    info = load_checkpoint_info(str(embedded_path()))
    vocabulary = vocabulary_of(info)
    protocol = builtin_protocol("vzoom")
    found = stop_ids(vocabulary, protocol, len(info.tokenizer))
    assert vocabulary.end_ids <= set(found)
    for ending in stops(protocol):
        for before in ("", "a", '"fps": 2}', "\n", "東"):
            for after in ("", "\n", " and", ">"):
                ids = vocabulary.codec.encode_turn(before + ending + after, protocol.tags)
                texts = [vocabulary.codec.decode(ids[: i + 1]) for i in range(len(ids))]
                completing = next(i for i, text in enumerate(texts) if ending in text)
                assert ids[completing] in found
    assert len(found) < len(info.tokenizer) / 4
    assert not set(vocabulary.codec.encode("the cup is red")) & set(found)


class _Pieces:
    """A codec whose token i is the i-th text."""

    def __init__(self, texts: list[str]) -> None:
        self.texts = texts

    def decode(self, ids: list[int]) -> str:
        return "".join(self.texts[i] for i in ids)


def test_the_tokens_of_a_tag_that_is_cut_anywhere_stop() -> None:
    stopping = ["r>", "er>\n", ">", "</answer>", "x</video_zoom>y", "answer>x", ">>", "zoom> and"]
    passing = ["a", "<", "</answer", "answer", "x>", "r", "/video_zoom", "{er>", ""]
    vocabulary = replace(vocabulary_of(load_checkpoint_info(str(embedded_path()))), end_ids=frozenset({999}))
    vocabulary = replace(vocabulary, codec=_Pieces(stopping + passing))  # type: ignore[arg-type]
    found = stop_ids(vocabulary, builtin_protocol("vzoom"), len(stopping + passing))
    assert found == (*range(len(stopping)), 999)


def test_an_image_is_one_token_of_a_prompt_with_its_content_id() -> None:
    pixels = np.zeros((28, 56, 3), np.uint8)
    placed = [PlacedFrame(Frame(pixels, "a"), 1, 2), PlacedFrame(Frame(pixels, "b"), 5, 3)]
    prompt = prompt_of([1, 9, 9, 2, 3, 9, 9, 9, 4], placed, 9)
    assert prompt["prompt_token_ids"] == [1, 9, 2, 3, 9, 4]
    assert prompt["multi_modal_uuids"] == {"image": ["a", "b"]}
    assert [image.size for image in prompt["multi_modal_data"]["image"]] == [(56, 28)] * 2
    assert prompt_of([1, 2], [], 9) == {"prompt_token_ids": [1, 2]}


def test_settings_of_vllm_are_read_as_json_else_text() -> None:
    read = parse_settings(["tensor-parallel-size=2", "quantization=awq", "enforce_eager=true", 'x={"a": [1]}'])
    assert read == {"tensor_parallel_size": 2, "quantization": "awq", "enforce_eager": True, "x": {"a": [1]}}
    for wrong in (["tensor_parallel_size"], ["=2"], ["a=1", "a=2"]):
        with pytest.raises(ValueError, match="--vllm"):
            parse_settings(wrong)


def test_room_is_given_in_order_and_given_back() -> None:
    async def scene() -> list[str]:
        room, told = Room(max_sessions=2, max_tokens=100), []

        async def hold(name: str, num_tokens: int, open_door: asyncio.Event) -> None:
            async with room.place(num_tokens):
                told.append(name)
                await open_door.wait()

        doors = {name: asyncio.Event() for name in "abcd"}
        sizes = {"a": 60, "b": 60, "c": 20, "d": 20}
        tasks = {name: asyncio.create_task(hold(name, sizes[name], doors[name])) for name in "abcd"}
        for _ in range(5):
            await asyncio.sleep(0)
        assert told == ["a"]  # b needs more tokens than are left, and c is behind b
        tasks["b"].cancel()
        await asyncio.wait([tasks["b"]])
        for _ in range(5):
            await asyncio.sleep(0)
        assert told == ["a", "c"]  # two sessions at most
        tasks["a"].cancel()
        await asyncio.wait([tasks["a"]])
        for door in doors.values():
            door.set()
        await asyncio.wait([tasks["c"], tasks["d"]])
        return told

    assert asyncio.run(scene()) == ["a", "c", "d"]


def test_choosing_an_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="engine must be one of auto, vzoom, vllm"):
        vzoom.load(engine="sglang")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"settings of vLLM \(tensor_parallel_size\) with engine vzoom"):
        vzoom.load(vllm={"tensor_parallel_size": 2})
    with pytest.raises(ValueError, match="vLLM takes the devices that it sees"):
        vzoom.load(engine="vllm", device="cuda:3")
    monkeypatch.setattr("vzoom.zoomer.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="vllm is not installed"):
        vzoom.load(engine="vllm")
    with vzoom.load(engine="auto") as zoomer:
        assert zoomer.engine == "vzoom"
