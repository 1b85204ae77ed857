"""The vision tower is the function that transformers' tower is, for all three families and any mix of grids."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from checkpoints import FAMILIES, make_checkpoint

from vzoom.models import Checkpoint, load_checkpoint
from vzoom.models.features import Features
from vzoom.models.tower_plan import _windows

# Windows of 2 x 2 tokens (56 pixels): whole ones, cut ones, images smaller than one.
GRIDS = [(4, 4), (6, 10), (2, 2), (6, 10), (8, 4), (2, 14)]


@pytest.fixture(scope="module", params=FAMILIES)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return load_checkpoint(str(make_checkpoint(request.param, tmp_path_factory.mktemp(request.param))))


def random_patches(grids: list[tuple[int, int]], dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, Any]:
    """Patches of images that are given once, and the same as transformers wants them: repeated in time."""
    count = sum(h * w for h, w in grids)
    once = torch.randn(count, 3, 1, 14 * 14, generator=torch.Generator().manual_seed(1)).to(dtype)
    return once.flatten(1), once.expand(-1, -1, 2, -1).flatten(1)


@torch.inference_mode()
def stock(checkpoint: Checkpoint, patches: torch.Tensor, grids: list[tuple[int, int]]) -> Features:
    grid_thw = torch.tensor([(1, h, w) for h, w in grids])
    output = checkpoint.model.visual(patches, grid_thw=grid_thw, return_dict=True)
    return Features(output.pooler_output, tuple(getattr(output, "deepstack_features", None) or ()))


def error(got: Features, want: Features) -> float:
    """Largest difference of any level, relative to the level's largest value."""
    levels = list(zip((got.embeds, *got.deepstack), (want.embeds, *want.deepstack), strict=True))
    assert all(g.shape == w.shape for g, w in levels)
    return max(float((g - w).abs().max() / w.abs().max()) for g, w in levels)


@pytest.mark.parametrize("grids", [GRIDS, [(6, 6)], [(4, 4)] * 5], ids=["mixed", "one", "equal"])
def test_equal_to_transformers(checkpoint: Checkpoint, grids: list[tuple[int, int]]) -> None:
    once, repeated = random_patches(grids)
    want = stock(checkpoint, repeated, grids)
    assert want.embeds.abs().max() > 0.1
    assert error(checkpoint.model.encode_images(repeated, grids), want) <= 1e-5
    assert error(checkpoint.model.encode_images(once, grids), want) <= 1e-5


def test_an_image_does_not_depend_on_its_neighbours(checkpoint: Checkpoint) -> None:
    once, _ = random_patches(GRIDS)
    together = checkpoint.model.encode_images(once, GRIDS)
    counts = [h * w for h, w in GRIDS]
    parts = zip(once.split(counts), GRIDS, together.split([n // 4 for n in counts]), strict=True)
    for patches, grid, features in parts:
        assert error(checkpoint.model.encode_images(patches, [grid]), features) <= 1e-5


def test_weights_that_change_in_place_are_seen(checkpoint: Checkpoint) -> None:
    once, repeated = random_patches([(4, 4)])
    weight = checkpoint.model.visual.patch_embed.proj.weight
    with torch.no_grad():
        weight.mul_(1.5)
    try:
        want = stock(checkpoint, repeated, [(4, 4)])
        assert error(checkpoint.model.encode_images(once, [(4, 4)]), want) <= 1e-5
    finally:
        with torch.no_grad():
            weight.div_(1.5)


def test_patches_that_do_not_fit_are_refused(checkpoint: Checkpoint) -> None:
    once, _ = random_patches([(4, 4)])
    with pytest.raises(ValueError, match=r"16 patches, but the grids .* have 24"):
        checkpoint.model.encode_images(once, [(4, 6)])
    with pytest.raises(ValueError, match="patches hold 587 values; this tower takes 1176, or 588"):
        checkpoint.model.encode_images(once[:, 1:], [(4, 4)])


def test_windows_cover_each_image_once() -> None:
    order, lengths = _windows(((6, 10), (2, 2)), merge=2, window=2)
    assert lengths.tolist() == [4, 4, 2, 2, 2, 1, 1]
    assert order.tolist() == [0, 1, 5, 6, 2, 3, 7, 8, 4, 9, 10, 11, 12, 13, 14, 15]
