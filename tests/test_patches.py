"""Patches against transformers' own processor, bit for bit, on every instruction set that this machine has."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from protocols import DIRECT, VZOOM
from transformers import Qwen2VLImageProcessor

from vzoom.config import ZoomConfig
from vzoom.kernels import extension
from vzoom.kernels.frames_to_patches import pillow_step
from vzoom.kernels.frames_to_patches.reference import resize
from vzoom.protocol import builtin_protocol
from vzoom.video.patches import PatchSpec, frames_to_patches, grid_for, resize_frames, smart_resize, value_table

try:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil as Processor
except ModuleNotFoundError:  # transformers 5.0: the plain processor is PIL's
    Processor = Qwen2VLImageProcessor

QWEN2 = PatchSpec()
QWEN3 = PatchSpec(patch_size=16, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
DIRECT, TWO_STEPS = ZoomConfig(protocol=DIRECT), ZoomConfig(protocol=VZOOM)
CONAN, FRAMETHINKER = (ZoomConfig.of(builtin_protocol(name)) for name in ("conan", "framethinker"))

SIZES = [
    (360, 640),  # the usual one
    (64, 64),
    (56, 56),  # no resize at all
    (56, 90),  # one pass only
    (20, 33),  # enlarged to min_pixels
    (45, 700),
    (300, 31),
    (768, 432),  # upright: vertical pass first in Pillow 13
    (1080, 1920),
    (317, 316),  # two steps end in another size than one
]


@pytest.fixture(params=["reference", "scalar", "avx2", "avx512"])
def impl(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "reference":
        yield "reference"
        return
    native = extension.native()
    if native is None:
        pytest.fail("the extension is not installed: pip install .")
    try:
        native.set_isa(request.param)
    except ValueError as error:
        pytest.skip(str(error))
    yield "cpu"
    native.set_isa("auto")


def frames(num: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """Noise with flat black and white parts, so that passes overshoot and clip."""
    rng = np.random.default_rng(seed)
    picture = rng.integers(0, 256, (num, height, width, 3), dtype=np.uint8)
    picture[:, : height // 3, : width // 2] = 0
    picture[:, height // 4 : height // 3, width // 4 :] = 255
    return picture


def processor(spec: PatchSpec, config: ZoomConfig) -> Any:
    return Processor(
        patch_size=spec.patch_size,
        image_mean=list(spec.mean),
        image_std=list(spec.std),
        size={"shortest_edge": config.min_pixels, "longest_edge": config.max_pixels},
    )


def by_transformers(pictures: np.ndarray, spec: PatchSpec, config: ZoomConfig) -> tuple[torch.Tensor, tuple[int, int]]:
    images = [Image.fromarray(p) for p in pictures]
    height, width = pictures.shape[1:3]
    if config.protocol.pixels.resize == "videozoomer" and height * width > config.max_pixels:
        scale = math.sqrt(config.max_pixels / (height * width))
        images = [im.resize((int(width * scale), int(height * scale)), Image.Resampling.LANCZOS) for im in images]
    got = processor(spec, config)(images=images, return_tensors="pt")
    _, h, w = got["image_grid_thw"][0].tolist()
    return got["pixel_values"], (h, w)


@pytest.mark.parametrize("config", [DIRECT, TWO_STEPS], ids=["direct", "two-steps"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_equals_transformers(size: tuple[int, int], config: ZoomConfig, impl: str) -> None:
    pictures = frames(2, *size)
    wanted, grid = by_transformers(pictures, QWEN2, config)
    assert grid_for(*size, config=config, spec=QWEN2) == grid
    got, got_grid = frames_to_patches(pictures, config=config, spec=QWEN2, impl=impl)
    assert got_grid == grid
    assert got.dtype == torch.float32
    assert got.equal(wanted)


@pytest.mark.parametrize("size", [(360, 640), (48, 50), (500, 1300)], ids=str)
def test_equals_transformers_for_qwen3(size: tuple[int, int], impl: str) -> None:
    pictures = frames(3, *size, seed=1)
    wanted, grid = by_transformers(pictures, QWEN3, DIRECT)
    got, got_grid = frames_to_patches(pictures, config=DIRECT, spec=QWEN3, impl=impl)
    assert got_grid == grid == grid_for(*size, config=DIRECT, spec=QWEN3)
    assert got.equal(wanted)


def test_many_random_sizes() -> None:
    rng = random.Random(0)
    for seed in range(40):
        size = rng.randint(8, 500), rng.randint(8, 500)
        config = rng.choice([DIRECT, TWO_STEPS]).override(max_pixels=rng.choice([6272, 20000, 100352]))
        wanted, grid = by_transformers(frames(1, *size, seed=seed), QWEN2, config)
        got, got_grid = frames_to_patches(frames(1, *size, seed=seed), config=config, spec=QWEN2)
        assert got_grid == grid, size
        assert got.equal(wanted), (size, config)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("spec", [QWEN2, QWEN3], ids=["14", "16"])
def test_half_is_the_rounded_float32(dtype: torch.dtype, spec: PatchSpec, impl: str) -> None:
    pictures = frames(1, 200, 300)
    wanted, _ = by_transformers(pictures, spec, DIRECT)
    got, _ = frames_to_patches(pictures, config=DIRECT, spec=spec, dtype=dtype, impl=impl)
    assert got.equal(wanted.to(dtype))


@pytest.mark.parametrize("patch", [6, 20])
def test_other_patch_sizes(patch: int, impl: str) -> None:
    spec = PatchSpec(patch_size=patch, temporal_patch_size=1)
    pictures = frames(2, 130, 190)
    wanted, _ = frames_to_patches(pictures, config=DIRECT, spec=spec, impl="reference")
    got, _ = frames_to_patches(pictures, config=DIRECT, spec=spec, impl=impl)
    assert got.equal(wanted)


def test_no_frames_and_read_only_frames(impl: str) -> None:
    none, grid = frames_to_patches(frames(0, 100, 100), config=DIRECT, spec=QWEN2, impl=impl)
    assert none.shape == (0, 1176)
    assert grid == (8, 8)
    locked = frames(2, 100, 100)
    locked.flags.writeable = False
    got, _ = frames_to_patches(locked[:, :, ::-1], config=DIRECT, spec=QWEN2, impl=impl)
    wanted, _ = frames_to_patches(locked[:, :, ::-1].copy(), config=DIRECT, spec=QWEN2, impl="reference")
    assert got.equal(wanted)


def test_threads_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = frames(3, 300, 500)
    wanted, _ = frames_to_patches(pictures, config=TWO_STEPS, spec=QWEN2)
    torch.set_num_threads(2)
    try:
        got, _ = frames_to_patches(pictures, config=TWO_STEPS, spec=QWEN2)
        one, _ = frames_to_patches(pictures[:1], config=TWO_STEPS, spec=QWEN2)
    finally:
        torch.set_num_threads(1)
    assert got.equal(wanted)
    assert one.equal(wanted[: len(one)])


def test_order_of_passes_is_asked_of_pillow() -> None:
    """Both orders occur with some Pillow; whichever is chosen gives what Pillow gives."""
    for old, new in [((300, 40), (100, 39)), ((40, 300), (39, 100)), ((200, 200), (150, 150))]:
        step = pillow_step(old, new, "lanczos")
        picture = frames(1, *old, seed=9)
        wanted = np.asarray(Image.fromarray(picture[0]).resize(new[::-1], Image.Resampling.LANCZOS))
        assert np.array_equal(resize(picture, step)[0], wanted)
    other = step._replace(vertical_first=not step.vertical_first)
    assert not np.array_equal(resize(picture, other)[0], wanted), "the orders do not differ: the test shows nothing"


def test_spec_is_read_from_the_checkpoint(tmp_path: Path) -> None:
    processor(QWEN3, DIRECT).save_pretrained(tmp_path)
    data = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert PatchSpec.from_dict(data, "here") == QWEN3
    with pytest.raises(ValueError, match="here: image_mean missing"):
        PatchSpec.from_dict({k: v for k, v in data.items() if k != "image_mean"}, "here")
    with pytest.raises(ValueError, match="CLIPImageProcessor"):
        PatchSpec.from_dict(data | {"image_processor_type": "CLIPImageProcessor"}, "here")


@pytest.mark.parametrize("config", [DIRECT, TWO_STEPS], ids=["direct", "two-steps"])
def test_frames_kept_at_the_models_size_give_the_same_patches(config: ZoomConfig, impl: str) -> None:
    pictures = frames(2, 360, 640)
    pictures.flags.writeable = False
    kept = resize_frames(pictures, config=config, spec=QWEN2, impl=impl)
    assert kept.shape == (2, 224, 420, 3)
    assert resize_frames(kept, config=config, spec=QWEN2, impl=impl).tobytes() == kept.tobytes()
    wanted, grid = frames_to_patches(pictures, config=config, spec=QWEN2, impl=impl)
    got, got_grid = frames_to_patches(kept, config=config, spec=QWEN2, impl=impl)
    assert got_grid == grid
    assert got.equal(wanted)


def public_conan(image: Image.Image) -> Image.Image:
    """Its longer side is 448 pixels at most."""
    width, height = image.size
    if max(width, height) <= 448:
        return image
    if width > height:
        return image.resize((448, int(height * (448 / width))), Image.Resampling.LANCZOS)
    return image.resize((int(width * (448 / height)), 448), Image.Resampling.LANCZOS)


@pytest.mark.parametrize("size", [(1080, 1920), (448, 300), (768, 432), (500, 500), (317, 449)], ids=str)
def test_a_box_shrinks_as_conan_does_and_only_once(size: tuple[int, int], impl: str) -> None:
    pictures = frames(2, *size)
    shrunk = np.stack([np.asarray(public_conan(Image.fromarray(picture))) for picture in pictures])
    wanted, grid = by_transformers(shrunk, QWEN2, CONAN)
    got, got_grid = frames_to_patches(pictures, config=CONAN, spec=QWEN2, impl=impl)
    assert got_grid == grid == grid_for(*size, config=CONAN, spec=QWEN2)
    assert got.equal(wanted)
    kept = resize_frames(pictures, config=CONAN, spec=QWEN2, impl=impl)
    assert frames_to_patches(kept, config=CONAN, spec=QWEN2, impl=impl)[0].equal(wanted)


def public_framethinker(height: int, width: int, duration_seconds: float) -> tuple[int, int]:
    """640 x 360 pixels at most, 448 x 252 of videos above 300 s; then the processor's size, which is all there is."""
    most_wide, most_high = (448, 252) if duration_seconds > 300 else (640, 360)
    if width > most_wide or height > most_high:
        ratio = min(most_wide / width, most_high / height)
        height, width = int(height * ratio), int(width * ratio)
    return smart_resize(height, width, factor=28, min_pixels=3136, max_pixels=12845056)


