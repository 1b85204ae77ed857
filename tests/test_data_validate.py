"""Records whose fields do not agree, and what is said of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from data_records import (
    CONFIG,
    DONE,
    LOOK,
    MALFORMED,
    OVER_BUDGET,
    PLAIN,
    PROMPT,
    RECORDS,
    REFLECTION,
    VIDEO,
    ZOOM,
    with_turn,
)

from vzoom.data.record import Record, VideoRef, from_trajectory
from vzoom.data.validate import InvalidRecord, check
from vzoom.data.videos import check_video, refer
from vzoom.synthetic import make_video, render
from vzoom.types import Answer, CallError, Malformed, StopReason, Trajectory, Turn, ZoomCall
from vzoom.video import VideoError

IDS, SAMPLED = (1, 2, 3, 4), (False, True, False, True)


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.id)
def test_good_records_pass(record: Record) -> None:
    check(record)


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        (replace(PLAIN, id=""), "the id is empty"),
        (replace(PLAIN, question="\n"), "the question is empty"),
        (replace(PROMPT, stop_reason=StopReason.ROUNDS), "no turns, but"),
        (replace(PROMPT, ids=IDS, sampled=SAMPLED), "no turns, but"),
        (replace(PLAIN, config=replace(CONFIG, max_zooms=0), turns=ZOOM.turns), "2 turns, max_zooms 0 allows 1"),
        (replace(PLAIN, glance_seconds=()), "glance_seconds is empty"),
        (replace(PLAIN, glance_seconds=(0.0, 9.0)), "0 to 9 are outside the video's 4 s"),
        (replace(PLAIN, config=replace(CONFIG, glance_max_frames=1)), "glance of 2 frames, the limit is 1"),
        (replace(ZOOM, config=replace(CONFIG, max_frames=3)), "4 frames, the limit is 3"),
        (with_turn(ZOOM, 0, pts_seconds=()), "turn 1: 0 frames came with"),
        (with_turn(ZOOM, 1, pts_seconds=(1.0,)), "turn 2: 1 frames came with"),
        (with_turn(ZOOM, 0, pts_seconds=(1.5, 1.0)), "turn 1: pts_seconds do not increase"),
        (with_turn(ZOOM, 0, pts_seconds=(1.0, 4.5)), "turn 1: pts_seconds 1 to 4.5 are outside"),
        (replace(ZOOM, config=replace(CONFIG, zoom_max_frames=1)), "a clip of 2 frames, the limit is 1"),
        (with_turn(ZOOM, 0, outcome=ZoomCall(1, 3, 2)), "turn 1: the outcome is .*the text reads as"),
        (with_turn(ZOOM, 1, outcome=Answer("A")), "turn 2: the outcome is Answer.*'A'.*reads as Answer.*'B'"),
        (replace(PLAIN, turns=PLAIN.turns * 2), "turn 1: an answer, but another turn follows"),
        (with_turn(MALFORMED, 0, flawed=False), "turn 1: it was not carried out, so it must be marked flawed"),
        (with_turn(MALFORMED, 0, outcome=Malformed(CallError.EMPTY, "")), "turn 1: the outcome is empty, but"),
        (with_turn(OVER_BUDGET, 2, flawed=False), "turn 3: it was not carried out"),
        (with_turn(PLAIN, 0, outcome=None, flawed=True), "turn 1: no outcome, but only a last turn"),
        (
            replace(with_turn(PLAIN, 0, outcome=None, flawed=True), stop_reason=StopReason.TURN_TOKENS),
            "turn 1: a turn cut short is known by its tokens only",
        ),
        (with_turn(PLAIN, 0, text=DONE + " So."), "turn 1: the text continues after its end: ' So.'"),
        (replace(PLAIN, stop_reason=None), "there are turns, but no stop_reason"),
        (replace(PLAIN, stop_reason=StopReason.CANCELLED), "cancelled"),
        (replace(PLAIN, stop_reason=StopReason.ROUNDS), "stop_reason is rounds, the last outcome Answer"),
        (replace(OVER_BUDGET, stop_reason=StopReason.ANSWERED), "stop_reason is answered, the last outcome ZoomCall"),
        (replace(ZOOM, ids=IDS), "of ids and sampled one is missing"),
        (replace(ZOOM, ids=IDS, sampled=SAMPLED[:3]), "4 ids and 3 marks"),
        (replace(PLAIN, ids=IDS, sampled=SAMPLED), "2 runs of sampled tokens for 1 turns"),
        (replace(ZOOM, ids=(*IDS, 5), sampled=(*SAMPLED, False)), "the last token was not sampled"),
    ],
)
def test_what_does_not_agree_is_said(record: Record, problem: str) -> None:
    with pytest.raises(InvalidRecord, match=problem):
        check(record)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"path": ""}, "no path"),
        ({"duration_seconds": 0.0}, "duration_seconds of the video must be above 0, got 0.0"),
        ({"fps": float("nan")}, "fps of the video must be above 0, got nan"),
        ({"sha256": None}, "only a URL may lack it"),
        ({"sha256": "ABC"}, "64 hex digits, got 'ABC'"),
    ],
)
def test_a_reference_must_be_whole(changes: dict[str, object], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        replace(VIDEO, **changes)  # type: ignore[arg-type]
    assert replace(VIDEO, path="https://example.org/a.mp4", sha256=None).sha256 is None


def test_an_engines_conversation_marks_what_came_to_nothing() -> None:
    turns = [
        Turn("no", Malformed(CallError.EMPTY, "no")),
        Turn(LOOK, ZoomCall(1, 2, 2), pts_seconds=(1.0, 1.5)),
        Turn(LOOK, ZoomCall(1, 2, 2)),
    ]
    trajectory = Trajectory("Q?", VIDEO.info, [1, 2, 3, 4, 5], [True, False, True, False, True], turns=turns)
    trajectory.glance_seconds = (0.0,)
    with pytest.raises(ValueError, match="conversation a is not finished: stop_reason None"):
        from_trajectory(trajectory, CONFIG, id="a", video=VIDEO)
    trajectory.stop_reason = StopReason.ROUNDS
    record = from_trajectory(trajectory, CONFIG, id="a", video=VIDEO, options=["x", "y"], reference="x")
    assert [turn.flawed for turn in record.turns] == [True, False, True]
    assert (record.options, record.reference, record.answer) == (("x", "y"), "x", None)
    assert REFLECTION.answer == "B"
    check(record)
    turns[1].num_reused = 3
    with pytest.raises(ValueError, match="approximate: not for training"):
        from_trajectory(trajectory, CONFIG, id="a", video=VIDEO)


def test_a_video_is_known_by_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "w.mp4"
    video = make_video(1)
    render(video, path)
    ref = refer(path)
    assert isinstance(ref, VideoRef)
    assert (ref.path, ref.duration_seconds) == (str(path), pytest.approx(video.config.duration_seconds, abs=0.2))
    check_video(ref)
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(ValueError, match=r"w\.mp4 is another file now: sha256"):
        check_video(ref)
    path.unlink()
    with pytest.raises((VideoError, OSError), match=r"w\.mp4"):
        check_video(ref)
