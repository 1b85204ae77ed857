"""ZoomProcessor: what transformers' processors make, without torchvision; and videos spliced into a warm cache."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import video_processor
from checkpoints import FAMILIES, make_checkpoint, stock_processor, token_id
from drop_in import TOLERANCE, generate, named, open_model
from video_processor import CASES, FPS, Case, around, placeholder

import vzoom
from vzoom.hf import zoom_cache
from vzoom.types import Clip

GOLDEN: dict[str, Any] = json.loads(video_processor.GOLDEN.read_text())


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {family: make_checkpoint(family, tmp_path_factory.mktemp(family)) for family in FAMILIES}


def clip_of(case: Case, clip: int) -> Clip:
    indices = case.clips[clip]
    return Clip(case.frames(clip), case.times(clip), indices, (False,) * len(indices))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", CASES)
def test_videos_are_those_of_the_familys_processor(family: str, name: str, folders: dict[str, Path]) -> None:
    case, want = CASES[name], GOLDEN[f"{family} {name}"]
    text = "".join(placeholder(family).join(around(i)) for i in range(len(case.clips)))
    processor = vzoom.ZoomProcessor(str(folders[family]), video_processor.CONFIG)
    got = processor(text, videos=[clip_of(case, i) for i in range(len(case.clips))])
    assert got["input_ids"][0].tolist() == [token for token, count in want["ids"] for _ in range(count)]
    assert got["video_grid_thw"].tolist() == want["grids"]
    if family == "qwen2_5_vl":
        assert got["second_per_grid_ts"].tolist() == pytest.approx(want["seconds"], rel=1e-6)
    assert video_processor.digest(got["pixel_values_videos"]) == want["pixels"]


def test_images_and_a_video_in_one_text(folders: dict[str, Path]) -> None:
    folder = folders["qwen2_5_vl"]
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, size, dtype=np.uint8) for size in ((56, 84, 3), (84, 56, 3))]
    clip = clip_of(CASES["fits"], 2)
    processor = vzoom.ZoomProcessor(str(folder), video_processor.CONFIG.override(max_pixels=100352))
    image = "<|vision_start|><|image_pad|><|vision_end|>"
    got = processor(f"{image}a<|video_pad|>{image}", images=images, videos=[clip])
    want = stock_processor(folder)(images=images, return_tensors="pt")
    assert got["pixel_values"].equal(want["pixel_values"])
    assert got["image_grid_thw"].equal(want["image_grid_thw"])
    assert got["video_grid_thw"].tolist() == [[3, 4, 6]]
    ids = got["input_ids"][0]
    kinds = (ids == token_id("<|image_pad|>")).int() + 2 * (ids == token_id("<|video_pad|>")).int()
    assert kinds.tolist() == [0] + [1] * 6 + [0] * 3 + [2] * 18 + [0] * 2 + [1] * 6 + [0]
    assert "mm_token_type_ids" not in got or got["mm_token_type_ids"][0].equal(kinds)
    assert got["input_ids"][0, 8].item() == ord("a") - 33
    for wrong in ({"images": images}, {"videos": [clip, clip]}):
        with pytest.raises(ValueError, match="places for 2 images and 1 videos, and"):
            processor(f"{image}a<|video_pad|>{image}", **wrong)


# ---------------------------------------------------------------- into a warm cache


def watched(times: tuple[float, ...], seed: int) -> Clip:
    frames = np.random.default_rng(seed).integers(0, 256, (len(times), 56, 84, 3), dtype=np.uint8)
    return Clip(frames, times, tuple(round(t * FPS) for t in times), (False,) * len(times))


GLANCE = watched(tuple(4.0 * i for i in range(9)), 0)  # its times go on further than its rows and columns
ZOOMS = [watched(tuple(8 + i / 2 for i in range(5)), 1), watched((20.0, 20.25), 2)]


def spliced(folder: Path) -> tuple[Any, torch.Tensor, list[dict[str, torch.Tensor]]]:
    """What an enabled model generates after a glance and two zooms of video tokens; all ids; the turns."""
    processor = vzoom.ZoomProcessor(str(folder))
    model = open_model(folder)
    vzoom.enable(model, pool_tokens=8192)
    cache = vzoom.ZoomCache(model)
    turns = [processor("see <|video_pad|> now", videos=[clip]) for clip in (GLANCE, *ZOOMS)]
    ids = generate(model, **named(turns[0]), past_key_values=cache).sequences
    for turn in turns[1:-1]:
        ids = generate(model, cache.append(ids, turn), past_key_values=cache).sequences
    ids = cache.append(ids, turns[-1])
    return generate(model, ids, past_key_values=cache), ids, turns


def from_scratch(folder: Path, ids: torch.Tensor, turns: list[dict[str, torch.Tensor]]) -> torch.Tensor:
    """Logits after all ids by a stock model, which sees the whole conversation at once."""
    model = open_model(folder)
    media = ("pixel_values_videos", "video_grid_thw", "second_per_grid_ts")
    inputs = {name: torch.cat([turn[name] for turn in turns]) for name in media if name in turns[0]}
    if "mm_token_type_ids" in turns[0]:
        inputs["mm_token_type_ids"] = 2 * (ids == token_id("<|video_pad|>")).int()
    return generate(model, ids, **inputs).logits[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_videos_are_spliced_exactly(family: str, folders: dict[str, Path]) -> None:
    got, ids, turns = spliced(folders[family])
    want = from_scratch(folders[family], ids, turns)
    assert float((got.logits[0] - want).abs().max() / want.abs().max()) <= TOLERANCE


def test_a_mutation_is_seen(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Text after a video by the other rule than that of this transformers."""
    right = zoom_cache.span_positions

    def mutant(start: int, span: Any, merge: int, video: Any, rule: str) -> Any:
        return right(start, span, merge, video, "max" if rule == "hf523" else "hf523")

    monkeypatch.setattr(zoom_cache, "span_positions", mutant)
    got, ids, turns = spliced(folders["qwen2_5_vl"])
    want = from_scratch(folders["qwen2_5_vl"], ids, turns)
    assert float((got.logits[0] - want).abs().max() / want.abs().max()) > 100 * TOLERANCE


def test_what_a_video_turn_must_have(folders: dict[str, Path]) -> None:
    folder = folders["qwen2_5_vl"]
    processor, model = vzoom.ZoomProcessor(str(folder)), open_model(folder)
    vzoom.enable(model, pool_tokens=4096)
    cache = vzoom.ZoomCache(model)
    opening = processor("see <|video_pad|> now", videos=[GLANCE])
    ids = generate(model, **named(opening), past_key_values=cache).sequences
    turn = processor("see <|video_pad|> now", videos=[ZOOMS[0]])
    without = {name: value for name, value in turn.items() if name != "second_per_grid_ts"}
    with pytest.raises(ValueError, match="second_per_grid_ts, one number for each of 1 videos"):
        cache.append(ids, without)
    with pytest.raises(ValueError, match="video_grid_thw do not fit"):
        cache.append(ids, turn | {"video_grid_thw": turn["video_grid_thw"] + 1})
    with pytest.raises(ValueError, match="cannot be passed to a model whose cache already holds"):
        generate(model, ids, past_key_values=cache, **{k: v for k, v in turn.items() if "video" in k})
    assert cache.get_seq_length() == ids.shape[1] - 1
