"""Incremental positions equal transformers' own `get_rope_index` over the whole sequence."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import FAMILIES, config_of, token_id

from vzoom.protocol.mrope import image_positions, run_positions, text_positions, video_positions
from vzoom.protocol.tokenize import Run

IMAGE, VIDEO = token_id("<|image_pad|>"), token_id("<|video_pad|>")
START, END = token_id("<|vision_start|>"), token_id("<|vision_end|>")


def stock(family: str) -> Any:
    from transformers import AutoModelForImageTextToText

    return AutoModelForImageTextToText.from_config(config_of(family, layers=1)).model


def rope_index(model: Any, ids: list[int], **grids: Any) -> np.ndarray:
    batch = torch.tensor([ids])
    if "mm_token_type_ids" in inspect.signature(model.get_rope_index).parameters:
        grids["mm_token_type_ids"] = (batch == IMAGE).int() + 2 * (batch == VIDEO).int()
    positions, _ = model.get_rope_index(batch, **grids)
    return positions[:, 0].numpy()


@pytest.mark.parametrize("family", FAMILIES)
def test_runs_of_text_and_images_of_many_shapes(family: str) -> None:
    grids = [(4, 4), (4, 8), (10, 2), (2, 2), (6, 12)]
    ids, runs = [], []
    for first in (0, 2):  # two runs, as a glance and a splice
        run = Run([5, 6])
        for i, (h, w) in enumerate(grids[first : first + 2 + first]):
            run.images.append((i, len(run.ids) + 1, (h, w)))
            run.ids += [START, *[IMAGE] * (h * w // 4), END, 8]
        runs.append(run)
        ids += run.ids
    got, start = [], 0
    for run in runs:
        positions, start = run_positions(start, run, merge=2)
        got.append(positions)
    want = rope_index(stock(family), ids, image_grid_thw=torch.tensor([(1, h, w) for h, w in grids]))
    assert np.array_equal(np.concatenate(got, axis=1), want)
    assert start == want.max() + 1


@pytest.mark.parametrize(("grid", "seconds_per_grid"), [((3, 4, 4), 1.0), ((40, 4, 6), 0.3), ((7, 10, 4), 1 / 3)])
def test_qwen2_5_video_follows_the_time_step(grid: tuple[int, int, int], seconds_per_grid: float) -> None:
    model = stock("qwen2_5_vl")
    if seconds_per_grid % 1 and "mm_token_type_ids" not in inspect.signature(model.get_rope_index).parameters:
        pytest.skip("this release of transformers truncates the seconds of a grid to an integer")
    frames, h, w = grid
    size = frames * h * w // 4
    ids = [START, *[VIDEO] * size, END, 7]
    seconds = torch.tensor([seconds_per_grid])
    want = rope_index(model, ids, video_grid_thw=torch.tensor([grid]), second_per_grid_ts=seconds)
    step = float(np.float32(model.config.vision_config.tokens_per_second) * np.float32(seconds_per_grid))
    merged = (frames, h // 2, w // 2)
    block, after = video_positions(1, merged, time_step=step, rule="hf523")
    assert np.array_equal(block, want[:, 1 : 1 + size])
    if _continues_at_extent(want, size):
        assert after == want[0, 1 + size]
    _, behind = video_positions(1, merged, time_step=step, rule="max")
    assert behind == block.max() + 1


def _continues_at_extent(want: np.ndarray, size: int) -> bool:
    """Older releases of transformers continue behind the largest position, as rule "max" does."""
    return bool(want[0, 1 + size] != want[:, : 1 + size].max() + 1)


def test_text_and_image_in_isolation() -> None:
    text, after = text_positions(7, 3)
    assert text.tolist() == [[7, 8, 9]] * 3
    assert after == 10
    image, after = image_positions(7, 2, 3)
    assert image.tolist() == [[7] * 6, [7, 7, 7, 8, 8, 8], [7, 8, 9, 7, 8, 9]]
    assert after == 10
