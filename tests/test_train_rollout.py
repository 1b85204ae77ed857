"""Rollouts on our engine, their rewards, and the groups that a step is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from vzoom.data.record import Record
from vzoom.data.store import read
from vzoom.models import load_checkpoint
from vzoom.protocol.judging import JudgeFailed
from vzoom.synthetic.dataset import write_questions
from vzoom.train.common.dist import Team
from vzoom.train.rl.minibatches import EMPTY, plan
from vzoom.train.rl.progress import Progress, draw
from vzoom.train.rl.refill import fill
from vzoom.train.rl.reward import Reward, RewardConfig
from vzoom.train.rl.rollout import Rolled, Sampler, reference_of, rollout_seed, score_all
from vzoom.types import Trajectory
from vzoom.zoomer import embedded_path

from .training import WORLD, ZOOM


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    return list(read(write_questions(tmp_path_factory.mktemp("world"), "which", 3, WORLD, zoom=ZOOM)))


@pytest.fixture(scope="module")
def sampler() -> Sampler:
    return Sampler(load_checkpoint(str(embedded_path())), ZOOM, max_sessions=16)


def ids(groups: Sequence[Sequence[Trajectory]]) -> list[list[list[int]]]:
    return [[t.ids for t in group] for group in groups]


def test_seeds_depend_on_seed_step_and_question_alone() -> None:
    seeds = {rollout_seed(*key) for key in ((0, 0, "a"), (1, 0, "a"), (0, 1, "a"), (0, 0, "b"))}
    assert len(seeds) == 4
    assert rollout_seed(0, 3, "a", 2) == rollout_seed(0, 3, "a") + 2
    assert rollout_seed(0, 0, "which-training-000001-0") == 2879697233529696292  # else resumed runs roll out anew
    assert all(0 <= rollout_seed(0, step, "a") < 2**63 - 64 for step in range(200))


def test_who_rolls_out_what_does_not_matter(sampler: Sampler, questions: list[Record]) -> None:
    seeds = [rollout_seed(0, 1, q.id) for q in questions]
    whole = sampler.roll_out(questions, num_rollouts=4, temperature=1.2, seeds=seeds)
    assert [len(group) for group in whole] == [4, 4, 4]
    assert all(t.question == q.question for q, group in zip(questions, whole, strict=True) for t in group)
    parts = [
        sampler.roll_out([q], num_rollouts=4, temperature=1.2, seeds=[s])[0]
        for q, s in zip(questions, seeds, strict=True)
    ]
    assert ids(whole) == ids(parts)
    assert len({tuple(t.ids) for t in whole[0]}) > 1  # each rollout has its own seed
    other = sampler.roll_out(questions, num_rollouts=4, temperature=1.2, seeds=[s + 4 for s in seeds])
    assert ids(whole) != ids(other)


def test_greedy_answers_are_one_a_question(sampler: Sampler, questions: list[Record]) -> None:
    answers = sampler.answer(questions)
    assert [t.question for t in answers] == [q.question for q in questions]
    assert [t.ids for t in answers] == [t.ids for t in sampler.answer(questions)]


def test_frames_and_features_are_kept_between_steps(sampler: Sampler, questions: list[Record]) -> None:
    sampler.answer(questions)
    before = sampler.clip_cache.stats().misses, sampler.feature_cache.stats().misses
    sampler.answer(questions)
    assert (sampler.clip_cache.stats().misses, sampler.feature_cache.stats().misses) == before


def test_a_video_that_is_gone_or_changed_is_named(sampler: Sampler, questions: list[Record], tmp_path: Path) -> None:
    gone = replace(questions[0], video=replace(questions[0].video, path=str(tmp_path / "gone.mp4")))
    with pytest.raises(ValueError, match=rf"question {gone.id}, video {tmp_path}/gone\.mp4: .*no such file"):
        sampler.answer([gone])
    (tmp_path / "other.mp4").write_bytes(Path(questions[1].video.path).read_bytes())
    other = replace(questions[0], video=replace(questions[0].video, path=str(tmp_path / "other.mp4")))
    with pytest.raises(ValueError, match="is another file now"):
        sampler.answer([other])
    assert len(sampler.answer(questions)) == 3  # the sampler still works


def test_rewards_come_by_group_and_a_failed_judge_gives_none(sampler: Sampler, questions: list[Record]) -> None:
    groups = sampler.roll_out(questions[:2], num_rollouts=2, temperature=1.0, seeds=[1, 2])
    scored = score_all(questions[:2], groups, zoom_rate=0.0, config=RewardConfig())
    for rolled, question in zip(scored, questions[:2], strict=True):
        for trajectory, reward in zip(rolled.trajectories, rolled.rewards, strict=True):
            assert isinstance(reward, Reward)
            assert reward.accuracy == float((trajectory.answer or "")[:1] == question.reference)
        assert rolled.totals == tuple(r.total for r in rolled.rewards if isinstance(r, Reward))
    answered = [[replace_answer(t, "a cat") for t in group] for group in groups]
    opened = [replace(q, options=(), reference="a dog") for q in questions[:2]]
    failed = score_all(
        opened, answered, zoom_rate=0.0, config=RewardConfig(), judge=lambda *_: JudgeFailed("no reply", 1)
    )
    assert [rolled.totals for rolled in failed] == [(None, None)] * 2
    with pytest.raises(ValueError, match="has no reference answer"):
        reference_of(replace(questions[0], reference=None))


def replace_answer(trajectory: Trajectory, answer: str) -> Trajectory:
    return replace(trajectory, answer=answer)


# ---------------------------------------------------------------- groups


def rolled_of(record: Record, totals: Sequence[float | None]) -> Rolled:
    trajectory = Trajectory(record.question, record.video.info)
    rewards = tuple(JudgeFailed("x", 1) if t is None else Reward(t, 1.0, 0.0, t) for t in totals)
    return Rolled(record, (trajectory,) * len(totals), rewards)


def test_groups_without_signal_are_replaced(questions: list[Record]) -> None:
    asked: list[int] = []
    outcomes = iter([(1.0, 1.0), (0.0, 1.0), (None, 1.0), (0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (0.0, 1.0)])

    def draw_some(count: int) -> list[Record]:
        asked.append(count)
        return [questions[0]] * count

    def roll(records: Sequence[Record]) -> list[Rolled]:
        return [rolled_of(record, next(outcomes)) for record in records]

    filled = fill(draw_some, roll, wanted=3, max_refills=3)
    assert asked == [3, 3, 1] or asked == [3, 3]
    assert len(filled.kept) == 3
    assert (filled.num_flat, filled.num_unjudged, filled.num_failed) == (2, 1, 1)
    assert filled.num_refills == len(asked) - 1
    assert filled.keep_rate == (3 + filled.num_spare) / sum(asked)
    for _, advantages in filled.kept:
        assert sorted(round(a, 3) for a in advantages) == [-0.707, 0.707]


def test_refills_end_and_spare_groups_are_counted(questions: list[Record]) -> None:
    flat = fill(
        lambda n: [questions[0]] * n, lambda rs: [rolled_of(r, (1.0, 1.0)) for r in rs], wanted=2, max_refills=2
    )
    assert (flat.kept, flat.num_refills, flat.keep_rate) == ((), 2, 0.0)
    outcomes = iter([(1.0, 1.0), (1.0, 1.0), (1.0, 0.0), *[(0.0, 1.0)] * 9])
    some = fill(
        lambda n: [questions[0]] * n, lambda rs: [rolled_of(r, next(outcomes)) for r in rs], wanted=3, max_refills=1
    )
    assert (len(some.kept), some.num_spare, some.num_flat) == (3, 1, 2)


def test_each_pass_draws_every_question_once(questions: list[Record]) -> None:
    drawn = [q.id for q in draw(questions, first=0, count=9, seed=5)]
    for start in (0, 3, 6):
        assert sorted(drawn[start : start + 3]) == sorted(q.id for q in questions)
    assert [q.id for q in draw(questions, first=2, count=4, seed=5)] == drawn[2:6]
    assert drawn != [q.id for q in draw(questions, first=0, count=9, seed=6)]


def test_progress_survives_json() -> None:
    from json import dumps, loads

    from vzoom.train.rl.collapse import StepStats
    from vzoom.train.rl.reward import ZoomRate

    progress = Progress(3, 40, ZoomRate(0.3, 0.5, 3), (StepStats(0.1, 0.2, 0.3, 40.5),) * 3, (0.7, 2), 1)
    assert Progress.from_json(loads(dumps(progress.to_json()))) == progress
    assert Progress.from_json(loads(dumps(Progress().to_json()))) == Progress()


# ---------------------------------------------------------------- sharing out


def test_plan_gives_each_rollout_one_place_and_like_lengths_go_together() -> None:
    lengths = [100 + (37 * i) % 61 for i in range(22)]
    planned = plan(lengths, num_places=24, num_updates=2, micro_batch_size=3, seed=(0, 1))
    assert [len(update) for update in planned] == [4, 4]
    flat = [row for update in planned for micro in update for row in micro]
    assert sorted(flat) == [EMPTY, EMPTY, *range(22)]
    for update in planned:
        rows = [row for micro in update for row in micro]
        assert rows.count(EMPTY) == 1
        assert rows[-1] == EMPTY
        assert [lengths[r] for r in rows[:-1]] == sorted((lengths[r] for r in rows[:-1]), reverse=True)
    assert planned == plan(lengths, num_places=24, num_updates=2, micro_batch_size=3, seed=(0, 1))
    assert planned != plan(lengths, num_places=24, num_updates=2, micro_batch_size=3, seed=(0, 2))
    with pytest.raises(ValueError, match="do not go together"):
        plan(lengths, num_places=24, num_updates=5, micro_batch_size=3, seed=(0,))


class Pretended(Team):
    """Process `rank` of three, whose colleagues' shares are known."""

    def share(self, mine: list[int]) -> list[list[int]]:  # type: ignore[override]
        return [list(range(7))[rank::3] for rank in range(3)]


def test_what_the_team_made_comes_back_in_order() -> None:
    team = Pretended(1, 3)
    assert list(team.part(list(range(7)))) == [1, 4]
    assert team.whole([1, 4]) == list(range(7))
    assert Team().whole([5, 6]) == [5, 6]
