"""Each distinct frame goes through the vision tower once, and what comes back is the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from checkpoints import make_checkpoint
from protocols import DIRECT

from vzoom.config import ZoomConfig
from vzoom.models import Checkpoint, load_checkpoint
from vzoom.models.encode import encode_clips
from vzoom.models.feature_cache import FeatureCache
from vzoom.models.features import Features
from vzoom.types import Clip
from vzoom.video.patches import PatchBuffer

CONFIG = ZoomConfig(protocol=DIRECT)


@pytest.fixture(scope="module", params=["qwen2_5_vl", "qwen3_vl"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return load_checkpoint(str(make_checkpoint(request.param, tmp_path_factory.mktemp("vision"))))


def clip(*seeds: int, size_hw: tuple[int, int] = (56, 84)) -> Clip:
    frames = [np.random.default_rng(s).integers(0, 256, (*size_hw, 3), dtype=np.uint8) for s in seeds]
    return Clip(np.stack(frames), tuple(map(float, seeds)), seeds, (False,) * len(seeds))


def encode(checkpoint: Checkpoint, cache: FeatureCache, *clips: Clip, config: ZoomConfig = CONFIG) -> list[Features]:
    pairs = [(c, config) for c in clips]
    return encode_clips(pairs, checkpoint.model, spec=checkpoint.patch_spec, cache=cache, buffer=PatchBuffer())[0]


def levels(features: Features) -> Sequence[torch.Tensor]:
    return (features.embeds, *features.deepstack)


def test_a_frame_is_encoded_once_whoever_asks(checkpoint: Checkpoint) -> None:
    cache = FeatureCache()
    first, second = encode(checkpoint, cache, clip(1, 2, 3), clip(3, 4, 1))
    assert (cache.stats().misses, cache.stats().hits) == (4, 0)
    (third,) = encode(checkpoint, cache, clip(4, 5, 2))
    assert (cache.stats().misses, cache.stats().hits) == (5, 2)
    for got, wanted in ((first, (1, 2, 3)), (second, (3, 4, 1)), (third, (4, 5, 2))):
        (alone,) = encode(checkpoint, FeatureCache(), clip(*wanted))
        for ours, theirs in zip(levels(got), levels(alone), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_sizes_and_settings_are_told_apart(checkpoint: Checkpoint) -> None:
    cache = FeatureCache()
    flat = clip(1)
    turned = Clip(flat.frames.reshape(1, 84, 56, 3), flat.pts_seconds, flat.frame_indices, flat.clamped)
    encode(checkpoint, cache, flat, turned)  # the same bytes
    encode(checkpoint, cache, flat, config=dataclasses.replace(CONFIG, max_pixels=3136))
    assert (cache.stats().misses, cache.stats().hits) == (3, 0)


def test_what_is_held_stays_within_its_bytes(checkpoint: Checkpoint) -> None:
    (one,) = encode(checkpoint, FeatureCache(), clip(1))
    cache = FeatureCache(max_bytes=2 * one.num_bytes)
    encode(checkpoint, cache, clip(1, 2))
    encode(checkpoint, cache, clip(1))  # 2 is the one not used for longest now
    encode(checkpoint, cache, clip(3))
    assert (cache.stats().evictions, cache.stats().num_frames) == (1, 2)
    assert cache.stats().num_bytes == 2 * one.num_bytes
    encode(checkpoint, cache, clip(1))
    assert cache.stats().misses == 3
    cache.clear()
    assert cache.stats().num_bytes == cache.stats().num_frames == 0
    tiny = FeatureCache(max_bytes=one.num_bytes - 1)
    encode(checkpoint, tiny, clip(1))
    assert tiny.stats().num_frames == 0
    with pytest.raises(ValueError, match="max_bytes must be 0 or more"):
        FeatureCache(max_bytes=-1)


def test_what_is_kept_owns_its_memory(checkpoint: Checkpoint) -> None:
    """A view would keep the features of the whole batch alive, uncounted."""
    cache = FeatureCache()
    encode(checkpoint, cache, clip(1, 2, 3, 4))
    for features in cache._held.values():
        assert all(level.untyped_storage().nbytes() == level.nbytes for level in levels(features))
