"""Clips moved from another session: what is exact about them, what is not, and that it is always said."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import pytest
import torch
from checkpoints import make_checkpoint
from exactness import CONFIG, FakeReader

from vzoom.config import Sampling
from vzoom.engine.engine import Engine
from vzoom.engine.request import Request
from vzoom.engine.scripted_session import ScriptedSession
from vzoom.models import Checkpoint, load_checkpoint
from vzoom.types import Finished, Trajectory, TurnOpened

SMALL = dataclasses.replace(CONFIG, glance_max_frames=8, max_total_tokens=4096)
ANSWER = "<think>seen</think><answer>B</answer>"
CLIP = '<video_zoom>{"segment": [8, 12], "fps": 2}</video_zoom>'


@pytest.fixture(scope="module", params=["qwen2_5_vl", "qwen3_vl"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return load_checkpoint(str(make_checkpoint(request.param, tmp_path_factory.mktemp("reuse"))))


def play(engine: Engine, question: str, *turns: str) -> tuple[Trajectory, list[float], torch.Tensor]:
    """The trajectory, what the model would have said at each token, and its keys [layers, tokens, heads, D]."""
    sessions: list[ScriptedSession] = []

    def make(*args: Any) -> ScriptedSession:
        sessions.append(ScriptedSession(turns, *args))
        return sessions[-1]

    number = engine.add(Request(partial(FakeReader, 0, [(56, 84)]), question, SMALL, Sampling(), session=make))
    keys = torch.empty(0)
    for event in engine.events():
        if isinstance(event, TurnOpened) and event.request_id == number:
            keys = _keys(engine)
        elif isinstance(event, Finished):
            return event.trajectory, [logprob for _, logprob in sessions[0].heard], keys
    raise AssertionError("the session did not finish")


def _keys(engine: Engine) -> torch.Tensor:
    table = engine._scheduler.sessions[0].table
    pages = engine.pool.k_pages[:, table.blocks]  # [L, blocks, G, size, D]
    return pages.transpose(2, 3).flatten(1, 2)[:, : table.length].clone()


def engine_of(checkpoint: Checkpoint, **settings: Any) -> Engine:
    return Engine(checkpoint, max_total_tokens=SMALL.max_total_tokens, pool_tokens=4 * 4096, **settings)


def largest(a: list[float], b: list[float]) -> float:
    return max(abs(x - y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize(("mode", "afresh"), [("rotate", 0), ("rotate+first16", 16)])
def test_under_an_identical_prefix_it_is_exact(checkpoint: Checkpoint, mode: Any, afresh: int) -> None:
    engine = engine_of(checkpoint, reuse=mode)
    first, heard, _ = play(engine, "Which?", CLIP, ANSWER)
    fed = engine.tokens_fed
    second, again, _ = play(engine, "Which?", CLIP, ANSWER)
    assert second.ids == first.ids
    assert largest(heard, again) < 1e-5
    assert first.is_exact
    assert not second.is_exact
    clip_tokens = second.visuals[-1].offset + second.visuals[-1].num_tokens - second.visuals[8].offset + 2
    assert second.turns[1].num_reused == clip_tokens - afresh
    assert engine.tokens_fed == 2 * fed - (clip_tokens - afresh)
    summary = second.to_json()
    assert summary["exact"] is False
    assert summary["zooms"][0]["tokens_reused"] == clip_tokens - afresh


def test_positions_and_the_first_layer_are_exact_wherever_it_goes(checkpoint: Checkpoint) -> None:
    other = '<think>elsewhere first</think><video_zoom>{"segment": [100, 104], "fps": 1}</video_zoom>'
    exact, heard, true_keys = play(engine_of(checkpoint), "Another question?", other, CLIP, ANSWER)
    engine = engine_of(checkpoint, reuse="rotate")
    play(engine, "Which?", CLIP, ANSWER)
    moved, got, keys = play(engine, "Another question?", other, CLIP, ANSWER)
    assert moved.positions == exact.positions
    assert moved.turns[1].num_reused == 0
    assert moved.turns[2].num_reused > 0
    torch.testing.assert_close(keys[0], true_keys[0], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(keys[1], true_keys[1], rtol=1e-3, atol=1e-3)  # the context that it lost
    begin = exact.turns[0].num_prefilled + exact.turns[0].num_sampled
    assert largest(got[:20], heard[:20]) < 1e-5  # in front of the clip nothing changes
    assert begin > 20


def test_without_the_rotation_the_first_layer_is_wrong(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, true_keys = play(engine_of(checkpoint), "Another question?", "<think>well</think>" + CLIP, ANSWER)
    rotation = type(checkpoint.model).rotation
    monkeypatch.setattr(type(checkpoint.model), "rotation", lambda self, delta: rotation(self, 0))
    engine = engine_of(checkpoint, reuse="rotate")
    play(engine, "Which?", CLIP, ANSWER)
    _, _, keys = play(engine, "Another question?", "<think>well</think>" + CLIP, ANSWER)
    assert not torch.allclose(keys[0], true_keys[0], rtol=1e-2, atol=1e-2)


def test_off_by_default_and_other_pictures_are_not_taken(checkpoint: Checkpoint) -> None:
    engine = engine_of(checkpoint)
    play(engine, "Which?", CLIP, ANSWER)
    assert play(engine, "Which?", CLIP, ANSWER)[0].is_exact
    engine = engine_of(checkpoint, reuse="rotate")
    play(engine, "Which?", CLIP, ANSWER)
    shifted = CLIP.replace("[8, 12]", "[8.5, 12.5]")
    assert play(engine, "Which?", shifted, ANSWER)[0].is_exact
    with pytest.raises(ValueError, match="reuse must be off, rotate or"):
        engine_of(checkpoint, reuse="always")


def test_clips_give_way_to_sessions_and_every_page_comes_back(checkpoint: Checkpoint) -> None:
    engine = Engine(checkpoint, max_total_tokens=1536, max_sessions=2, pool_tokens=3072, overcommit=4.0, reuse="rotate")
    config = dataclasses.replace(SMALL, max_total_tokens=1536, answer_reserve=64)
    for i in range(8):
        turns = [CLIP.replace("[8, 12]", f"[{8 + i % 2}, {12 + i % 2}]"), ANSWER]
        job = Request(
            partial(FakeReader, 0, [(56, 84)]), f"{i}?", config, Sampling(), session=partial(ScriptedSession, turns)
        )
        engine.add(job)
    done = [e.trajectory for e in engine.events() if isinstance(e, Finished)]
    assert [len(t.zooms) for t in done] == [1] * 8
    assert not all(t.is_exact for t in done)
    engine.close()
    assert engine.pool.num_free == engine.pool.num_blocks
    assert not any(engine.pool._holders)
