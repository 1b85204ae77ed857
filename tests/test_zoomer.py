"""The front door, on a rendered file and a random model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from checkpoints import make_checkpoint, stock_processor
from protocols import DIRECT

import vzoom
from vzoom.synthetic import make_video, render
from vzoom.types import Finished, TextDelta, TurnOpened
from vzoom.video import ClipCache, VideoError, open_video
from vzoom.video.patches import frames_to_patches

CONFIG = vzoom.ZoomConfig(max_pixels=56 * 84, max_new_tokens=8, max_zooms=1, glance_max_frames=6)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "world.mp4"
    render(make_video(1), path)
    return path


@pytest.fixture(scope="module")
def zoomer(tmp_path_factory: pytest.TempPathFactory) -> vzoom.Zoomer:
    return vzoom.load(make_checkpoint("qwen2_5_vl", tmp_path_factory.mktemp("model")), device="cpu", config=CONFIG)


def test_ask_returns_what_happened(zoomer: vzoom.Zoomer, video: Path) -> None:
    events = []
    result = zoomer.ask(video, "What?", on_event=events.append)
    assert len(result.glance) == 6
    assert result.trajectory.glance_seconds == result.glance.pts_seconds
    assert isinstance(events[0], TurnOpened)
    assert isinstance(events[-1], Finished)
    assert any(isinstance(e, TextDelta) for e in events)
    assert 0 < sum(sum(t.milliseconds.values()) for t in result.trajectory.turns) <= result.seconds * 1e3


def test_batch_answers_in_order_and_equals_one_by_one(zoomer: vzoom.Zoomer, video: Path) -> None:
    questions = [f"What is thing {i}?" for i in range(3)]
    together = zoomer.ask_many([(video, q) for q in questions], max_sessions=2)
    assert [r.trajectory.question for r in together] == questions
    assert [r.trajectory.ids for r in together] == [zoomer.ask(video, q).trajectory.ids for q in questions]
    assert zoomer.ask_many([]) == []


def test_sampled_sessions_of_a_batch_differ(zoomer: vzoom.Zoomer, video: Path) -> None:
    sampling = vzoom.Sampling(temperature=1.0, seed=3)
    a, b = zoomer.ask_many([(video, "What?")] * 2, sampling=sampling)
    again = zoomer.ask(video, "What?", sampling=sampling)
    assert a.trajectory.ids == again.trajectory.ids != b.trajectory.ids


def test_rollouts_share_the_glance(zoomer: vzoom.Zoomer, video: Path) -> None:
    zoomer.feature_cache.clear()
    before = zoomer.feature_cache.stats().misses
    sampling = vzoom.Sampling(temperature=1.0, seed=3)
    group = zoomer.rollouts(video, "What?", 3, sampling=sampling)
    assert len(group) == 3
    seen = {index for r in group for clip in (r.glance, *r.clips) for index in clip.frame_indices}
    assert zoomer.feature_cache.stats().misses == before + len(seen)
    assert [r.trajectory.ids for r in group] == [
        zoomer.ask(video, "What?", sampling=vzoom.Sampling(temperature=1.0, seed=3 + i)).trajectory.ids
        for i in range(3)
    ]
    assert len({r.trajectory.turns[0].text for r in zoomer.rollouts(video, "What?", 4)}) > 1  # warm by default
    with pytest.raises(ValueError, match="num_rollouts must be 1 or more"):
        zoomer.rollouts(video, "What?", 0)


def test_one_bad_video_is_an_exception(zoomer: vzoom.Zoomer, video: Path, tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="nowhere"):
        zoomer.ask_many([(video, "What?"), (tmp_path / "nowhere.mp4", "What?")])


def test_a_second_question_decodes_nothing(zoomer: vzoom.Zoomer, video: Path) -> None:
    zoomer.ask(video, "What?", max_zooms=0)
    before = zoomer.clip_cache.stats()
    zoomer.ask(video, "And now?", max_zooms=0)
    after = zoomer.clip_cache.stats()
    assert after.misses == before.misses
    assert after.hits == before.hits + 6


def test_cached_frames_give_the_patches_of_the_decoded_ones(zoomer: vzoom.Zoomer, video: Path) -> None:
    spec = zoomer.checkpoint.patch_spec
    times = [0.0, 3.5, 40.0]
    with open_video(video) as reader:
        raw = reader.frames_at(times).frames
    cached = ClipCache().open(video, config=CONFIG, spec=spec).frames_at(times).frames
    assert cached.shape[1] * cached.shape[2] <= CONFIG.max_pixels < raw.shape[1] * raw.shape[2]
    want, grid = frames_to_patches(raw, config=CONFIG, spec=spec)
    got, same_grid = frames_to_patches(cached, config=CONFIG, spec=spec)
    assert grid == same_grid
    assert got.equal(want)


def test_direct_resize_equals_the_stock_processor(zoomer: vzoom.Zoomer, video: Path) -> None:
    config = vzoom.ZoomConfig(max_pixels=56 * 84, protocol=DIRECT)
    spec = zoomer.checkpoint.patch_spec
    with open_video(video) as reader:
        frames = reader.frames_at([1.0, 2.0]).frames
    processor = stock_processor(zoomer.checkpoint.name)
    size = {"shortest_edge": config.min_pixels, "longest_edge": config.max_pixels}
    want = processor(images=list(frames), size=size, return_tensors="np")["pixel_values"]
    got, _ = frames_to_patches(frames, config=config, spec=spec)
    assert np.array_equal(got.numpy(), want)


def test_user_errors_are_one_line(zoomer: vzoom.Zoomer, video: Path, tmp_path: Path) -> None:
    for path in (tmp_path / "missing.mp4", tmp_path):
        with pytest.raises(VideoError, match=path.name) as caught:
            zoomer.ask(path, "What?")
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="question is empty"):
        zoomer.ask(video, "")
    with pytest.raises(ValueError, match="max_zooms must be 0 or more"):
        zoomer.ask(video, "What?", max_zooms=-1)
