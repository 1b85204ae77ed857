"""Incremental positions equal transformers' own `get_rope_index` over the whole sequence."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import FAMILIES, config_of, token_id

from vzoom.protocol.mrope import block_positions, span_positions, text_positions
from vzoom.protocol.tokenize import TokenSpan, VisionBlock

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
def test_spans_of_text_and_images_of_many_shapes(family: str) -> None:
    grids = [(4, 4), (4, 8), (10, 2), (2, 2), (6, 12)]
    ids, spans = [], []
    for first in (0, 2):  # two spans, as a glance and a splice
        span = TokenSpan([5, 6])
        for i, (h, w) in enumerate(grids[first : first + 2 + first]):
            span.blocks.append(VisionBlock(i, 1, len(span.ids) + 1, (1, h, w)))
            span.ids += [START, *[IMAGE] * (h * w // 4), END, 8]
        spans.append(span)
        ids += span.ids
    got, start = [], 0
    for span in spans:
        positions, start = span_positions(start, span, merge=2)
        got.append(positions)
    want = rope_index(stock(family), ids, image_grid_thw=torch.tensor([(1, h, w) for h, w in grids]))
    assert np.array_equal(np.concatenate(got, axis=1), want)
    assert start == want.max() + 1


def test_text_and_image_in_isolation() -> None:
    text, after = text_positions(7, 3)
    assert text.tolist() == [[7, 8, 9]] * 3
    assert (text.dtype, after) == (np.int64, 10)
    image, after = block_positions(7, (1, 2, 3))
    assert image.tolist() == [[7] * 6, [7, 7, 7, 8, 8, 8], [7, 8, 9, 7, 8, 9]]
    assert (image.dtype, after) == (np.int64, 10)
    assert block_positions(7, (1, 3, 1))[1] == 10


def test_a_video_in_isolation() -> None:
    video, after = block_positions(7, (3, 1, 2), step=2.5)
    assert video.tolist() == [[7, 7, 9, 9, 12, 12], [7] * 6, [7, 8] * 3]
    assert (video.dtype, after) == (np.int64, 13)
    assert block_positions(7, (3, 1, 2), step=2.5, rule="hf523")[1] == 9
    assert block_positions(7, (3, 1, 8), step=2.5)[1] == 15
