"""The loop: admission, streaming, failure of one part, and that a batch changes nothing."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import threading
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import SPECIALS, make_checkpoint, token_id
from exactness import CONFIG, FakeReader, run_scripted

from vzoom.config import Sampling
from vzoom.engine.engine import Engine
from vzoom.engine.media import Media
from vzoom.engine.request import Request
from vzoom.engine.running_session import RunningSession
from vzoom.engine.scripted_session import ScriptedSession
from vzoom.engine.session import Session
from vzoom.models import Checkpoint, load_checkpoint, vocabulary_of
from vzoom.synthetic import make_video, render
from vzoom.types import (
    CallError,
    Clip,
    Event,
    Failed,
    Finished,
    Malformed,
    StopReason,
    TextDelta,
    TurnEnded,
    TurnOpened,
)
from vzoom.video import ClipCache, VideoReadError

ZOOM = '<video_zoom>{"segment": [8, 12], "fps": 2}</video_zoom>'
ANSWER = "<answer>B</answer>"
SHORT = dataclasses.replace(CONFIG, max_new_tokens=12, max_zooms=1, glance_max_frames=8)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return load_checkpoint(str(make_checkpoint("qwen2_5_vl", tmp_path_factory.mktemp("engine"))))


def run(checkpoint: Checkpoint, requests: Sequence[Request], *, max_sessions: int) -> dict[int, Any]:
    engine = Engine(checkpoint, max_sessions=max_sessions, max_total_tokens=CONFIG.max_total_tokens)
    for request in requests:
        engine.add(request)
    done = {e.request_id: e.trajectory for e in engine.events() if isinstance(e, Finished)}
    assert engine.pool.num_free == engine.pool.num_blocks
    return done


def requests(sampling: Sampling, count: int = 3) -> list[Request]:
    return [Request(lambda i=i: FakeReader(i), f"Question {i}?", SHORT, sampling) for i in range(count)]


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=1.0, seed=7)], ids=["greedy", "sampled"])
def test_tokens_do_not_depend_on_who_else_is_in_the_batch(checkpoint: Checkpoint, sampling: Sampling) -> None:
    alone = run(checkpoint, requests(sampling), max_sessions=1)
    together = run(checkpoint, requests(sampling), max_sessions=3)
    assert [alone[i].ids for i in range(3)] == [together[i].ids for i in range(3)]
    assert alone[0].ids != alone[1].ids


def test_control_tokens_are_never_sampled(checkpoint: Checkpoint) -> None:
    config = dataclasses.replace(SHORT, max_new_tokens=300, max_zooms=0)
    loud = checkpoint.model.hf.lm_head.weight
    saved = loud.clone()
    with torch.no_grad():
        loud[token_id("<|image_pad|>")] *= 50
    done = run(checkpoint, [Request(FakeReader, "Q?", config, Sampling(temperature=3.0))], max_sessions=1)
    with torch.no_grad():
        loud.copy_(saved)
    sampled = {t for t, s in zip(done[0].ids, done[0].sampled, strict=True) if s}
    assert len(sampled) > 20
    assert not sampled & {token_id(t) for t in SPECIALS[1:] if t != "<|im_end|>"}
    assert max(sampled) < len(checkpoint.tokenizer)


def test_events_tell_the_whole_story(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded, _ = run_scripted(monkeypatch, checkpoint, {"Q?": [ZOOM, "<video_zoom>{}</video_zoom>", ANSWER]})
    events, trajectory = recorded["Q?"].events, recorded["Q?"].trajectory
    assert trajectory is not None
    text = "".join(e.text for e in events if isinstance(e, TextDelta))
    assert text == "".join(turn.text for turn in trajectory.turns)
    opened = [e for e in events if isinstance(e, TurnOpened)]
    ended = [e for e in events if isinstance(e, TurnEnded)]
    assert [e.turn for e in opened] == [e.turn for e in ended] == trajectory.turns
    assert [len(e.clip) if e.clip else 0 for e in opened] == [64, 8, 0]
    assert [len(e.clip) if e.clip else 0 for e in ended] == [8, 0, 0]
    assert [set(t.milliseconds) for t in trajectory.turns] == [
        {"decode", "patches", "vision", "prefill", "generate"},
        {"decode", "patches", "vision", "prefill", "generate"},
        {"prefill", "generate"},
    ]
    assert all(ms >= 0 for t in trajectory.turns for ms in t.milliseconds.values())
    assert isinstance(events[-1], Finished)


def test_a_feed_that_fails_leaves_the_session_as_it_was(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole-clip rollback: half a clip in the cache would shift everything behind it."""
    undisturbed, _ = run_scripted(monkeypatch, checkpoint, {"Q?": [ZOOM, ANSWER]})
    forward, calls = checkpoint.model.forward, []

    def fails_once(ids: torch.Tensor, *rest: Any) -> torch.Tensor:
        logits = forward(ids, *rest)
        calls.append(len(ids))
        if len(ids) > 100 and calls[-2:-1] == [1]:  # the clip's feed behind decoding, after its keys were written
            raise torch.OutOfMemoryError("no memory left")
        return logits

    roll_back, failed = Engine._roll_back, []

    def look(self: Engine, *arguments: Any) -> None:
        roll_back(self, *arguments)
        active = self._scheduler.sessions[0]
        failed.append((active.table.length, active.session.num_fed))

    monkeypatch.setattr(checkpoint.model, "forward", fails_once)
    monkeypatch.setattr(Engine, "_roll_back", look)
    recorded, _ = run_scripted(monkeypatch, checkpoint, {"Q?": [ZOOM, ANSWER]})
    assert len(failed) == 1
    assert failed[0][0] == failed[0][1] > 0
    assert recorded["Q?"].trajectory.ids == undisturbed["Q?"].trajectory.ids  # type: ignore[union-attr]
    for got, want in zip(recorded["Q?"].logits, undisturbed["Q?"].logits, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-5)


