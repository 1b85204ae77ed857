"""What fills the image tokens: pixels bit for bit as transformers' processor makes them, features each made once."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from checkpoints import stock_processor
from training import lesson, lessons, policy_of, small_video

from vzoom.data.store import read
from vzoom.models import Checkpoint, load_checkpoint
from vzoom.models.encode import encode_clips
from vzoom.models.feature_cache import FeatureCache
from vzoom.train.common.feature_rows import FileRows, MemoryRows
from vzoom.train.common.features import FrozenFeatures, Pixels, Tower, read_frames, version_of
from vzoom.train.common.samples import Sample, from_record
from vzoom.video import ClipCache
from vzoom.video.patches import PatchBuffer
from vzoom.zoomer import embedded_path


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return load_checkpoint(str(embedded_path()), device="cpu")


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory, checkpoint: Checkpoint) -> list[Sample]:
    questions, _ = lessons(tmp_path_factory.mktemp("lessons"), num_videos=2)
    policy = policy_of(checkpoint)
    return [from_record(lesson(q, i), policy.vocabulary) for i, q in enumerate(read(questions))]


def frozen(checkpoint: Checkpoint, **settings: object) -> FrozenFeatures:
    return FrozenFeatures(checkpoint.model, checkpoint.patch_spec, **settings)  # type: ignore[arg-type]


def one_by_one(samples: list[Sample], checkpoint: Checkpoint) -> torch.Tensor:
    """Every frame of every sample, read and encoded on its own."""
    spec = checkpoint.patch_spec
    rows = []
    for sample in samples:
        for frame in sample.frames:
            clip = read_frames(sample, frame.pts_seconds, cache=ClipCache(), spec=spec)
            assert clip.pts_seconds == frame.pts_seconds
            found, _ = encode_clips(
                [(clip, sample.config)], checkpoint.model, spec=spec, cache=FeatureCache(0), buffer=PatchBuffer()
            )
            rows.append(found[0].embeds)
    return torch.cat(rows)


def test_features_are_those_of_the_frames_in_order(samples: list[Sample], checkpoint: Checkpoint) -> None:
    visuals = frozen(checkpoint)
    torch.testing.assert_close(visuals.find(samples)(), one_by_one(samples, checkpoint), atol=1e-5, rtol=0)
    again = [samples[2], samples[0]]
    torch.testing.assert_close(visuals.find(again)(), one_by_one(again, checkpoint), atol=1e-5, rtol=0)


def test_each_frame_is_encoded_once(samples: list[Sample], checkpoint: Checkpoint) -> None:
    visuals = frozen(checkpoint)
    distinct = {(frame.path, frame.pts_seconds) for sample in samples for frame in sample.frames}
    for _ in range(2):
        for sample in samples:
            visuals.find([sample])()
    assert visuals.num_encoded == len(distinct) < sum(len(sample.frames) for sample in samples)


def test_a_trainers_tower_is_the_engines(samples: list[Sample], checkpoint: Checkpoint) -> None:
    from transformers import AutoModelForImageTextToText

    hf = AutoModelForImageTextToText.from_pretrained(embedded_path())
    made = FrozenFeatures(Tower(hf), checkpoint.patch_spec).find(samples)()
    assert torch.equal(made, frozen(checkpoint).find(samples)())


def test_pixels_are_those_of_the_stock_processor(samples: list[Sample], checkpoint: Checkpoint) -> None:
    processor = stock_processor(embedded_path())
    made = Pixels(checkpoint.patch_spec).find(samples)()
    frames = []
    for sample in samples:
        for frame in sample.frames:
            clip = read_frames(sample, frame.pts_seconds, cache=ClipCache(), spec=checkpoint.patch_spec)
            frames.append(clip.frames[0])
    want = processor(images=frames, do_resize=False, return_tensors="pt")
    assert torch.equal(made, want["pixel_values"])
    grids = [(1, *frame.grid_hw) for sample in samples for frame in sample.frames]
    assert want["image_grid_thw"].tolist() == [list(grid) for grid in grids]


def test_a_file_keeps_features_for_the_next_run(tmp_path: Path, samples: list[Sample], checkpoint: Checkpoint) -> None:
    version = version_of(checkpoint.model.visual)
    want = frozen(checkpoint).find(samples)()
    first = frozen(checkpoint, file=tmp_path / "f", version=version)
    assert torch.equal(first.find(samples)(), want)
    second = frozen(checkpoint, file=tmp_path / "f", version=version)
    assert torch.equal(second.find(samples)(), want)
    assert (first.num_encoded > 0, second.num_encoded) == (True, 0)
    # A kill in the middle of a line, and of rows that no line names.
    index, rows = tmp_path / "f" / "index.jsonl", tmp_path / "f" / "rows.bin"
    index.write_text(index.read_text()[:-5])
    with rows.open("ab") as file:
        file.write(b"\x01" * 77)
    third = frozen(checkpoint, file=tmp_path / "f", version=version)
    torch.testing.assert_close(third.find(samples)(), want, atol=1e-5, rtol=0)  # one frame alone: the last digits
    assert third.num_encoded == 1
    other = frozen(checkpoint, file=tmp_path / "f", version="of other weights")
    assert torch.equal(other.find(samples)(), want)
    assert other.num_encoded == first.num_encoded


def test_rows_in_memory_and_in_a_file(tmp_path: Path) -> None:
    held = MemoryRows(), FileRows(tmp_path / "r", dtype=torch.bfloat16, version="1")
    for rows in held:
        for i in range(40):
            rows.add(("k", i), torch.full((50, 3), float(i), dtype=torch.bfloat16))
        start, count = rows.span(("k", 7))
        assert count == 50
        assert ("k", 40) not in rows
        taken = rows.take(torch.tensor([start, start + 49, rows.span(("k", 39))[0]]))
        assert taken.dtype == torch.bfloat16
        assert taken[:, 0].tolist() == [7.0, 7.0, 39.0]
    assert json.loads((tmp_path / "r" / "index.jsonl").read_text().splitlines()[0])["version"] == "1"


def test_another_video_is_noticed(tmp_path: Path, samples: list[Sample], checkpoint: Checkpoint) -> None:
    video = small_video(tmp_path, 5)
    other = replace(samples[0], video=replace(samples[0].video, path=video.path))
    with pytest.raises(ValueError, match="another file now"):
        read_frames(other, [0.0], cache=ClipCache(), spec=checkpoint.patch_spec)
    later = replace(samples[0], frames=(replace(samples[0].frames[0], pts_seconds=(99.0,)),))
    with pytest.raises(ValueError, match=r"names 1 frames .* but there are 0"):
        frozen(checkpoint).find([later])()
    larger = replace(samples[0], frames=(replace(samples[0].frames[0], grid_hw=(8, 8)),))
    with pytest.raises(ValueError, match=r"\(8, 8\) patches, but .* gives \(4, 4\)"):
        frozen(checkpoint).find([larger])()
