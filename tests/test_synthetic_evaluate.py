from dataclasses import dataclass, field

import pytest

from vzoom.config import ZoomConfig
from vzoom.protocol.answers import Choice, read_choice
from vzoom.synthetic.evaluate import evaluate_synthetic, question_seeds
from vzoom.synthetic.questions import ask_questions
from vzoom.synthetic.spec import SyntheticConfig, make_video
from vzoom.types import Turn

SMALL = SyntheticConfig(duration_seconds=32, frame_size=56, fps=4, num_scenes=(3, 4))


@dataclass
class FakeTrajectory:
    zooms: list[Turn]
    num_frames: int = 40


@dataclass
class FakeResult:
    answer: str | None
    trajectory: FakeTrajectory


@dataclass
class FakeZoomer:
    """Knows every question's answer; `sees` and `knows` say for which questions, by their order."""

    seed: int
    count: int
    sees: set[int]
    knows: set[int]
    fails: set[int] = field(default_factory=set)
    config: ZoomConfig = field(default_factory=ZoomConfig)
    paths: list = field(default_factory=list)
    zooms_allowed: list = field(default_factory=list)

    def ask_many(self, jobs, *, max_zooms, max_sessions, on_event, return_exceptions):
        self.zooms_allowed.append(max_zooms)
        results = []
        for path, text in jobs:
            number = len(self.paths)
            assert path.exists()
            self.paths.append(path)
            seed = question_seeds(self.seed, self.count)[number]
            question = ask_questions(make_video(seed, SMALL), "which", seed)
            assert question.text == text
            wrong = "ABCD".replace(question.answer_letter, "")[0]
            at = question.evidence[0][0] if number in self.sees else question.evidence[0][1]
            turns = [Turn(pts_seconds=(at, at + 7.0))]
            answer = f"{question.answer_letter}." if number in self.knows else wrong
            results.append(FakeResult(None if number == 19 else answer, FakeTrajectory(turns)))
            if number in self.fails:
                assert return_exceptions
                results[-1] = RuntimeError("a bug")
        return results


def test_it_counts_hits_luck_and_errors_and_removes_its_videos():
    zoomer = FakeZoomer(seed=3, count=20, sees=set(range(10)), knows=set(range(5, 19)))
    figures = evaluate_synthetic(zoomer, "which", 20, 3, max_zooms=2, config=SMALL)
    assert figures["n"] == 20
    assert figures["chance"] == 0.25
    assert figures["max_zooms"] == 2
    assert figures["hit_rate"] == 10 / 20
    assert figures["accuracy"] == 14 / 20
    assert figures["correct_and_hit"] == 5 / 20
    assert figures["correct_without_hit"] == 9 / 20
    assert figures["answered"] == 19 / 20
    assert figures["mean_zooms"] == 1
    assert figures["mean_frames"] == 40
    assert set(zoomer.zooms_allowed) == {2}
    assert len(set(zoomer.paths)) == 20
    assert not any(p.exists() for p in zoomer.paths)


def test_a_conversation_that_fails_is_no_right_answer_and_ends_nothing():
    zoomer = FakeZoomer(seed=3, count=4, sees={0, 1, 2, 3}, knows={0, 1, 2, 3}, fails={1})
    figures = evaluate_synthetic(zoomer, "which", 4, 3, config=SMALL)
    assert (figures["failed"], figures["accuracy"], figures["hit_rate"]) == (0.25, 0.75, 0.75)


def test_a_cache_folder_keeps_its_videos(tmp_path):
    for _ in range(2):
        zoomer = FakeZoomer(seed=1, count=2, sees={0}, knows={0})
        assert evaluate_synthetic(zoomer, "which", 2, 1, cache_dir=tmp_path, config=SMALL)["max_zooms"] == 4
    assert sorted(zoomer.paths) == sorted(tmp_path.iterdir())


def test_another_seed_asks_about_other_videos():
    assert len(set(question_seeds(0, 100)) | set(question_seeds(1, 100))) == 200
    assert question_seeds(5, 3) == question_seeds(5, 10)[:3]
    with pytest.raises(ValueError, match="1 or more"):
        evaluate_synthetic(None, "which", 0, 0)


@pytest.mark.parametrize(
    ("answer", "letter"),
    [(yes, "B") for yes in ("B", "b", "(B)", "B.", "B)", "B: star", " ring ", "Ring.")]
    + [(no, None) for no in ("star", "Because", None, "", "AB", "moon or ring")],
)
def test_letters_are_read_tolerantly(answer, letter):
    choice = read_choice(answer, ("moon", "ring", "bolt", "cross"))
    assert (choice.letter if isinstance(choice, Choice) else None) == letter
