"""A run's file: the same whoever did it, and however often it was stopped."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from eval_small import small_benchmark

import vzoom
from vzoom.engine.session import Session
from vzoom.eval.runs.policy import Policy
from vzoom.eval.runs.run import RunConfig, RunProgress, run
from vzoom.eval.runs.shard import Shard
from vzoom.eval.runs.store import content_hash, read_rows, read_settings
from vzoom.eval.scores.figures import figures_of
from vzoom.zoomer import Zoomer

CONFIG = RunConfig(max_sessions=2, block=2)


@pytest.fixture(scope="module")
def zoomer() -> Zoomer:
    return vzoom.load("embedded", device="cpu")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("videos")


@pytest.fixture(scope="module")
def undisturbed(zoomer: Zoomer, videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = run(zoomer, small_benchmark(), videos, tmp_path_factory.mktemp("run"), CONFIG)
    assert path is not None
    return path


def test_a_row_says_what_was_asked_answered_and_spent(undisturbed: Path) -> None:
    rows = read_rows(undisturbed)
    assert [row.item.id for row in rows] == [f"which-{i}" for i in range(6)]
    assert rows[3].item.evidence == next(i for i in small_benchmark().load(".") if i.id == "which-3").evidence
    for row in rows:
        told, story = row.prediction, json.loads(row.prediction.trajectory)
        assert story["answer"] == told.answer
        assert told.verdict == ("right" if told.said == row.item.reference else "wrong")
        assert told.frames == len(story["glance_seconds"]) + sum(z["frames"] for z in story["zooms"])
        assert told.tokens_prefilled == story["tokens_prefilled"]
        assert "milliseconds" not in told.trajectory
        assert story["video"] == row.item.video
        assert row.timing.generate > 0
        # Keys and values of four layers, two heads of 32 float32 each: of every token but the last, never fed.
        fed = told.tokens_prefilled + told.tokens_sampled - len(story["turns"])
        assert told.kv_bytes == 2 * 4 * 2 * 32 * 4 * fed
        assert told.flops > 2 * 4 * 128 * 384 * 3 * fed  # the MLPs alone
    assert {row.prediction.verdict for row in rows} == {"right", "wrong"}
    assert read_settings(undisturbed)["policy"]["name"] == "zoom"


def test_shards_give_the_file_of_one_process(zoomer: Zoomer, videos: Path, undisturbed: Path, tmp_path: Path) -> None:
    second, first = (run(zoomer, small_benchmark(), videos, tmp_path, CONFIG, shard=Shard(i, 2)) for i in (1, 0))
    assert second is None
    assert first is not None
    assert content_hash(first) == content_hash(undisturbed)


class Stopped(Exception):
    pass


def test_a_stopped_run_goes_on_with_another_number_of_processes(
    zoomer: Zoomer, videos: Path, undisturbed: Path, tmp_path: Path
) -> None:
    def stop(done: RunProgress) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        run(zoomer, small_benchmark(), videos, tmp_path, CONFIG, shard=Shard(1, 2), progress=stop)
    (tmp_path / "shards" / ".merge.lock").write_text("0.0.7")  # left by another version
    seen: list[RunProgress] = []
    said: list[str] = []
    path = run(zoomer, small_benchmark(), videos, tmp_path, CONFIG, progress=seen.append, say=said.append)
    assert len(said) == 1
    assert f"{tmp_path} was left by vzoom 0.0.7, this is {vzoom.__version__}" in said[0]
    assert path is not None
    assert [(d.done, d.total, d.fresh) for d in seen] == [(4, 6, 2), (6, 6, 4)]
    assert content_hash(path) == content_hash(undisturbed)


def test_a_missing_video_is_a_verdict_and_changes_no_other_block(
    zoomer: Zoomer, videos: Path, undisturbed: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    (folder / "5.mp4").write_text("no video")  # there, but cannot be read
    path = run(zoomer, small_benchmark(missing=frozenset({4})), folder, tmp_path / "run", CONFIG)
    assert path is not None
    rows = read_rows(path)
    assert [row.prediction.verdict for row in rows[4:]] == ["missing_video"] * 2
    assert rows[4].prediction.failure == "not_asked"
    assert "4.mp4" in rows[4].prediction.detail
    assert rows[5].prediction.detail
    whole = read_rows(undisturbed)
    assert [replace(r.prediction) for r in rows[:4]] == [r.prediction for r in whole[:4]]


def test_a_conversation_that_fails_is_a_verdict_and_changes_no_other(
    zoomer: Zoomer, videos: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept = Session.accept

    def rotten(self: Session, token: int, logprob: float) -> str:
        if self.trajectory.video.path.endswith("3.mp4"):
            raise RuntimeError("a bug")
        return accept(self, token, logprob)

    monkeypatch.setattr(Session, "accept", rotten)
    path = run(zoomer, small_benchmark(), videos, tmp_path / "run", CONFIG)
    assert path is not None
    rows, whole = read_rows(path), read_rows(undisturbed)
    failed = rows.pop(3).prediction
    del whole[3]
    assert (failed.verdict, failed.detail, failed.failure, failed.conversations) == ("failed", "a bug", "failed", 0)
    assert [row.prediction.answer for row in rows] == [row.prediction.answer for row in whole]
    figures = figures_of([*rows, *(r for r in read_rows(path) if r.prediction.verdict == "failed")])
    assert (figures.scored, figures.scores.overall.counts["failed"]) == (5, 1)


def test_other_settings_are_refused_by_name(zoomer: Zoomer, videos: Path, undisturbed: Path) -> None:
    with pytest.raises(ValueError, match=r"other settings \(.*seed was 0, now 1"):
        run(zoomer, small_benchmark(), videos, undisturbed.parent, replace(CONFIG, seed=1))
    with pytest.raises(ValueError, match=r"policy was"):
        run(zoomer, small_benchmark(), videos, undisturbed.parent, replace(CONFIG, policy=Policy("uniform")))
    assert run(zoomer, small_benchmark(), videos, undisturbed.parent, CONFIG) == undisturbed


def test_a_user_s_mistake_is_an_error(zoomer: Zoomer, videos: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, policy=Policy("uniform", budget=2000))
    small = Zoomer(zoomer.checkpoint, config=zoomer.config.override(max_total_tokens=300))
    with pytest.raises(ValueError, match=r"small:0.*the glance of"):
        run(small, small_benchmark(), videos, tmp_path, config)
    with pytest.raises(ValueError, match="holds no item"):
        run(zoomer, small_benchmark(0), videos, tmp_path / "b", CONFIG)
    with pytest.raises(ValueError, match="max_sessions ≤ block"):
        RunConfig(max_sessions=4, block=2)


def test_policies_that_ask_again_ask_less_often_where_the_model_is_sure(
    zoomer: Zoomer, videos: Path, tmp_path: Path
) -> None:
    def rows(name: str, confidence: float) -> list:
        policy = Policy(name, confidence=confidence)
        out = tmp_path / f"{name}{confidence}"
        path = run(zoomer, small_benchmark(4), videos, out, RunConfig(policy, max_sessions=2, block=4))
        assert path is not None
        return [row.prediction for row in read_rows(path)]

    always, never = rows("gated", 1e-6), rows("gated", 1.0)
    sure = [p for p in always if p.conversations == 1]  # of the others the glance alone gave no answer at all
    assert sure
    assert {p.zooms for p in sure} == {0}
    assert all(0 < p.confidence <= 1 for p in sure)
    assert all(p.conversations == 2 for p in never if p.confidence < 1)
    assert sum(p.zooms for p in never) >= 1
    assert all(a.frames < n.frames for a, n in zip(always, never, strict=True) if a in sure and n.conversations == 2)
    stepwise = rows("early-stop", 0.9)
    for told in stepwise:
        assert told.conversations == 5 or told.confidence >= 0.9
        assert told.conversations <= 5
