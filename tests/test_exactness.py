"""Splicing is exact: every sampled position sees the logits of a from-scratch prefill by stock transformers."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import FAMILIES, as_published, make_checkpoint, stock_processor
from exactness import CONFIG, exactness_error, run_scripted

from vzoom.engine import session
from vzoom.engine.kv_cache import BlockTable
from vzoom.engine.running_session import RunningSession
from vzoom.engine.session import NeedTokens
from vzoom.models import Checkpoint, load_checkpoint
from vzoom.protocol import mrope as positions
from vzoom.protocol.tokenize import TokenSpan
from vzoom.types import StopReason

TOLERANCE = 1e-5  # of the largest logit; two float32 orders of summation differ by about 1e-6


def zoom(start: float, end: float, fps: float, thought: str = "hm") -> str:
    return f'<think>{thought}</think><video_zoom>{{"segment": [{start}, {end}], "fps": {fps}}}</video_zoom>'


FOUR_ZOOMS = [zoom(8, 16, 2), zoom(40.5, 44.5, 4, "elsewhere"), zoom(100, 108, 2, "é 東"), zoom(16, 20, 4)]
ANSWER = "<think>seen</think><answer>B</answer>"


@pytest.fixture(scope="module", params=FAMILIES)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return load_checkpoint(str(make_checkpoint(request.param, tmp_path_factory.mktemp(request.param))))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return load_checkpoint(str(make_checkpoint("qwen2_5_vl", tmp_path_factory.mktemp("small"))))


def stock(checkpoint: Checkpoint) -> tuple[Any, Any]:
    """A second copy of the model, loaded by transformers alone, and its own image processor."""
    from transformers import AutoModelForImageTextToText

    return AutoModelForImageTextToText.from_pretrained(checkpoint.name).eval(), stock_processor(checkpoint.name)


def test_four_zooms_equal_a_full_prefill(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded, engine = run_scripted(monkeypatch, checkpoint, {"Which one?": [*FOUR_ZOOMS, ANSWER]})
    one = recorded["Which one?"]
    trajectory = one.trajectory
    assert trajectory is not None
    assert (trajectory.answer, trajectory.stop_reason) == ("B", StopReason.ANSWERED)
    assert [len(clip) for clip in one.clips] == [64, 16, 16, 16, 16]
    assert one.clips[0].frames.shape[1:3] != one.clips[1].frames.shape[1:3]
    hf, processor = stock(checkpoint)
    error, same_positions = exactness_error(hf, one, processor)
    assert same_positions
    assert error <= TOLERANCE
    # Every token was fed once, whatever was zoomed: all of them but the last, which nothing follows.
    assert engine.tokens_fed == len(trajectory.ids) - 1
    assert sum(turn.num_prefilled + turn.num_sampled - 1 for turn in trajectory.turns) == engine.tokens_fed
    assert engine.pool.num_free == engine.pool.num_blocks


def test_interleaved_sessions_do_not_disturb_each_other(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripts = {"First?": [zoom(8, 12, 2), ANSWER], "And the second?": [zoom(64, 72, 2), zoom(1, 2, 5), ANSWER]}
    recorded, _ = run_scripted(monkeypatch, checkpoint, scripts)
    hf, processor = stock(checkpoint)
    for one in recorded.values():
        error, same_positions = exactness_error(hf, one, processor)
        assert same_positions
        assert error <= TOLERANCE


TIGHT = dataclasses.replace(CONFIG, glance_max_frames=16, max_total_tokens=2560, max_new_tokens=256)
SCARCE = {"pool_tokens": TIGHT.max_total_tokens}

GROUP = {
    "Which?": [zoom(8, 12, 2), ANSWER],
    "later": [zoom(64, 72, 2), zoom(1, 2, 5), ANSWER],
    "same call": [zoom(8, 12, 2), ANSWER],
    "no zoom": [ANSWER],
}


def test_a_group_that_shares_its_glance_is_exact(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded, engine = run_scripted(monkeypatch, checkpoint, GROUP, group=True)
    hf, processor = stock(checkpoint)
    for one in recorded.values():
        error, same_positions = exactness_error(hf, one, processor)
        assert same_positions
        assert error <= TOLERANCE
    trajectories = [one.trajectory for one in recorded.values() if one.trajectory]
    prompt = trajectories[0].turns[0].num_prefilled
    assert engine.tokens_fed == prompt + sum(len(t.ids) - 1 - prompt for t in trajectories)  # the glance once
    features = engine.stats().features
    distinct = {v.pts_seconds for t in trajectories for v in t.visuals[64:]}
    assert features.misses == 64 + len(distinct)
    assert engine.pool.num_free == engine.pool.num_blocks


def test_preempted_sessions_are_exact(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages for one conversation as long as it may be, four that want them."""
    scripts = {name: [zoom(start, start + 8, 2), zoom(start + 1, start + 3, 4), ANSWER] for name, start in
               (("a?", 8), ("b?", 16), ("c?", 64), ("d?", 65))}  # fmt: skip
    recorded, engine = run_scripted(monkeypatch, checkpoint, scripts, config=TIGHT, **SCARCE, overcommit=9.0)
    assert engine.stats().preemptions > 1
    assert engine.tokens_refed > 1000
    hf, processor = stock(checkpoint)
    for one in recorded.values():
        assert one.trajectory is not None
        assert one.trajectory.answer == "B"
        error, same_positions = exactness_error(hf, one, processor)
        assert same_positions
        assert error <= TOLERANCE
    fed_once = sum(len(one.trajectory.ids) - 1 for one in recorded.values() if one.trajectory)
    assert engine.tokens_fed - engine.tokens_refed == fed_once
    assert engine.pool.num_free == engine.pool.num_blocks