def test_a_protocol_may_show_long_videos_smaller() -> None:
    rng = random.Random(5)
    sizes = [(1080, 1920), (1920, 1080), (480, 640)]
    sizes += [(rng.randrange(240, 2200), rng.randrange(240, 2200)) for _ in range(500)]
    for height, width in sizes:
        for duration in (300.0, 300.1):
            config = FRAMETHINKER.for_video(duration)
            wanted = public_framethinker(height, width, duration)
            assert grid_for(height, width, config=config, spec=QWEN2) == (wanted[0] // 14, wanted[1] // 14)
            # Frames that were made smaller stay as they are, also for whoever does not know how long the video is.
            assert grid_for(*wanted, config=FRAMETHINKER, spec=QWEN2) == (wanted[0] // 14, wanted[1] // 14)
    assert grid_for(1080, 1920, config=FRAMETHINKER.for_video(301), spec=QWEN2) == (18, 32)
    assert TWO_STEPS.for_video(10_000) is TWO_STEPS
    kept = resize_frames(frames(1, 720, 1280), config=FRAMETHINKER, spec=QWEN2)
    assert kept.shape == (1, 364, 644, 3)  # more than 640 x 360: to the nearest multiples of 28
    assert resize_frames(kept, config=FRAMETHINKER, spec=QWEN2).tobytes() == kept.tobytes()


def test_grid_is_within_the_budget() -> None:
    rng = random.Random(3)
    for _ in range(500):
        height, width = rng.randint(30, 2200), rng.randint(30, 2200)
        if max(height, width) > 20 * min(height, width):
            continue
        h, w = grid_for(height, width, config=TWO_STEPS, spec=QWEN2)
        assert h % 2 == w % 2 == 0
        assert h * w // 4 <= 128


def test_table_is_exact_at_both_ends() -> None:
    table = value_table(QWEN3, torch.float32)
    assert table[:, 0].tolist() == [-1.0] * 3
    assert table[:, 255].tolist() == [1.0] * 3


def test_wrong_frames_are_named() -> None:
    with pytest.raises(ValueError, match=r"must be uint8 \[N, H, W, 3\], got float32"):
        frames_to_patches(np.zeros((1, 30, 30, 3), np.float32), config=DIRECT, spec=QWEN2)
    with pytest.raises(ValueError, match=r"got uint8 \(30, 30, 3\)"):
        frames_to_patches(np.zeros((30, 30, 3), np.uint8), config=DIRECT, spec=QWEN2)
    with pytest.raises(ValueError, match="200 : 1"):
        smart_resize(1, 300, factor=28, min_pixels=1, max_pixels=1000)
