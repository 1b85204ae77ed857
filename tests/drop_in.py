"""What the tests of the drop-in share: models with and without vzoom, turns with images, and what stock says."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import torch
from checkpoints import stock_processor, token_id
from transformers import AutoModelForImageTextToText

import vzoom

TOLERANCE = 1e-5  # of the largest logit
GREEDY: dict[str, Any] = {
    "do_sample": False, "max_new_tokens": 8, "min_new_tokens": 8, "output_logits": True,
    "return_dict_in_generate": True, "pad_token_id": token_id("<|endoftext|>"),
    "suppress_tokens": [token_id(f"<|{kind}_pad|>") for kind in ("image", "video")],
}  # fmt: skip
SIZES = ((56, 84), (84, 56), (56, 56))


def open_model(path: Path) -> Any:
    return AutoModelForImageTextToText.from_pretrained(path).eval()


def text(count: int, seed: int = 0, batch: int = 1) -> torch.Tensor:
    return torch.randint(0, 255, (batch, count), generator=torch.Generator().manual_seed(seed))


def turn(folder: Path, seed: int, *, sizes: tuple[tuple[int, int], ...] = SIZES, head: int = 5) -> dict[str, Any]:
    """What a processor returns for text with images of these (height, width) between words."""
    rng = np.random.default_rng(seed)
    frames = [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in sizes]
    pixels = stock_processor(folder)(images=frames, return_tensors="pt")
    ids = text(head, seed)[0].tolist()
    for grid in pixels["image_grid_thw"]:
        image = [token_id("<|image_pad|>")] * int(grid.prod() // 4)
        ids += [token_id("<|vision_start|>"), *image, token_id("<|vision_end|>"), *text(3, seed + 1)[0].tolist()]
    return {"input_ids": torch.tensor([ids]), **inputs_of(torch.tensor([ids]), pixels)}


def inputs_of(ids: torch.Tensor, pixels: Any) -> dict[str, Any]:
    return {
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == token_id("<|image_pad|>")).int(),
        "pixel_values": pixels["pixel_values"],
        "image_grid_thw": pixels["image_grid_thw"],
    }


def generate(model: Any, ids: torch.Tensor, **kwargs: Any) -> Any:
    return model.generate(ids, **GREEDY | _known(model, kwargs))


def _known(model: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """transformers 5.0 has no mm_token_type_ids."""
    has = "mm_token_type_ids" in inspect.signature(model.forward).parameters
    return {k: v for k, v in kwargs.items() if has or k != "mm_token_type_ids"}


def from_scratch(model: Any, ids: torch.Tensor, turns: list[dict[str, Any]], **kwargs: Any) -> Any:
    """Stock generate() over the whole conversation with all its images."""
    pixels = {k: torch.cat([t[k] for t in turns]) for k in ("pixel_values", "image_grid_thw")}
    return generate(model, ids, **inputs_of(ids, pixels), **kwargs)


def error(got: Any, want: Any) -> float:
    """Largest difference of the logits of all steps, over the largest logit."""
    assert len(got.logits) == len(want.logits)
    a, b = torch.stack(got.logits), torch.stack(want.logits)
    return float((a - b).abs().max() / b.abs().max())


def assert_same(got: Any, want: Any) -> None:
    assert got.sequences.tolist() == want.sequences.tolist()
    assert error(got, want) <= TOLERANCE


def used(model: Any) -> int:
    """Pages that are taken. Nothing is collected first: a cache that is gone must give them back at once."""
    pool = vzoom.enable(model).pool
    return pool.num_blocks - pool.num_free


def named(inputs: dict[str, Any]) -> dict[str, Any]:
    return {"ids": inputs["input_ids"]} | {k: v for k, v in inputs.items() if k != "input_ids"}


def stacked(turns: list[dict[str, Any]]) -> dict[str, Any]:
    return {k: torch.cat([t[k] for t in turns]) for k in turns[0]}