class BrokenReader(FakeReader):
    """Decodes its first `good` requests."""

    def __init__(self, good: int) -> None:
        super().__init__()
        self.good = good

    def frames_at(self, timestamps: Sequence[float]) -> Clip:
        if self.calls >= self.good:
            raise VideoReadError("scripted.mp4: no frame decodes")
        return super().frames_at(timestamps)


def test_an_unreadable_segment_is_told_to_the_model(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exactness.FakeReader", lambda seed: BrokenReader(1))
    recorded, _ = run_scripted(monkeypatch, checkpoint, {"Q?": [ZOOM, ANSWER]})
    trajectory = recorded["Q?"].trajectory
    assert trajectory is not None
    assert trajectory.answer == "B"
    outcome = trajectory.turns[0].outcome
    assert isinstance(outcome, Malformed)
    assert outcome.error is CallError.UNREADABLE
    assert trajectory.zooms == []


def test_an_unreadable_glance_fails_alone(checkpoint: Checkpoint) -> None:
    broken = BrokenReader(0)
    engine = Engine(checkpoint, max_sessions=2, max_total_tokens=CONFIG.max_total_tokens)
    engine.add(Request(lambda: broken, "Broken?", SHORT, Sampling()))
    engine.add(Request(FakeReader, "Fine?", SHORT, Sampling()))
    events = list(engine.events())
    (failed,) = [e for e in events if isinstance(e, Failed)]
    assert failed.request_id == 0
    assert isinstance(failed.error, VideoReadError)
    assert broken.closed
    assert [e.request_id for e in events if isinstance(e, Finished)] == [1]


def test_cancel_and_close_give_everything_back(checkpoint: Checkpoint) -> None:
    readers = [FakeReader(i) for i in range(3)]
    engine = Engine(checkpoint, max_sessions=2, max_total_tokens=CONFIG.max_total_tokens)
    numbers = [engine.add(Request(lambda r=r: r, "Q?", SHORT, Sampling())) for r in readers]
    engine.step()
    engine.cancel(numbers[0])
    (finished,) = [e for e in engine.step() if isinstance(e, Finished)]
    assert finished.trajectory.stop_reason is StopReason.CANCELLED
    assert readers[0].closed
    with pytest.raises(ValueError, match="request 0 is not running"):
        engine.cancel(numbers[0])
    engine.step()
    assert engine.pool.num_free < engine.pool.num_blocks
    engine.close()
    assert engine.pool.num_free == engine.pool.num_blocks
    assert all(r.closed for r in readers)
    assert list(engine.events()) == []


def test_a_request_longer_than_the_engine_was_made_for_is_refused(checkpoint: Checkpoint) -> None:
    engine = Engine(checkpoint, max_total_tokens=4096)
    with pytest.raises(ValueError, match="more than this engine was made for"):
        engine.add(Request(FakeReader, "Q?", CONFIG, Sampling()))
    with pytest.raises(ValueError, match="max_sessions must be 1 or more"):
        Engine(checkpoint, max_sessions=0, max_total_tokens=4096)


def test_other_model_families_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ValueError, match="vzoom runs qwen2_vl, qwen2_5_vl, qwen3_vl"):
        load_checkpoint(str(tmp_path))
    with pytest.raises(OSError, match="nowhere"):
        load_checkpoint(str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"device": "tpu"}, "device must be auto, cpu, cuda or cuda:N"),
        ({"device": "cuda:99"}, "torch sees"),
        ({"dtype": "int8"}, "dtype must be one of auto, float32"),
    ],
)
def test_devices_and_dtypes_that_are_not_there(checkpoint: Checkpoint, settings: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_checkpoint(checkpoint.name, **settings)


def test_settings_of_a_checkpoint_are_read_and_checked(checkpoint: Checkpoint, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(checkpoint.name, folder)
    SHORT.save(folder / "vzoom.json")
    assert load_checkpoint(str(folder)).config == SHORT
    assert load_checkpoint(str(folder)).knows_tags
    (folder / "vzoom.json").write_text('{"glance_rate": 2}')
    with pytest.raises(ValueError, match="unknown field glance_rate"):
        load_checkpoint(str(folder))
    (folder / "vzoom.json").unlink()
    assert not load_checkpoint(str(folder)).knows_tags
    preprocessor = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match="neither preprocessor_config"):
        load_checkpoint(str(folder))
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": preprocessor}))
    assert load_checkpoint(str(folder)).patch_spec == checkpoint.patch_spec


@pytest.mark.parametrize(
    ("knows_tags", "asked_for", "accepted"), [(True, None, False), (False, None, True), (False, False, False)]
)
def test_answers_without_tags_are_for_checkpoints_that_know_none(
    checkpoint: Checkpoint, knows_tags: bool, asked_for: bool | None, accepted: bool
) -> None:
    one = dataclasses.replace(checkpoint, knows_tags=knows_tags)
    engine = Engine(one, max_total_tokens=1024, untagged_answers=asked_for)
    engine.close()
    assert engine.vocabulary.untagged_answers is accepted
    assert not vocabulary_of(one).untagged_answers  # what data and training are made with


SAMPLED = Sampling(temperature=1.0, seed=7)


def test_a_group_samples_what_its_members_would_alone(checkpoint: Checkpoint) -> None:
    group = run(checkpoint, [dataclasses.replace(requests(SAMPLED, 1)[0], num_rollouts=4)], max_sessions=4)
    alone = [
        run(checkpoint, requests(dataclasses.replace(SAMPLED, seed=7 + i), 1), max_sessions=1)[0] for i in range(4)
    ]
    assert [group[i].ids for i in range(4)] == [one.ids for one in alone]
    assert len({tuple(one.ids) for one in alone}) > 1


def test_a_fork_goes_on_from_where_it_branched(checkpoint: Checkpoint) -> None:
    engine = Engine(checkpoint, max_sessions=3, max_total_tokens=CONFIG.max_total_tokens)
    number = engine.add(requests(Sampling(), 1)[0])
    for _ in range(4):
        engine.step()
    before = list(engine._scheduler.find(number).session.trajectory.ids)
    greedy, warm = engine.fork(number, [Sampling(), Sampling(temperature=5.0, seed=3)])
    done = {e.request_id: e.trajectory for e in engine.events() if isinstance(e, Finished)}
    assert done[greedy].ids == done[number].ids
    assert done[warm].ids[: len(before)] == before
    assert done[warm].ids != done[number].ids
    assert engine.tokens_fed < sum(len(t.ids) - 1 for t in done.values()) - 2 * (len(before) - 1) + 1
    with pytest.raises(ValueError, match="request 0 is not running"):
        engine.fork(number, [Sampling()])


def test_forks_outlive_a_cancelled_parent(checkpoint: Checkpoint) -> None:
    engine = Engine(checkpoint, max_sessions=3, max_total_tokens=CONFIG.max_total_tokens)
    number = engine.add(requests(Sampling(), 1)[0])
    engine.step()
    forks = engine.fork(number, [Sampling(), Sampling()])
    engine.cancel(number)
    done = {e.request_id: e.trajectory for e in engine.events() if isinstance(e, Finished)}
    assert done[number].stop_reason is StopReason.CANCELLED
    alone = run(checkpoint, requests(Sampling(), 1), max_sessions=1)[0]
    assert [done[f].ids for f in forks] == [alone.ids, alone.ids]
    assert engine.pool.num_free == engine.pool.num_blocks


def test_a_feed_that_fails_parts_no_forks(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(checkpoint, max_sessions=3, max_total_tokens=CONFIG.max_total_tokens)
    engine.add(dataclasses.replace(requests(SAMPLED, 1)[0], num_rollouts=3))
    with monkeypatch.context() as patch:
        patch.setattr(
            "vzoom.engine.engine.choose", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("no memory left"))
        )
        assert engine.step() == []
    assert engine.pool.num_free == engine.pool.num_blocks
    done = {e.request_id: e.trajectory.ids for e in engine.events() if isinstance(e, Finished)}
    assert done == {i: t.ids for i, t in run(checkpoint, requests(SAMPLED, 1), max_sessions=1).items()} | {
        i: run(checkpoint, requests(dataclasses.replace(SAMPLED, seed=7 + i), 1), max_sessions=1)[0].ids for i in (1, 2)
    }


def test_a_request_waits_until_the_pool_can_hold_all_that_it_may_write(checkpoint: Checkpoint) -> None:
    small = dataclasses.replace(SHORT, max_total_tokens=2048)
    engine = Engine(checkpoint, max_sessions=8, max_total_tokens=2048, pool_tokens=4096)
    for i in range(4):
        engine.add(Request(lambda i=i: FakeReader(i), f"Question {i}?", small, Sampling()))  # type: ignore[misc]
    engine.step()
    assert len(engine._scheduler.sessions) == 2
    done = [e.request_id for e in engine.events() if isinstance(e, Finished)]
    assert sorted(done) == [0, 1, 2, 3]
    assert engine.stats().preemptions == 0
    crowded = Engine(checkpoint, max_sessions=8, max_total_tokens=2048, pool_tokens=4096, overcommit=2.0)
    for i in range(4):
        crowded.add(Request(lambda i=i: FakeReader(i), f"Question {i}?", small, Sampling()))  # type: ignore[misc]
    crowded.step()
    assert len(crowded._scheduler.sessions) == 4
    crowded.close()


def test_the_clip_is_decoded_while_its_call_is_written(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    asked: list[tuple[float, str]] = []  # first time of a request, what had been written by then

    class Watching(FakeReader):
        def frames_at(self, timestamps: Sequence[float]) -> Clip:
            asked.append((timestamps[0], "".join(written)))
            return super().frames_at(timestamps)

    prefetch = Media.prefetch

    def patient(self: Media, active: RunningSession) -> None:
        prefetch(self, active)
        if active.pending_clip:
            active.pending_clip.future.result(timeout=30)  # so that it is certain when the worker looked

    accept = Session.accept

    def listen(self: Session, token: int, logprob: float) -> str:
        written.append(accept(self, token, logprob))
        return written[-1]

    monkeypatch.setattr(Session, "accept", listen)
    monkeypatch.setattr(Media, "prefetch", patient)
    monkeypatch.setattr("exactness.FakeReader", Watching)
    recorded, _ = run_scripted(monkeypatch, checkpoint, {"Q?": [ZOOM, ANSWER]})
    assert recorded["Q?"].trajectory is not None
    assert recorded["Q?"].trajectory.answer == "B"
    zooms = [text for first, text in asked if first == 8.0]
    assert [text.rpartition("<video_zoom>")[2] for text in zooms] == [
        '{"segment": [8, 12]',
        '{"segment": [8, 12], "fps": 2}',
    ]


@pytest.mark.parametrize("overlap", [False, True])
def test_a_worker_that_fails_fails_in_its_session_alone(checkpoint: Checkpoint, overlap: bool) -> None:
    class Bug(FakeReader):
        def frames_at(self, timestamps: Sequence[float]) -> Clip:
            raise OSError("the disk is gone")

    engine = Engine(checkpoint, max_sessions=3, max_total_tokens=CONFIG.max_total_tokens, overlap=overlap)
    engine.add(requests(Sampling(), 1)[0])
    engine.add(Request(Bug, "Broken?", SHORT, Sampling(), num_rollouts=2))
    events = list(engine.events())
    assert [(e.request_id, str(e.error)) for e in events if isinstance(e, Failed)] == [
        (1, "the disk is gone"),
        (2, "the disk is gone"),
    ]
    (done,) = [e for e in events if isinstance(e, Finished)]
    assert done.trajectory.ids == run(checkpoint, requests(Sampling(), 1), max_sessions=1)[0].ids
    assert engine.pool.num_free == engine.pool.num_blocks


def test_others_go_on_while_a_clip_is_decoded(checkpoint: Checkpoint) -> None:
    released = threading.Event()

    class Slow(FakeReader):
        def frames_at(self, timestamps: Sequence[float]) -> Clip:
            assert released.wait(30)
            return super().frames_at(timestamps)

    engine = Engine(checkpoint, max_sessions=2, max_total_tokens=CONFIG.max_total_tokens, overlap=True)
    engine.add(Request(Slow, "Slow?", SHORT, Sampling()))
    engine.add(requests(Sampling(), 1)[0])
    finished: list[int] = []
    for event in engine.events():
        if isinstance(event, Finished):
            finished.append(event.request_id)
            released.set()
    assert finished == [1, 0]


@pytest.mark.parametrize("overlap", [False, True])
def test_a_tower_that_fails_is_tried_again(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, overlap: bool
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("no memory")

    engine = Engine(checkpoint, max_total_tokens=CONFIG.max_total_tokens, overlap=overlap)
    for patience in (1, 9):  # it fails once, or as long as anybody asks
        engine.add(requests(Sampling(), 1)[0])
        with monkeypatch.context() as patch:
            patch.setattr("vzoom.engine.media.encode_clips", broken)
            for _ in range(99):
                ended = [e for e in engine.step() if isinstance(e, Failed)]
                patience -= any(running.error for running in engine._scheduler.sessions)
                if ended or not patience:
                    break
        ended += [e for e in engine.events() if isinstance(e, Finished)]
        if isinstance(ended[0], Finished):
            assert patience == 0
            assert ended[0].trajectory.ids == run(checkpoint, requests(Sampling(), 1), max_sessions=1)[0].ids
        else:
            assert patience > 0
            assert isinstance(ended[0].error, torch.OutOfMemoryError)
    assert engine.pool.num_free == engine.pool.num_blocks


# ---------------------------------------------------------------- what one session raises ends that session alone


class Planted(RuntimeError):
    """What no code of ours expects."""


def planted_in(where: str) -> Request:
    """A request that raises, as late as its first token if it is not in the way of an earlier one."""

    class Rotten(Session):
        def __init__(self, *arguments: Any) -> None:
            if where == "session":
                raise Planted(where)
            super().__init__(*arguments)

        def splice(self, clip: Clip, *rest: Any) -> None:
            if where == "splice":
                raise Planted(where)
            super().splice(clip, *rest)

        def accept(self, token: int, logprob: float) -> str:
            if where == "accept" and self.num_fed:
                raise Planted(where)
            delta = super().accept(token, logprob)
            if where == "token":  # nothing can look it up: the run of the model raises
                self.action.span.ids[:] = [10**9]  # type: ignore[union-attr]
            return delta

        def fork(self, sampling: Sampling) -> Session:
            if where == "fork":
                raise Planted(where)
            return super().fork(sampling)

    class Reader(FakeReader):
        def frames_at(self, timestamps: Sequence[float]) -> Clip:
            if where == "decode":
                raise Planted(where)
            clip = super().frames_at(timestamps)
            return dataclasses.replace(clip, frames=clip.frames[..., :1]) if where == "encode" else clip

        def close(self) -> None:
            super().close()
            if where == "close":
                raise Planted(where)

    def open_video() -> FakeReader:
        if where == "open":
            raise Planted(where)
        return Reader()

    return Request(open_video, f"{where}?", SHORT, Sampling(), num_rollouts=2, session=Rotten)


PLACES = ("open", "session", "decode", "splice", "encode", "accept", "token", "fork", "close")


@pytest.mark.parametrize("overlap", [False, True], ids=["in turn", "overlap"])
def test_what_a_session_raises_ends_that_session_alone(checkpoint: Checkpoint, overlap: bool) -> None:
    fine = requests(Sampling(temperature=0.7, seed=3), 3)
    want = [run(checkpoint, [one], max_sessions=1)[0].ids for one in fine]
    with (
        engine_for(checkpoint, max_sessions=8, overlap=overlap) as engine,
        warnings.catch_warnings(record=True) as told,
    ):
        warnings.simplefilter("always")
        for where in PLACES:
            outcomes = engine.run([fine[0], planted_in(where), *fine[1:]])
            assert [outcomes[i][0].unwrap().ids for i in (0, 2, 3)] == want, where
            rotten = outcomes[1]
            assert len(rotten) == 2
            if where == "close":  # all was said by then
                assert all(one.unwrap().ids for one in rotten)
                assert any("could not be closed" in str(one.message) for one in told)
            else:
                assert all(one.error is not None for one in rotten), where
            if where not in ("token", "encode", "close"):
                assert all(isinstance(one.error, Planted) for one in rotten), where
            assert engine.pool.num_free == engine.pool.num_blocks, where


def test_abort_gives_pages_back_at_once(checkpoint: Checkpoint) -> None:
    readers = [FakeReader(i) for i in range(3)]
    engine = engine_for(checkpoint, max_sessions=2)
    group = dataclasses.replace(requests(Sampling(temperature=1.0), 1)[0], num_rollouts=2)
    first = engine.add(dataclasses.replace(group, open_video=lambda: readers[0]))
    waits = engine.add(Request(lambda: readers[1], "Q?", SHORT, Sampling()))
    engine.step()
    assert engine.pool.num_free < engine.pool.num_blocks
    engine.abort([first])
    assert not readers[0].closed  # its sibling reads it
    engine.abort([waits, first + 1, 99])
    assert engine.pool.num_free == engine.pool.num_blocks
    assert readers[0].closed
    assert list(engine.events()) == []
    engine.add(dataclasses.replace(group, open_video=lambda: readers[2]))
    assert sorted(e.request_id for e in engine.events() if isinstance(e, Finished)) == [3, 4]


def test_an_engine_is_of_its_process(checkpoint: Checkpoint) -> None:
    engine = engine_for(checkpoint)
    pid = os.fork()
    if pid == 0:
        try:
            engine.run(requests(Sampling(), 1))
        except ValueError as error:
            os._exit(0 if "before fork()" in str(error) else 2)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"overcommit": 0.5}, "overcommit must be 1 or more, got 0.5"),
        ({"pool_tokens": 1024}, "pool_tokens 1024 does not hold one session of 4096 tokens"),
    ],
)
def test_engines_that_cannot_work(checkpoint: Checkpoint, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Engine(checkpoint, max_total_tokens=4096, **settings)
    engine = Engine(checkpoint, max_total_tokens=4096, max_sessions=2)
    with pytest.raises(ValueError, match=r"num_rollouts must be 1 to max_sessions \(2\), got 3"):
        engine.add(
            Request(FakeReader, "Q?", dataclasses.replace(SHORT, max_total_tokens=4096), Sampling(), num_rollouts=3)
        )


# ---------------------------------------------------------------- run: all requests, one outcome per rollout


def engine_for(checkpoint: Checkpoint, **settings: Any) -> Engine:
    return Engine(checkpoint, max_total_tokens=CONFIG.max_total_tokens, **settings)


def test_run_gives_one_outcome_per_rollout_in_order(checkpoint: Checkpoint) -> None:
    single, group = requests(SAMPLED, 2)
    group = dataclasses.replace(group, num_rollouts=3)
    told: list[Event] = []
    with engine_for(checkpoint, max_sessions=3) as engine:
        first, second = engine.run([single, group], on_event=told.append)
        assert engine.run([]) == []
        (again,) = engine.run([single])  # the engine is free for more
    assert [outcome.request_id for outcome in (*first, *second)] == [0, 1, 2, 3]
    assert again[0].request_id == 4
    assert [o.unwrap().question for o in (*first, *second)] == ["Question 0?"] + ["Question 1?"] * 3
    alone = run(checkpoint, [single], max_sessions=1)[0]
    assert first[0].unwrap().ids == again[0].unwrap().ids == alone.ids
    finished = {e.request_id: e.trajectory for e in told if isinstance(e, Finished)}
    assert [o.trajectory for o in second] == [finished[i] for i in (1, 2, 3)]
    assert len({tuple(o.unwrap().ids) for o in second}) == 3  # each with its own seed
    assert all(o.error is None and o.seconds > 0 for o in (*first, *second))


def test_run_keeps_what_each_conversation_saw(checkpoint: Checkpoint) -> None:
    scripted = partial(ScriptedSession, [ZOOM, ANSWER])
    one = Request(FakeReader, "Q?", SHORT, Sampling(), num_rollouts=2, session=scripted)
    one = dataclasses.replace(one, config=dataclasses.replace(SHORT, max_new_tokens=300))
    with engine_for(checkpoint, max_sessions=2) as engine:
        (outcomes,) = engine.run([one])
        ((bare, _),) = engine.run([one], keep_clips=False)
    for outcome in outcomes:
        trajectory = outcome.unwrap()
        assert outcome.glance is not None
        assert outcome.glance.pts_seconds == trajectory.glance_seconds
        assert [clip.pts_seconds for clip in outcome.clips] == [turn.pts_seconds for turn in trajectory.zooms]
        assert len(outcome.clips) == 1
    assert (bare.glance, bare.clips, bare.unwrap().ids) == (None, (), outcomes[0].unwrap().ids)


def test_a_request_that_fails_leaves_the_others_alone(checkpoint: Checkpoint) -> None:
    broken = Request(lambda: BrokenReader(0), "Broken?", SHORT, Sampling(), num_rollouts=2)
    missing = Request(lambda: (_ for _ in ()).throw(OSError("no such file")), "Missing?", SHORT, Sampling())
    long = Request(FakeReader, "Long? " * 9000, SHORT, Sampling())
    fine = requests(Sampling(), 1)[0]
    with engine_for(checkpoint, max_sessions=2) as engine:
        (one,), (a, b), (gone,), (too_long,), (two,) = engine.run([fine, broken, missing, long, fine])
        assert engine.pool.num_free == engine.pool.num_blocks
    assert one.unwrap().ids == two.unwrap().ids == run(checkpoint, [fine], max_sessions=1)[0].ids
    for outcome in (a, b, gone, too_long):
        assert outcome.trajectory is None
        assert (outcome.glance, outcome.clips) == (None, ())
        with pytest.raises(type(outcome.error)):  # type: ignore[arg-type]
            outcome.unwrap()
    assert [type(o.error) for o in (a, b, gone, too_long)] == [VideoReadError, VideoReadError, OSError, ValueError]
    with pytest.raises(ValueError, match="lower glance_max_frames or max_pixels"):
        too_long.unwrap()


def test_what_run_raises_leaves_nothing_in_the_engine(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    readers = [FakeReader(i) for i in range(3)]
    many = [Request(lambda r=r: r, "Q?", SHORT, Sampling()) for r in readers]  # type: ignore[misc]

    def interrupt(event: Event) -> None:
        raise KeyboardInterrupt

    engine = engine_for(checkpoint, max_sessions=2)
    with pytest.raises(KeyboardInterrupt):
        engine.run(many, on_event=interrupt)
    assert engine.pool.num_free == engine.pool.num_blocks
    assert [reader.closed for reader in readers] == [True, True, False]  # the third was never opened
    with monkeypatch.context() as patch:
        patch.setattr(
            checkpoint.model, "forward", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("no memory"))
        )
        assert [type(one.error) for (one,) in engine.run(many)] == [torch.OutOfMemoryError] * 3
    with pytest.raises(ValueError, match="num_rollouts must be 1 to max_sessions"):
        engine.run([many[0], dataclasses.replace(many[1], num_rollouts=9)])
    assert list(engine.events()) == []
    assert [len(group) for group in engine.run(many[:2])] == [1, 1]
    engine.add(many[0])
    with pytest.raises(ValueError, match="the engine is busy"):
        engine.run(many)
    assert len([e for e in engine.events() if isinstance(e, Finished)]) == 1  # what was added before is still there


def test_run_lets_an_observer_cancel_and_fork(checkpoint: Checkpoint) -> None:
    engine = engine_for(checkpoint, max_sessions=3)
    told: list[Event] = []

    def steer(event: Event) -> None:
        told.append(event)
        if isinstance(event, TurnOpened) and event.request_id == 0:
            engine.fork(0, [Sampling(temperature=1.0)])
            engine.cancel(0)

    (cancelled,), (fine,) = engine.run(requests(Sampling(), 2), on_event=steer)
    assert cancelled.unwrap().stop_reason is StopReason.CANCELLED
    assert fine.unwrap().stop_reason is not StopReason.CANCELLED
    assert {e.request_id for e in told if isinstance(e, Finished)} == {0, 1, 2}  # the branch ends too


def test_a_request_about_a_file_checks_before_it_opens(checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    render(make_video(1), path)
    clip_cache = ClipCache()
    checked: list[bool] = []

    def refuse() -> None:
        checked.append(path.exists())
        raise ValueError("another file now")

    about = partial(Request.about, checkpoint=checkpoint, clip_cache=clip_cache, config=SHORT)
    good = about(path, "What?", sampling=SAMPLED, num_rollouts=2)
    refused = about(path, "What?", check=refuse)
    assert (good.config, good.sampling, good.num_rollouts) == (SHORT, SAMPLED, 2)
    assert refused.sampling == Sampling()
    assert checked == []  # a request that waits opens nothing
    with engine_for(checkpoint, max_sessions=2) as engine:
        (a, b), (no,) = engine.run([good, refused])
    assert str(no.error) == "another file now"
    assert checked == [True]
    assert a.glance is not None
    assert a.glance.frames.shape[1] * a.glance.frames.shape[2] <= SHORT.max_pixels
    assert a.unwrap().video.path == str(path)
    assert b.unwrap().ids != a.unwrap().ids
    assert clip_cache.stats().misses == len(a.glance)  # decoded once for both
