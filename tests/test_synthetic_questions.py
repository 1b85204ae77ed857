import numpy as np
import pytest

from vzoom.protocol import LETTERS
from vzoom.synthetic.questions import FAMILIES, ask_questions, config_for, is_hit
from vzoom.synthetic.spec import SHAPES, make_video


def brute_force(video, question):
    """The answer read off the question's own words and the list of events."""
    head = question.text.split("\n")[0]
    words = head.rstrip("?").split()
    if question.family in ("which", "count"):
        scene = next(s for s in video.scenes if s.colour == words[-2])
        inside = [e for e in video.events if scene.start_seconds <= e.start_seconds < scene.end_seconds]
        return inside[0].shape if question.family == "which" else str(len(inside))
    if question.family == "first":
        return next(e.shape for e in video.events if e.shape in question.options)
    shape, colour = words[2], words[-2]
    event = next(e for e in video.events if e.shape == shape)
    scene = next(s for s in video.scenes if s.colour == colour)
    return "before" if event.start_seconds < scene.start_seconds else "after"


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_against_brute_force(family):
    letters = []
    for seed in range(60):
        video = make_video(seed, config_for(family))
        question = ask_questions(video, family, seed)
        assert question == ask_questions(video, family, seed)
        assert question.options[LETTERS.index(question.answer_letter)] == brute_force(video, question)
        assert question.chance == 1 / len(question.options)
        assert len(set(question.options)) == len(question.options)
        for letter, option in zip(LETTERS, question.options, strict=False):
            assert f"\n{letter}: {option}" in question.text
        for interval in question.evidence:
            assert interval in [(e.start_seconds, e.end_seconds) for e in video.events]
            assert any(s <= interval[0] and interval[1] <= e for s, e in question.search)
        letters.append(question.answer_letter)
    counts = np.array([letters.count(x) for x in LETTERS[: len(question.options)]])
    assert counts.max() < 60 * (question.chance + 0.25)  # no letter is the answer to (nearly) all


def test_distractors_are_shapes_of_other_scenes():
    for seed in range(20):
        video = make_video(seed)
        question = ask_questions(video, "which", seed)
        assert set(question.options) <= {e.shape for e in video.events}
    lonely = ask_questions(make_video(0, config_for("which")), "which", 0)
    assert set(lonely.options) <= set(SHAPES)


def test_a_hit_needs_every_evidence_interval():
    evidence = ((3.5, 4.0), (9.0, 9.5))
    assert is_hit(evidence, [3.5, 9.25])
    assert is_hit(evidence, [3.4996, 9.0])  # a container's clock
    assert not is_hit(evidence, [3.5, 4.0, 8.875, 9.5])
    assert not is_hit(evidence, [9.0])
    assert not is_hit(evidence, [])


def test_families_that_a_video_does_not_allow_say_why():
    video = make_video(0, config_for("count"))
    with pytest.raises(ValueError, match="unknown family 'whose': choose one of which, first, count, order"):
        ask_questions(video, "whose", 0)
    crowded = make_video(0, config_for("which", type(video.config)(events_per_scene=(5, 5))))
    with pytest.raises(ValueError, match="exactly one event"):
        ask_questions(crowded, "which", 0)
    with pytest.raises(ValueError, match="1 to 4"):
        ask_questions(crowded, "count", 0)
