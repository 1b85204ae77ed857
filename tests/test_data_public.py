"""VideoZoomer's published formats, taken over."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from data_records import QUESTION

from vzoom.data.importers import PUBLIC_CONFIG, import_rl, import_sft, options_in
from vzoom.data.record import Record
from vzoom.data.tokens import tokenize_record
from vzoom.data.validate import InvalidRecord
from vzoom.models.checkpoint.vocabulary import load_vocabulary
from vzoom.synthetic import make_video, render
from vzoom.types import Answer, CallError, Malformed, StopReason, ZoomCall
from vzoom.zoomer import embedded_path

CALL = '<think>Look.</think><video_zoom>{"segment": [4.0, 8.0], "fps": 1}</video_zoom>'
FAR = '<think>Far.</think><video_zoom>{"segment": [900.0, 904.0], "fps": 1}</video_zoom>'
BAD = "<think>Hm.</think><video_zoom>zoom please</video_zoom>"
ANSWER = "<think>I see.</think><answer>B</answer>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("videos")
    render(make_video(2), path / "w.mp4")
    return path


def labelled(*seconds: float) -> str:
    return "".join(f"<frame{i}_time{t:.2f}s><image>" for i, t in enumerate(seconds))


def reply(*seconds: float) -> str:
    return f"<tool_response>\nFrames:\n{labelled(*seconds)}</tool_response> Go on."


def row(*said: str, glance: tuple[float, ...] = (0.0, 2.0, 4.0), **changes: Any) -> dict[str, Any]:
    """said: assistant, user, assistant, …"""
    texts = [f"{labelled(*glance)}\n{QUESTION}", *said]
    messages = [{"role": "system", "content": "You watch videos."}]
    messages += [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
    images = [f"{i}.jpg" for i in range(sum(text.count("<image>") for text in texts))]
    return {"messages": messages, "images": images, "videos": ["w.mp4"]} | changes


def taken(tmp_path: Path, folder: Path, *rows: Any, **options: Any) -> list[Record]:
    (tmp_path / "sft.json").write_text(json.dumps(rows))
    return list(import_sft(tmp_path / "sft.json", videos=folder, **options))


def test_a_conversation_of_the_expert(tmp_path: Path, folder: Path) -> None:
    (record,) = taken(tmp_path, folder, row(CALL, reply(4, 5, 6, 7), ANSWER))
    assert (record.id, record.question, record.reference) == ("sft-0", QUESTION, None)
    assert record.glance_seconds == (0, 2, 4)
    assert [turn.outcome for turn in record.turns] == [ZoomCall(4, 8, 1), Answer("B")]
    assert [turn.pts_seconds for turn in record.turns] == [(4, 5, 6, 7), ()]
    assert [(turn.source, turn.flawed) for turn in record.turns] == [("expert", False)] * 2
    assert (record.stop_reason, record.config) == (StopReason.ANSWERED, PUBLIC_CONFIG)
    vocabulary = load_vocabulary(str(embedded_path()))
    tokens = tokenize_record(record, vocabulary)
    learned = [i for i, yes in zip(tokens.trajectory.ids, tokens.learned, strict=True) if yes]
    assert vocabulary.codec.decode(learned) == CALL + ANSWER
    assert [seconds for visual in tokens.trajectory.visuals for seconds in visual.pts_seconds] == [0, 2, 4, 4, 5, 6, 7]


def test_calls_that_came_to_nothing_are_flawed(tmp_path: Path, folder: Path) -> None:
    said = (BAD, reply(), FAR, reply(99.0, 99.0), CALL, "<tool_response>\nError: gone<tool_response>", ANSWER)
    (record,) = taken(tmp_path, folder, row(*said))
    assert [turn.outcome.error for turn in record.turns if isinstance(turn.outcome, Malformed)] == [
        CallError.BAD_JSON,
        CallError.BEYOND_END,
        CallError.UNREADABLE,
    ]
    assert [turn.flawed for turn in record.turns] == [True, True, True, False]
    assert all(not turn.pts_seconds for turn in record.turns)
    tokenize_record(record, load_vocabulary(str(embedded_path())))


def test_repeated_frames_and_text_behind_the_end(tmp_path: Path, folder: Path) -> None:
    (record,) = taken(tmp_path, folder, row(CALL + "\nWaiting.", reply(4, 5, 5, 6), ANSWER + "\n"))
    assert record.turns[0].pts_seconds == (4, 5, 6)
    assert [turn.text for turn in record.turns] == [CALL, ANSWER]


def test_a_conversation_without_an_answer(tmp_path: Path, folder: Path) -> None:
    (record,) = taken(tmp_path, folder, row(CALL, reply(4, 5, 6, 7), CALL))
    assert (record.stop_reason, record.turns[-1].flawed) == (StopReason.ROUNDS, True)


def test_videos_from_a_list(tmp_path: Path, folder: Path) -> None:
    rows = [{k: v for k, v in row(ANSWER).items() if k != "videos"}] * 2
    (tmp_path / "list.json").write_text(json.dumps(["w.mp4"]))
    with pytest.raises(InvalidRecord, match=r"sft\.json, row 1: .*list\.json is not a list that names a video"):
        taken(tmp_path, folder, *rows, video_list=tmp_path / "list.json")
    (tmp_path / "list.json").write_text(json.dumps(["w.mp4", "w.mp4"]))
    records = taken(tmp_path, folder, *rows, video_list=tmp_path / "list.json")
    assert [record.video.path for record in records] == [str(folder / "w.mp4")] * 2


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        (row(ANSWER, videos=["none.mp4"]), "none.mp4"),
        (row(ANSWER, videos=[]), r"videos must be a list of one path, got \[\]"),
        (row(ANSWER, images=["0.jpg"]), "3 <image> in the messages, but images: 1"),
        (row(ANSWER, images=None), "but images: None"),
        (row(ANSWER, messages="hi"), "messages must be a list of objects, got str"),
        (row(ANSWER, reply(1)), "roles must be user, assistant in turn"),
        (row(CALL, "Here: <image>", ANSWER), "1 <image>, but 0 with a time"),
        (row(ANSWER, glance=(2.0, 0.0)), "glance_seconds do not increase"),
        (row(ANSWER, glance=(0.0, 9999.0)), "are outside the video's"),
        ("text", "must be an object, got str"),
    ],
)
def test_a_bad_chat_is_named(tmp_path: Path, folder: Path, bad: Any, problem: str) -> None:
    with pytest.raises(InvalidRecord, match=rf"sft\.json, row 1: .*{problem}"):
        taken(tmp_path, folder, row(ANSWER), bad)


def test_questions_for_rl(tmp_path: Path, folder: Path) -> None:
    path = tmp_path / "rl.json"
    rows = [
        {"problem": f"<image>\n{QUESTION}", "solution": "<answer> B </answer>", "videos": ["w.mp4"], "doc_id": 7},
        {"problem": QUESTION, "solution": "A cat.", "videos": ["w.mp4"], "data_source": "x"},
    ]
    path.write_text(json.dumps(rows))
    first, second = import_rl(path, videos=folder)
    assert (first.id, first.question, first.reference, first.turns) == ("7", QUESTION, "B", ())
    assert (second.id, second.reference) == ("rl-1", "A cat.")
    for change, problem in (
        ({"solution": " "}, "solution must be text, got ' '"),
        ({"solution": 3}, "solution must be text, got 3"),
        ({"problem": None}, "problem must be text, got None"),
        ({"problem": "<image>"}, "the question is empty"),
        ({"videos": ["w.mp4", "v.mp4"]}, "videos must be a list of one path"),
    ):
        path.write_text(json.dumps([rows[0], rows[0] | change]))
        with pytest.raises(InvalidRecord, match=rf"rl\.json, row 1: {problem}"):
            list(import_rl(path, videos=folder))
    for text, problem in (("{", "is no JSON"), ('{"a": 1}', "must hold a JSON list, not dict")):
        path.write_text(text)
        with pytest.raises(InvalidRecord, match=problem):
            list(import_rl(path, videos=folder))


@pytest.mark.parametrize(
    ("question", "options"),
    [
        ("Which?\nA. red\nB. blue", ("red", "blue")),
        ("Which?\n\n(A) red\n\n(B) blue\n(C) a green one \n", ("red", "blue", "a green one")),
        ("Which?\nA: red\nB: blue\nC) green", ("red", "blue", "green")),
        ("Which of these?\nA. red\nB. blue\nAnswer with a word.", ()),  # what is listed is not at the end
        ("Which?\nA. red", ()),
        ("Which?\nB. red\nC. blue", ()),
        ("Plan A. or B.?", ()),
        ("First list:\nA. x\nB. y\nThen:\nA. red\nB. blue", ("red", "blue")),
    ],
)
def test_options_are_the_last_lines_of_a_question(question: str, options: tuple[str, ...]) -> None:
    assert options_in(question) == options


def test_a_multiple_choice_question_needs_no_judge(tmp_path: Path, folder: Path) -> None:
    question = "Which colour?\nA. red\nB. blue"
    rows = [
        {"problem": question, "solution": "<answer>B</answer>", "videos": ["w.mp4"]},
        {"problem": question, "solution": "(a)", "videos": ["w.mp4"]},
        {"problem": question, "solution": "neither", "videos": ["w.mp4"]},
    ]
    (tmp_path / "rl.json").write_text(json.dumps(rows))
    found = [(r.options, r.reference) for r in import_rl(tmp_path / "rl.json", videos=folder)]
    assert found == [(("red", "blue"), "B"), (("red", "blue"), "A"), ((), "neither")]
