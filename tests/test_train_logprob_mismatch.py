"""Engine and trainer give what was sampled the same probabilities, and if they do not the run stops."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from protocols import BRIEF

from vzoom.config import Sampling, ZoomConfig
from vzoom.data.record import Record
from vzoom.data.store import read
from vzoom.engine.engine import Engine
from vzoom.engine.request import Request
from vzoom.engine.session import Session
from vzoom.models import load_checkpoint
from vzoom.models.checkpoint.vocabulary import vocabulary_of
from vzoom.protocol.render import render_turn
from vzoom.synthetic.dataset import write_questions
from vzoom.train.common.collate import CollatedBatch
from vzoom.train.common.policy import PolicyModel, load_policy, token_logprobs
from vzoom.train.common.samples import Sample, from_trajectory, sampled_index
from vzoom.train.recipes.recipe import GRPORecipe
from vzoom.train.rl.logprob_mismatch import LogprobMismatch, LogprobMismatchError, mismatch_of
from vzoom.types import Finished, ZoomCall
from vzoom.video import ClipCache
from vzoom.zoomer import embedded_path

from .training import WORLD, ZOOM

BASE = str(embedded_path())


@pytest.fixture(scope="module")
def policy() -> PolicyModel:
    return load_policy(BASE, GRPORecipe(gradient_checkpointing=False))


class Led(Session):
    """Zooms `num_zooms` times whatever the model wants, then lets it write. Only what it writes counts as sampled."""

    def __init__(self, num_zooms: int, *args: Any) -> None:
        super().__init__(*args)
        calls = [ZoomCall(4.0 * n, 4.0 * n + 2.5, 2) for n in range(num_zooms)]
        text = "".join(
            render_turn(f"The red scene is from {4 * n} to {4 * n + 2.5}.", c, BRIEF) for n, c in enumerate(calls)
        )
        self.script = self.vocabulary.codec.encode(text)

    def fork(self, sampling: Sampling) -> Led:
        other = super().fork(sampling)
        other.script = list(self.script)
        return other

    def accept(self, token: int, logprob: float) -> str:
        if not self.script:
            return super().accept(token, logprob)
        said = super().accept(self.script.pop(0), 0.0)
        self.trajectory.sampled[-1] = False
        return said


@pytest.fixture(scope="module")
def rollouts(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Sample, int]]:
    """At least 100 conversations at 56 x 56 px with 0 to 4 zooms, and how many zooms each has."""
    return roll_out(tmp_path_factory.mktemp("world"), ZOOM, num_videos=4)


def roll_out(folder: Path, zoom: ZoomConfig, *, num_videos: int) -> list[tuple[Sample, int]]:
    checkpoint = load_checkpoint(BASE)
    records = list(read(write_questions(folder, "which", num_videos, WORLD, zoom=zoom)))
    engine = Engine(checkpoint, max_total_tokens=zoom.max_total_tokens, max_sessions=32, overlap=False)
    clips = ClipCache()
    owners: dict[int, Record] = {}
    for record in records:
        for num_zooms in range(5):
            opened = partial(clips.open, record.video.path, config=zoom, spec=checkpoint.patch_spec)
            sampling = Sampling(temperature=1.6, seed=100 * len(owners))
            job = Request(opened, record.question, zoom, sampling, num_rollouts=5, session=partial(Led, num_zooms))
            first = engine.add(job)
            owners |= {first + i: record for i in range(5)}
    done = [(e.request_id, e.trajectory) for e in engine.events() if isinstance(e, Finished)]
    vocabulary = vocabulary_of(checkpoint)
    return [
        (from_trajectory(t, zoom, vocabulary, id=f"{owners[i].id}, {i}", video=owners[i].video), len(t.zooms))
        for i, t in sorted(done, key=lambda pair: pair[0])
    ]


def mismatch_between(rollouts: list[tuple[Sample, int]], policy: PolicyModel) -> LogprobMismatch:
    parts = []
    samples = sorted((s for s, _ in rollouts), key=len)
    with torch.no_grad():
        for i in range(0, len(samples), 10):
            some = samples[i : i + 10]
            logp_BT, _ = token_logprobs(
                policy.model, policy.collate(some, targets="sampled").to("cpu"), temperature=1.6
            )
            rows = [row[np.flatnonzero(s.sampled)].numpy() for s, row in zip(some, logp_BT, strict=True)]
            parts += [mismatch_of(s, row, policy.vocabulary) for s, row in zip(some, rows, strict=True)]
    return LogprobMismatch.sum(parts)


def test_a_hundred_conversations_with_0_to_4_zooms_agree(
    rollouts: list[tuple[Sample, int]], policy: PolicyModel
) -> None:
    assert len(rollouts) >= 100
    counts = Counter(zooms for _, zooms in rollouts)
    assert set(counts) == {0, 1, 2, 3, 4}
    assert min(counts.values()) >= 10
    assert all(frame.grid_hw == (4, 4) for sample, _ in rollouts for frame in sample.frames)  # 56 x 56 px, 4 tokens
    found = mismatch_between(rollouts, policy)
    assert found.count == sum(int(s.sampled.sum()) for s, _ in rollouts)
    assert found.mean <= 1e-5  # 1e-3 is allowed
    assert found.worst <= 1e-3
    found.check(1e-3)


@pytest.mark.parametrize("cache_features", [False, True])
def test_conversations_of_video_tokens_agree(tmp_path: Path, cache_features: bool) -> None:
    """Pairs of frames, the last of an odd number alone; features that are kept, and pixels that the tower sees."""
    shown = ZOOM.protocol.override(name="video tokens", frame={"encoding": "video"})
    rollouts = roll_out(tmp_path, replace(ZOOM, protocol=shown), num_videos=1)
    assert {len(frame.pts_seconds) for sample, _ in rollouts for frame in sample.frames} == {1, 2}
    assert all(frame.is_video for sample, _ in rollouts for frame in sample.frames)
    part = GRPORecipe(gradient_checkpointing=False, cache_features=cache_features, freeze_vision=True)
    found = mismatch_between(rollouts, load_policy(BASE, part))
    assert found.count > 300
    assert found.mean <= 1e-5
    assert found.worst <= 1e-3


def positions_plus_one(batch: dict[str, torch.Tensor]) -> None:
    """The defect of the public code: positions that go on by 1 through the images."""
    length = batch["input_ids"].shape[1]
    batch["position_ids"] = torch.arange(length).expand(batch["position_ids"].shape).clone()


def later_by_one(batch: dict[str, torch.Tensor]) -> None:
    """Rows and columns of an image one too far, and nothing else."""
    is_image = batch["position_ids"][0] != batch["position_ids"][1]
    batch["position_ids"][1:, is_image] += 1


def other_frames(batch: dict[str, torch.Tensor]) -> None:
    batch["pixel_values"] = batch["pixel_values"].roll(4, 0)


@pytest.mark.parametrize("bug", [positions_plus_one, later_by_one, other_frames])
def test_a_planted_bug_is_found_and_placed(
    rollouts: list[tuple[Sample, int]], policy: PolicyModel, monkeypatch: pytest.MonkeyPatch, bug: Any
) -> None:
    from vzoom.train.common import policy as module

    right = module.collate

    def wrong(*args: Any, **settings: Any) -> CollatedBatch:
        batch = right(*args, **settings)
        inputs = batch.to("cpu")
        bug(inputs)
        pixel_values = inputs.pop("pixel_values")
        return replace(batch, tokens=inputs, pixels={"pixel_values": lambda: pixel_values})

    monkeypatch.setattr(module, "collate", wrong)
    found = mismatch_between(rollouts[:20], policy)
    with pytest.raises(LogprobMismatchError, match=r"differ by .*, 0\.001 is allowed; most in which-training-"):
        found.check(1e-3)


def sample_of(logprobs: list[float], sampled: list[int], tmp_path: Path) -> Sample:
    from vzoom.data.record import VideoRef

    video = VideoRef("v.mp4", "0" * 64, 32.0, 8.0, 84, 84)
    n = len(sampled)
    mask = np.array(sampled, bool)
    ids = np.arange(10, 10 + n)
    positions = np.zeros((3, n), np.int64)
    return Sample("q, rollout 3", video, ZOOM, ids, positions, mask, mask, (), np.array(logprobs, np.float32))


def test_the_largest_difference_is_named_by_turn_and_token(policy: PolicyModel, tmp_path: Path) -> None:
    sample = sample_of([0, -1, -2, 0, 0, -3, -4, -5], [0, 1, 1, 0, 0, 1, 1, 1], tmp_path)
    found = mismatch_of(sample, np.array([-1.0, -2.0, -3.0, -4.5, -5.25]), policy.vocabulary)
    assert (found.total, found.count, found.worst) == (0.75, 5, 0.5)
    assert found.where.startswith("q, rollout 3, turn 2, its token 2, ")
    assert "at 6 of 8: engine -4.0000, trainer -4.5000" in found.where
    first = mismatch_of(sample, np.array([-1.5, -2.0, -3.0, -4.0, -5.0]), policy.vocabulary)
    assert first.where.startswith("q, rollout 3, turn 1, its token 1, ")
    both = LogprobMismatch.sum([found, first, LogprobMismatch()])
    assert (both.total, both.count, both.worst, both.where) == (1.25, 10, 0.5, found.where)
    with pytest.raises(
        LogprobMismatchError, match=r"of 10 sampled tokens differ by 0\.125 on average, 0\.1 is allowed"
    ):
        both.check(0.1)
    both.check(0.125)
    with pytest.raises(LogprobMismatchError):
        mismatch_of(sample, np.full(5, np.nan), policy.vocabulary).check(100.0)
    with pytest.raises(ValueError, match="4 log-probabilities for 5 tokens"):
        mismatch_of(sample, np.zeros(4), policy.vocabulary)


def test_the_index_finds_the_sampled_tokens(tmp_path: Path) -> None:
    samples = [sample_of([0.0] * 4, [0, 1, 0, 1], tmp_path), sample_of([0.0] * 4, [0, 0, 1, 0], tmp_path)]
    index, mask = sampled_index(samples)
    assert index.tolist() == [[1, 3], [2, 0]]
    assert mask.tolist() == [[True, True], [True, False]]