def test_a_group_that_is_preempted_is_exact(small: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded, engine = run_scripted(
        monkeypatch, small, GROUP, group=True, config=TIGHT, pool_tokens=TIGHT.max_total_tokens
    )
    assert engine.stats().preemptions > 0
    hf, processor = stock(small)
    assert max(exactness_error(hf, one, processor)[0] for one in recorded.values()) <= TOLERANCE
    assert engine.pool.num_free == engine.pool.num_blocks


def test_clips_that_come_in_beside_the_model_are_exact(small: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded, _ = run_scripted(monkeypatch, small, GROUP, overlap=True)
    hf, processor = stock(small)
    assert max(exactness_error(hf, one, processor)[0] for one in recorded.values()) <= TOLERANCE


def test_a_zoom_turn_feeds_only_its_own_tokens(small: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded, engine = run_scripted(monkeypatch, small, {"Q?": [zoom(0, 8, 2), ANSWER]})
    trajectory = recorded["Q?"].trajectory
    assert trajectory is not None
    first, second = trajectory.turns
    tool_turn = sum(not sampled for sampled in trajectory.sampled[first.num_prefilled + first.num_sampled - 1 :])
    assert second.num_prefilled == tool_turn + 1  # and the pending token
    assert second.num_prefilled < first.num_prefilled / 2
    assert engine.tokens_fed == len(trajectory.ids) - 1


@pytest.mark.parametrize("style", ["flat", "nested"])
def test_published_names_load_the_same_weights(
    style: str, small: Checkpoint, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    published = load_checkpoint(str(as_published(Path(small.name), tmp_path / style, style=style)))
    runs = [run_scripted(monkeypatch, c, {"Q?": [zoom(0, 8, 2), ANSWER]})[0]["Q?"] for c in (small, published)]
    for ours, theirs in zip(runs[0].logits, runs[1].logits, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def _plain_positions(start: int, grid: tuple[int, int, int], **rule: Any) -> tuple[np.ndarray, int]:
    """Defect 1 of the public trainer: +1 a token, straight through the image."""
    return positions.text_positions(start, grid[1] * grid[2])


def _forget_pending(self: session.Session, *turn: Any) -> TokenSpan:
    run = _TOOL_TURN(self, *turn)
    run.ids[0] = run.ids[1]  # another token in the pending one's place
    return run


def _no_copy(self: BlockTable, count: int) -> bool:
    return False  # a fork writes into the page that the others read


def _lose_positions(self: RunningSession, feed: NeedTokens) -> Any:
    ids, positions = _RUN(self, feed)
    return ids, np.broadcast_to(positions[:1], positions.shape)  # what was lost comes back as text


def _swap_blocks(self: BlockTable, count: int) -> np.ndarray:
    slots = _EXTEND(self, count)
    self.blocks[:2] = self.blocks[1::-1]
    return slots


_TOOL_TURN, _EXTEND, _RUN = session.Session._tool_turn, BlockTable.extend, RunningSession.tokens_to_run


@pytest.mark.parametrize(
    ("target", "name", "mutant"),
    [
        (positions, "block_positions", _plain_positions),
        (session.Session, "_tool_turn", _forget_pending),
        (BlockTable, "extend", _swap_blocks),
    ],
    ids=["position rule", "pending token", "block table"],
)
def test_a_mutation_breaks_exactness(
    target: Any, name: str, mutant: Any, small: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(target, name, mutant)
    recorded, _ = run_scripted(monkeypatch, small, {"Q?": [zoom(0, 8, 2), ANSWER]}, config=CONFIG)
    hf, processor = stock(small)
    error, _ = exactness_error(hf, recorded["Q?"], processor)
    assert error > 100 * TOLERANCE


@pytest.mark.parametrize(
    ("target", "name", "mutant", "pool_tokens"),
    [
        (BlockTable, "must_copy", _no_copy, None),
        (RunningSession, "tokens_to_run", _lose_positions, TIGHT.max_total_tokens),
    ],
    ids=["copy on write", "positions fed again"],
)
def test_a_mutation_breaks_the_exactness_of_groups(
    target: Any, name: str, mutant: Any, pool_tokens: int | None, small: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(target, name, mutant)
    recorded, _ = run_scripted(monkeypatch, small, GROUP, group=True, config=TIGHT, pool_tokens=pool_tokens)
    hf, processor = stock(small)
    assert max(exactness_error(hf, one, processor)[0] for one in recorded.values()) > 20 * TOLERANCE
