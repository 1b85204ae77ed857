"""Conversations on vLLM are those of vzoom's own engine: tokens, log-probabilities, frames, errors."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import FAMILIES, make_checkpoint
from exactness import CONFIG, FakeReader

from vzoom.config import Sampling, ZoomConfig
from vzoom.engine import Engine, Outcome, Request, ScriptedSession
from vzoom.models import Checkpoint, load_checkpoint, load_checkpoint_info
from vzoom.types import Event, StopReason, TextDelta
from vzoom.video import VideoReadError, frames_to_patches
from vzoom.video.patches import value_table
from vzoom.vllm import VllmEngine

LIMIT = 8192
SETTINGS = {"enforce_eager": True}


def zoom(start: float, end: float, fps: float, thought: str = "hm") -> str:
    return f'<think>{thought}</think><video_zoom>{{"segment": [{start}, {end}], "fps": {fps}}}</video_zoom>'


FOUR_ZOOMS = [zoom(8, 16, 2), zoom(40.5, 44.5, 4, "elsewhere"), zoom(100, 108, 2, "é 東"), zoom(16, 20, 4)]
ANSWER = "<think>seen</think><answer>B</answer>"


class Faulty(FakeReader):
    """A video that cannot be read behind its glance."""

    def frames_at(self, timestamps: Sequence[float]) -> Any:
        if self.calls:
            raise VideoReadError("the file is damaged there")
        return super().frames_at(timestamps)


def request(
    turns: Sequence[str] = (),
    *,
    reader: Callable[[], FakeReader] = FakeReader,
    sampling: Sampling | None = None,
    num_rollouts: int = 1,
    **limits: Any,
) -> Request:
    """A conversation that the script writes, or the model if there are no turns."""
    config = CONFIG.override(**{"max_total_tokens": LIMIT, "max_new_tokens": 400 if turns else 40, **limits})
    one = Request(reader, "Which one?", config, sampling or Sampling(), num_rollouts)
    return replace(one, session=partial(ScriptedSession, list(turns))) if turns else one


@pytest.fixture(scope="module", params=FAMILIES)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    # head_dim 32: vLLM's attention on CPUs has no smaller one.
    folder = make_checkpoint(request.param, tmp_path_factory.mktemp(request.param), head_dim=32)
    return load_checkpoint(str(folder), dtype="float32")


def started(checkpoint: Checkpoint, **settings: Any) -> VllmEngine:
    config: ZoomConfig = CONFIG.override(max_total_tokens=LIMIT)
    return VllmEngine(
        load_checkpoint_info(checkpoint.name),
        config=config,
        max_total_tokens=LIMIT,
        max_sessions=16,
        dtype="float32",
        settings={**SETTINGS, **settings},
    )


@pytest.fixture(scope="module")
def engine(checkpoint: Checkpoint) -> Iterator[VllmEngine]:
    with started(checkpoint) as engine:
        yield engine


def ours(checkpoint: Checkpoint, requests: Sequence[Request]) -> list[list[Outcome]]:
    with Engine(checkpoint, max_total_tokens=LIMIT, max_sessions=4) as engine:
        return engine.run(requests)


def check_same(one: Outcome, other: Outcome) -> None:
    a, b = one.unwrap(), other.unwrap()
    assert a.ids == b.ids
    assert a.positions == b.positions
    assert (a.visuals, a.answer, a.stop_reason) == (b.visuals, b.answer, b.stop_reason)
    assert [turn.outcome for turn in a.turns] == [turn.outcome for turn in b.turns]
    assert max(abs(x - y) for x, y in zip(a.logprobs, b.logprobs, strict=True)) <= 1e-4


def test_four_zooms_are_those_of_our_engine_and_nothing_is_fed_or_encoded_twice(
    checkpoint: Checkpoint, engine: VllmEngine
) -> None:
    asked = [request([*FOUR_ZOOMS, ANSWER])]
    before = engine.stats()
    ((found,),), after = engine.run(asked), engine.stats()
    trajectory = found.unwrap()
    assert (trajectory.num_frames, trajectory.answer) == (128, "B")
    check_same(ours(checkpoint, asked)[0][0], found)
    assert after.tokens_fed - before.tokens_fed == len(trajectory.ids) - 1
    assert after.frames_encoded - before.frames_encoded == 128
    assert after.preemptions == 0


def test_what_the_model_writes_itself_is_the_same_and_what_is_known_is_not_fed_again(
    checkpoint: Checkpoint, engine: VllmEngine
) -> None:
    asked = [request(), request(max_new_tokens=25), request(sampling=Sampling(repetition_penalty=8.0))]
    before = engine.stats()
    found, after, expected = engine.run(asked), engine.stats(), ours(checkpoint, asked)
    for (one,), (other,) in zip(expected[:2], found[:2], strict=True):
        check_same(one, other)
    assert found[0][0].unwrap().stop_reason == StopReason.TURN_TOKENS
    # (Its log-probabilities are reported before the penalty by us, and after it by vLLM.)
    assert found[2][0].unwrap().ids == expected[2][0].unwrap().ids != found[0][0].unwrap().ids
    assert after.frames_encoded - before.frames_encoded <= 64  # one glance, three conversations


def test_a_conversation_whose_turns_are_requests_of_their_own_is_the_same(
    checkpoint: Checkpoint, engine: VllmEngine
) -> None:
    asked = [request([FOUR_ZOOMS[0], ANSWER]), request()]
    engine.server.appends = False
    try:
        found = engine.run(asked)
    finally:
        engine.server.appends = True
    for (one,), (other,) in zip(ours(checkpoint, asked), found, strict=True):
        check_same(one, other)


def test_pixels_are_ours(checkpoint: Checkpoint, engine: VllmEngine) -> None:
    from vzoom.vllm.prompts import PlacedFrame, frames_of

    reader = FakeReader(sizes_hw=((240, 426),))
    clip, config = reader.frames_at([1.0, 2.0]), CONFIG.override(max_total_tokens=LIMIT)
    patches, (rows, columns) = frames_to_patches(clip.frames, config=config, spec=checkpoint.patch_spec)
    count, placed, ids = rows * columns // 4, [], []
    for frame in frames_of(clip, config, checkpoint.patch_spec):
        ids.append(engine.vocabulary.codec.token_id("<|vision_start|>"))
        placed.append(PlacedFrame(frame, len(ids), count))
        ids += [engine.vocabulary.image_token_id] * count
    made = engine.server.call(engine.server.rendered(ids, placed))
    theirs = torch.cat([item["pixel_values"].data for item in made["mm_kwargs"]["image"]])
    assert theirs.shape == patches.shape
    assert theirs.dtype == torch.uint8  # vLLM's model rescales and normalises
    levels_NCP = theirs.view(len(theirs), 3, -1).long()
    table = value_table(checkpoint.patch_spec, torch.float32)
    normalised = torch.stack([table[channel][levels_NCP[:, channel]] for channel in range(3)], dim=1)
    assert torch.equal(normalised.view(patches.shape), patches)


def test_rollouts_and_forks_part_after_the_glance(engine: VllmEngine) -> None:
    before = engine.stats()
    ((*found,),) = engine.run([request(sampling=Sampling(temperature=1.0, seed=3), num_rollouts=4)])
    texts = {one.unwrap().turns[0].text for one in found}
    assert len(texts) == 4
    glance = found[0].unwrap().turns[0].num_prefilled
    sampled = sum(one.unwrap().turns[0].num_sampled for one in found)
    fed = engine.stats().tokens_fed - before.tokens_fed
    assert fed <= glance + 3 * 64 + sampled  # a rollout feeds at most a block of the shared past anew

    first = engine.add(request())
    branches: list[int] = []
    events: list[Event] = []
    while not engine.is_idle:
        for event in engine.step():
            if isinstance(event, TextDelta) and not branches:
                branches = engine.fork(first, [Sampling(), Sampling(temperature=1.0, seed=1)])
            events.append(event)
    ends = {event.request_id: event.trajectory for event in events if hasattr(event, "trajectory")}
    assert ends.keys() == {first, *branches}
    assert ends[branches[0]].ids == ends[first].ids
    assert ends[branches[1]].ids != ends[first].ids


def test_errors_stay_where_they_belong(checkpoint: Checkpoint, engine: VllmEngine) -> None:
    def no_video() -> FakeReader:
        raise OSError("no such file")

    asked = [request([FOUR_ZOOMS[0], ANSWER])] * 5
    asked += [request()] * 5  # never closes a tag
    asked += [request(reader=no_video), request([zoom(1, 2, 4), ANSWER], reader=Faulty)]
    asked += [request(max_total_tokens=1000), request([zoom(5000, 6000, 2), ANSWER])]
    expected = ours(checkpoint, asked)
    found = engine.run(asked)
    for (one,), (other,) in zip(expected, found, strict=True):
        if one.error is None:
            check_same(one, other)
        else:
            assert (type(other.error), str(other.error)) == (type(one.error), str(one.error))
    with pytest.raises(ValueError, match="more than this engine was made for"):
        engine.add(request(max_total_tokens=LIMIT + 1))
    first, second = engine.add(request(max_new_tokens=4000)), engine.add(request())
    third = engine.add(request(max_new_tokens=4000))
    ends: dict[int, Event] = {}
    cancelled = False
    for event in engine.events():
        if isinstance(event, TextDelta) and event.request_id == third:
            engine.abort([third])
        if isinstance(event, TextDelta) and event.request_id == first and not cancelled:
            engine.cancel(first)
            cancelled = True
        if hasattr(event, "trajectory"):
            ends[event.request_id] = event
    assert ends.keys() == {first, second}
    assert ends[first].trajectory.stop_reason == StopReason.CANCELLED  # type: ignore[union-attr]


def test_a_process_of_vllms_that_dies_is_one_clear_error(tmp_path: Path) -> None:
    folder = make_checkpoint("qwen2_5_vl", tmp_path, head_dim=32)
    before = {child.pid for child in multiprocessing.active_children()}
    with started(load_checkpoint(str(folder), dtype="float32")) as engine:
        (core,) = [child for child in multiprocessing.active_children() if child.pid not in before]
        engine.add(request(max_new_tokens=4000))
        while not any(isinstance(event, TextDelta) for event in engine.step()):
            pass
        core.kill()
        with pytest.raises(RuntimeError, match="vLLM's process ended"):
            list(engine.events())
