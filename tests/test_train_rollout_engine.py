"""Rollouts on our engine, their rewards, and how a step shares them out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from protocols import BRIEF

from vzoom.data.record import Record, reference_of
from vzoom.data.store import read
from vzoom.models import load_checkpoint
from vzoom.protocol.judging import JudgeFailed
from vzoom.synthetic.dataset import write_questions
from vzoom.train.common.dist import ProcessGroup
from vzoom.train.common.rollout_engine import RolloutEngine
from vzoom.train.recipes import recipe_named
from vzoom.train.rl.grpo_step import GRPOSteps, rollout_seed
from vzoom.train.rl.micro_batches import EMPTY, plan_micro_batches
from vzoom.train.rl.progress import GRPOProgress, draw_questions
from vzoom.train.rl.reward import Reward, RewardConfig, score_rollouts
from vzoom.types import Trajectory
from vzoom.zoomer import embedded_path

from .training import WORLD, ZOOM


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    return list(read(write_questions(tmp_path_factory.mktemp("world"), "which", 3, WORLD, zoom=ZOOM)))


@pytest.fixture(scope="module")
def engine() -> RolloutEngine:
    return RolloutEngine(load_checkpoint(str(embedded_path())), ZOOM, max_sessions=16)


def ids(groups: Sequence[Sequence[Trajectory]]) -> list[list[list[int]]]:
    return [[t.ids for t in group] for group in groups]


def test_seeds_depend_on_seed_step_and_question_alone() -> None:
    seeds = {rollout_seed(*key) for key in ((0, 0, "a"), (1, 0, "a"), (0, 1, "a"), (0, 0, "b"))}
    assert len(seeds) == 4
    assert rollout_seed(0, 3, "a", 2) == rollout_seed(0, 3, "a") + 2
    assert rollout_seed(0, 0, "which-training-000001-0") == 2879697233529696292  # else resumed runs roll out anew
    assert all(0 <= rollout_seed(0, step, "a") < 2**63 - 64 for step in range(200))


def test_who_rolls_out_what_does_not_matter(engine: RolloutEngine, questions: list[Record]) -> None:
    seeds = [rollout_seed(0, 1, q.id) for q in questions]
    whole = engine.roll_out(questions, num_rollouts=4, temperature=1.2, seeds=seeds)
    assert [len(group) for group in whole] == [4, 4, 4]
    assert all(t.question == q.question for q, group in zip(questions, whole, strict=True) for t in group)
    parts = [
        engine.roll_out([q], num_rollouts=4, temperature=1.2, seeds=[s])[0]
        for q, s in zip(questions, seeds, strict=True)
    ]
    assert ids(whole) == ids(parts)
    assert len({tuple(t.ids) for t in whole[0]}) > 1  # each rollout has its own seed
    other = engine.roll_out(questions, num_rollouts=4, temperature=1.2, seeds=[s + 4 for s in seeds])
    assert ids(whole) != ids(other)


def test_greedy_answers_are_one_a_question(engine: RolloutEngine, questions: list[Record]) -> None:
    answers = engine.answer(questions)
    assert [t.question for t in answers] == [q.question for q in questions]
    assert [t.ids for t in answers] == [t.ids for t in engine.answer(questions)]


def test_frames_and_features_are_kept_between_steps(engine: RolloutEngine, questions: list[Record]) -> None:
    engine.answer(questions)
    before = engine.clip_cache.stats().misses, engine.feature_cache.stats().misses
    engine.answer(questions)
    assert (engine.clip_cache.stats().misses, engine.feature_cache.stats().misses) == before


def test_a_video_that_is_gone_or_changed_is_named(
    engine: RolloutEngine, questions: list[Record], tmp_path: Path
) -> None:
    gone = replace(questions[0], video=replace(questions[0].video, path=str(tmp_path / "gone.mp4")))
    with pytest.raises(ValueError, match=rf"question {gone.id}, video {tmp_path}/gone\.mp4: .*no such file"):
        engine.answer([gone])
    (tmp_path / "other.mp4").write_bytes(Path(questions[1].video.path).read_bytes())
    other = replace(questions[0], video=replace(questions[0].video, path=str(tmp_path / "other.mp4")))
    with pytest.raises(ValueError, match="is another file now"):
        engine.answer([other])
    assert len(engine.answer(questions)) == 3  # the engine still works


def test_a_question_that_fails_leaves_the_others_alone(
    engine: RolloutEngine, questions: list[Record], tmp_path: Path
) -> None:
    gone = replace(questions[0], id="gone", video=replace(questions[0].video, path=str(tmp_path / "gone.mp4")))
    first, error, third = engine.roll_out(
        [questions[0], gone, questions[2]], num_rollouts=2, temperature=1.0, seeds=[1, 2, 3]
    )
    assert isinstance(error, ValueError)
    assert "question gone, video" in str(error)
    assert [len(first), len(third)] == [2, 2]

    recipe = replace(recipe_named("tiny"), zoom=ZOOM)
    policy: Any = SimpleNamespace()
    steps = GRPOSteps(recipe, policy, engine, [questions[0], gone, questions[2]], group=ProcessGroup())
    with pytest.warns(RuntimeWarning, match="left out of this step: question gone"):
        groups = steps._roll_out(3)
    assert {group.record.id for group in groups} == {questions[0].id, questions[2].id}
    broken = GRPOSteps(recipe, policy, engine, [gone, questions[1]], group=ProcessGroup())
    broken.questions = [gone]
    with pytest.raises(ValueError, match="1 of 1 questions failed; the first: question gone"):
        broken._roll_out(1)


def test_rewards_come_by_group_and_a_failed_judge_gives_none(engine: RolloutEngine, questions: list[Record]) -> None:
    groups = engine.roll_out(questions[:2], num_rollouts=2, temperature=1.0, seeds=[1, 2])
    scored = score_rollouts(questions[:2], groups, BRIEF, zoom_rate=0.0, config=RewardConfig())
    for group, rewards, question in zip(groups, scored, questions[:2], strict=True):
        for trajectory, reward in zip(group, rewards, strict=True):
            assert isinstance(reward, Reward)
            assert reward.accuracy == float((trajectory.answer or "")[:1] == question.reference)
    answered = [[replace_answer(t, "a cat") for t in group] for group in groups]
    opened = [replace(q, options=(), reference="a dog") for q in questions[:2]]
    failed = score_rollouts(
        opened, answered, BRIEF, zoom_rate=0.0, config=RewardConfig(), judge=lambda *_: JudgeFailed("no reply", 1)
    )
    assert failed == [(JudgeFailed("no reply", 1),) * 2] * 2
    with pytest.raises(ValueError, match="has no reference answer"):
        reference_of(replace(questions[0], reference=None))


def replace_answer(trajectory: Trajectory, answer: str) -> Trajectory:
    return replace(trajectory, answer=answer)


# ---------------------------------------------------------------- the next step


def test_each_pass_draws_every_question_once(questions: list[Record]) -> None:
    drawn = [q.id for q in draw_questions(questions, first=0, count=9, seed=5)]
    for start in (0, 3, 6):
        assert sorted(drawn[start : start + 3]) == sorted(q.id for q in questions)
    assert [q.id for q in draw_questions(questions, first=2, count=4, seed=5)] == drawn[2:6]
    assert drawn != [q.id for q in draw_questions(questions, first=0, count=9, seed=6)]


def test_progress_survives_json() -> None:
    from json import dumps, loads

    from vzoom.train.rl.collapse import StepStats
    from vzoom.train.rl.reward import ZoomRate

    progress = GRPOProgress(3, 40, ZoomRate(0.3, 0.5, 3), (StepStats(0.1, 0.2, 0.3, 40.5),) * 3, 1)
    assert GRPOProgress.from_json(loads(dumps(progress.to_json()))) == progress
    assert GRPOProgress.from_json(loads(dumps(GRPOProgress().to_json()))) == GRPOProgress()


# ---------------------------------------------------------------- sharing out


def test_plan_gives_each_rollout_one_place_and_like_lengths_go_together() -> None:
    lengths = [100 + (37 * i) % 61 for i in range(22)]
    planned = plan_micro_batches(lengths, num_places=24, num_updates=2, micro_batch_size=3, seed=(0, 1))
    assert [len(update) for update in planned] == [4, 4]
    flat = [row for update in planned for micro in update for row in micro]
    assert sorted(flat) == [EMPTY, EMPTY, *range(22)]
    for update in planned:
        rows = [row for micro in update for row in micro]
        assert rows.count(EMPTY) == 1
        assert rows[-1] == EMPTY
        assert [lengths[r] for r in rows[:-1]] == sorted((lengths[r] for r in rows[:-1]), reverse=True)
    assert planned == plan_micro_batches(lengths, num_places=24, num_updates=2, micro_batch_size=3, seed=(0, 1))
    assert planned != plan_micro_batches(lengths, num_places=24, num_updates=2, micro_batch_size=3, seed=(0, 2))
    with pytest.raises(ValueError, match="do not go together"):
        plan_micro_batches(lengths, num_places=24, num_updates=5, micro_batch_size=3, seed=(0,))


class Pretended(ProcessGroup):
    """Process `rank` of three, that knows what the others did."""

    def all_gather(self, mine: list[int]) -> list[list[int]]:  # type: ignore[override]
        return [list(range(7))[rank::3] for rank in range(3)]


def test_what_the_processes_made_comes_back_in_order() -> None:
    group = Pretended(1, 3)
    assert list(group.shard(list(range(7)))) == [1, 4]
    assert group.unshard([1, 4]) == list(range(7))
    assert ProcessGroup().unshard([5, 6]) == [5, 6]
