from dataclasses import replace

import numpy as np
import pytest
from protocols import BRIEF

from vzoom.config import ZoomConfig
from vzoom.protocol.frame_times import glance_timestamps, zoom_timestamps
from vzoom.protocol.parse import parse_turn
from vzoom.synthetic.oracle import next_turn, oracle_turns
from vzoom.synthetic.questions import FAMILIES, ask_questions, config_for, is_hit
from vzoom.synthetic.spec import SyntheticConfig, make_video
from vzoom.types import Answer, ZoomCall

CONFIG = ZoomConfig(protocol=BRIEF)


def play(family, seed, **options):
    video = make_video(seed, config_for(family))
    question = ask_questions(video, family, seed)
    turns = oracle_turns(video, question, CONFIG, rng=np.random.default_rng(seed), **options)
    times = []
    for turn in turns:
        assert (
            parse_turn(turn.text(BRIEF), BRIEF, video_fps=8.0) == turn.outcome
        )  # the strict form is read back as it was meant
        if isinstance(turn.outcome, ZoomCall):
            clip = zoom_timestamps(turn.outcome, video.info(), CONFIG)
            assert isinstance(clip, list)
            assert len(clip) <= CONFIG.zoom_max_frames
            times += clip
    assert [isinstance(t.outcome, Answer) for t in turns] == [False] * (len(turns) - 1) + [True]
    return video, question, turns, times


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("flaw", ["none", "shifted", "elsewhere"])
def test_the_oracle_is_right_and_saw_why(family, flaw):
    for seed in range(25):
        _, question, turns, times = play(family, seed, max_zooms=4, flaw=flaw)
        assert [t.flawed for t in turns] == [flaw != "none"] + [False] * (len(turns) - 1)
        if turns[-1].thought != "Not seen.":
            assert turns[-1].outcome.text == question.answer_letter
            assert is_hit(question.evidence, times)
        else:
            assert len(turns) == 5  # it only gives up when there is no zoom left


def test_it_looks_again_where_it_has_not_looked():
    numbers = [len(play("which", seed, max_zooms=4)[2]) for seed in range(40)]
    assert set(numbers) == {2, 3}  # one zoom, or a second where the first showed nothing
    for seed in range(40):
        _, question, turns, _ = play("which", seed, max_zooms=4)
        (start, end), calls = question.search[0], [t.outcome for t in turns[:-1]]
        assert calls[0].start_seconds == start
        assert all(c.end_seconds <= end for c in calls)
        if len(calls) == 2:
            assert calls[1].start_seconds == calls[0].end_seconds
            assert turns[1].thought.startswith("No shape")


def test_without_zooms_it_guesses():
    letters = []
    for seed in range(40):
        _, question, turns, times = play("which", seed, max_zooms=0)
        assert len(turns) == 1
        assert not times
        assert turns[0].thought == "Not seen."
        letters.append(turns[0].outcome.text == question.answer_letter)
    assert sum(letters) < 25


LINGERING = SyntheticConfig(duration_seconds=32, num_scenes=(4, 8), scene_seconds=(4, 8), lingering=0.5)


def test_what_the_glance_shows_needs_no_zoom():
    answered = 0
    for seed in range(60):
        video = make_video(seed, LINGERING)
        question = ask_questions(video, "which", seed)
        turns = oracle_turns(video, question, CONFIG, max_zooms=4, rng=np.random.default_rng(seed))
        shown = [t for t in glance_timestamps(video.info(), CONFIG) if is_hit(question.evidence, [t])]
        assert turns[-1].outcome.text == question.answer_letter
        assert (len(turns) == 1) == bool(shown)
        if shown:
            answered += 1
            assert f"at {shown[0]:.2f}s" in turns[0].thought
    assert 15 < answered < 45


def test_dense_frames_are_read_where_there_is_no_zoom():
    """A viewer of many uniform frames knows what they show, and guesses the rest."""
    dense = ZoomConfig(protocol=BRIEF, glance_fps=1.0)
    for seed in range(60):
        video = make_video(seed)
        question = ask_questions(video, "which", seed)
        (turn,) = oracle_turns(video, question, dense, max_zooms=0, rng=np.random.default_rng(seed))
        shown = is_hit(question.evidence, glance_timestamps(video.info(), dense))
        assert (turn.thought != "Not seen.") == shown
        if shown:
            assert turn.outcome.text == question.answer_letter


def test_a_clip_that_shows_a_part_of_a_lingering_event_is_enough():
    for seed in range(60):
        video = make_video(seed, LINGERING)
        question = ask_questions(video, "which", seed)
        ((start, end),) = question.evidence
        blind = replace(CONFIG, glance_fps=0.01)
        call = ZoomCall(max(0.0, start - 2), end - 1.5 if end - start > 1 else end, 2.0)
        turn = next_turn(video, question, blind, [call], zooms_left=3, rng=np.random.default_rng(0))
        assert isinstance(turn.outcome, Answer)
        early = ZoomCall(max(0.0, start - 3), start, 2.0)
        if early.end_seconds > early.start_seconds:
            turn = next_turn(video, question, blind, [early], zooms_left=3, rng=np.random.default_rng(0))
            assert isinstance(turn.outcome, ZoomCall)
