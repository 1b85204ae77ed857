"""Reflections: which rollouts are corrected, what the expert is asked, what is kept and what of it is learned."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from expert_tools import (
    CONFIG,
    ZOOM,
    Says,
    ScriptedChat,
    expert_of,
    make_factory,
    make_questions,
    read_questions,
    turns_of,
)
from faulty_oracle import FaultyOracle

from vzoom.cli import main
from vzoom.data.collect.distill import EpisodeFactory
from vzoom.data.collect.expert import Verifier
from vzoom.data.collect.loop import CollectSummary
from vzoom.data.collect.reflect import reflect
from vzoom.data.collect.reply_cache import ReplyCache
from vzoom.data.collect.rollouts import StudentRollout, roll_out
from vzoom.data.record import Record
from vzoom.data.store import read
from vzoom.data.tokens import tokenize_record
from vzoom.types import CallError, Malformed, ZoomCall
from vzoom.zoomer import load

pytest.importorskip("pyarrow", reason="pyarrow (extra train) is not installed")

VAIN = '<think>There.</think><video_zoom>{"segment": [0, 2], "fps": 2}</video_zoom>'
BROKEN = '<think>See.</think><video_zoom>{"segment": [4, 6]}</video_zoom>'
LOOK = '<think>Not there.</think><video_zoom>{"segment": [4, 6], "fps": 2}</video_zoom>'


def answer(letter: str) -> str:
    return f"<think>So.</think><answer>{letter}</answer>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_questions(tmp_path_factory.mktemp("videos"), 4)


@pytest.fixture(scope="module")
def questions(folder: Path) -> list[Record]:
    return read_questions(folder)


@pytest.fixture(scope="module")
def factory() -> EpisodeFactory:
    return make_factory()


def right(question: Record) -> str:
    assert question.reference is not None
    return question.reference


def wrong(question: Record) -> str:
    return next(letter for letter in "ABCD" if letter != question.reference)


def rollout(question: Record, *turns: str, said: str | None, number: int = 0, **changes: Any) -> StudentRollout:
    """One that looked at `turns` and then answered `said`, or nothing."""
    texts = (*turns, answer(said) if said else "I give up.")
    kinds = ("missing_key" if turn == BROKEN else "zoom" for turn in turns)
    last = "answer" if said else "cut"
    zoomed = tuple(i for i, turn in enumerate(turns) if turn != BROKEN)
    stop = "answered" if said else "turn_tokens"
    return replace(StudentRollout(question.id, number, texts, (*kinds, last), zoomed, said, stop), **changes)


def run(
    questions: Sequence[Record],
    rollouts: Sequence[StudentRollout],
    out: Path,
    says: Says,
    factory: EpisodeFactory,
    **options: Any,
) -> tuple[CollectSummary, ScriptedChat]:
    chat = ScriptedChat(says)
    cache = ReplyCache(out / "replies.jsonl")
    try:
        expert, verify = expert_of(chat, cache), Verifier(cache)
        return reflect(questions, rollouts, out, factory=factory, expert=expert, verify=verify, **options), chat
    finally:
        cache.close()


def refused(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]


# ---------------------------------------------------------------- what is kept, and what of it is learned


def test_a_vain_zoom_is_corrected(questions: list[Record], factory: EpisodeFactory, tmp_path: Path) -> None:
    one = questions[0]
    bad = rollout(one, BROKEN, VAIN, said=wrong(one))
    found, chat = run([one], [bad], tmp_path, turns_of("", "", LOOK, answer(right(one))), factory)
    assert (found.kept, found.rejected, found.passed) == (1, {}, {})
    (record,) = read(tmp_path / "kept")
    assert record.id == f"{one.id}+r0"
    assert [turn.text for turn in record.turns] == [BROKEN, VAIN, LOOK, answer(right(one))]
    assert [turn.source for turn in record.turns] == ["student", "student", "reflection", "expert"]
    assert [turn.flawed for turn in record.turns] == [True, True, False, False]
    assert isinstance(record.turns[0].outcome, Malformed)
    assert record.turns[0].outcome.error is CallError.MISSING_KEY
    assert record.turns[1].pts_seconds == (0.0, 0.5, 1.0, 1.5)
    assert record.turns[2].outcome == ZoomCall(4, 6, 2)
    assert (record.answer, record.reference) == (right(one), right(one))
    tokens = tokenize_record(record, factory.vocabulary)
    learned = [i for i, yes in zip(tokens.trajectory.ids, tokens.learned, strict=True) if yes]
    assert factory.vocabulary.codec.decode(learned) == LOOK + answer(right(one))
    assert [(tag, task) for tag, task, _ in chat.asked] == [(one.id, "reflect")] * 2


def test_what_the_expert_is_asked(questions: list[Record], factory: EpisodeFactory, tmp_path: Path) -> None:
    one = questions[0]
    bad = rollout(one, VAIN, said=wrong(one))
    _, chat = run([one], [bad], tmp_path, turns_of("", LOOK, answer(right(one))), factory)
    first, second = (messages for _, _, messages in chat.asked)
    assert [m["role"] for m in first] == ["system", "user", "assistant", "user"]
    assert first[2]["content"] == VAIN
    shown = first[3]["content"]
    assert sum(part["type"] == "image_url" for part in shown) == 4  # the clip that was in vain
    request = shown[-1]["text"]
    assert f"answered '{wrong(one)}', which is wrong" in request
    assert "what was wrong with the last zoom" in request
    assert answer(wrong(one)) not in str(first)  # its last turn is dropped
    assert f"'{right(one)}'" not in request  # no hint at the right answer
    assert second[: len(first)] == first
    assert [m["role"] for m in second[len(first) :]] == ["assistant", "user"]
    (record,) = read(tmp_path / "kept")
    assert "Stop here" not in factory.vocabulary.codec.decode(
        tokenize_record(record, factory.vocabulary).trajectory.ids
    )


def test_a_rollout_that_came_to_no_answer_is_corrected_too(
    questions: list[Record], factory: EpisodeFactory, tmp_path: Path
) -> None:
    one = questions[0]
    found, chat = run([one], [rollout(one, VAIN, said=None)], tmp_path, turns_of("", LOOK, answer(right(one))), factory)
    assert found.kept == 1
    assert "came to no answer." in chat.asked[0][2][-1]["content"][-1]["text"]


# ---------------------------------------------------------------- what is not


def test_right_rollouts_and_repeats_are_passed_over(
    questions: list[Record], factory: EpisodeFactory, tmp_path: Path
) -> None:
    one, two = questions[:2]
    bad = rollout(one, VAIN, said=wrong(one))
    rollouts = [
        rollout(one, VAIN, said=right(one)),
        replace(bad, number=1),
        replace(bad, number=2),
        rollout(two, VAIN, said=wrong(two)),
    ]

    def says(messages: Sequence[Mapping[str, Any]], tag: str) -> str:
        by_id = {one.id: one, two.id: two}
        return turns_of("", LOOK, answer(right(by_id[tag])))(messages, tag)

    found, chat = run([one, two], rollouts, tmp_path, says, factory)
    assert (found.items, found.kept, found.passed) == (4, 2, {"repeated": 1, "right": 1})
    assert [record.id for record in read(tmp_path / "kept")] == [f"{one.id}+r1", f"{two.id}+r0"]
    assert len(chat.asked) == 4


@pytest.mark.parametrize(
    ("held", "says", "reason"),
    [
        (lambda q: rollout(q, said=wrong(q)), lambda q: turns_of(), "no_zoom"),
        (lambda q: rollout(q, BROKEN, said=wrong(q)), lambda q: turns_of(), "no_zoom"),
        (lambda q: rollout(q, VAIN, VAIN, VAIN, VAIN, said=wrong(q)), lambda q: turns_of(), "no_zooms_left"),
        (lambda q: rollout(q, VAIN, said=wrong(q)), lambda q: turns_of("", answer(right(q))), "no_correction"),
        (lambda q: rollout(q, VAIN, said=wrong(q)), lambda q: turns_of("", BROKEN), "no_correction"),
        (lambda q: rollout(q, VAIN, said=wrong(q)), lambda q: turns_of("", LOOK, answer(wrong(q))), "wrong"),
        (lambda q: rollout(q, VAIN, said=wrong(q)), lambda q: turns_of("", *[LOOK] * 4), "no_answer"),
        (lambda q: rollout(q, VAIN, said=wrong(q), kinds=("over_budget", "answer")), lambda q: turns_of(), "not_rep"),
        (lambda q: rollout(q, said=None, problem="no such file"), lambda q: turns_of(), "unreadable"),
    ],
)
def test_what_cannot_be_converted(
    held: Any, says: Any, reason: str, questions: list[Record], factory: EpisodeFactory, tmp_path: Path
) -> None:
    one = questions[0]
    found, _ = run([one], [held(one)], tmp_path, says(one), factory)
    assert found.kept == 0
    (row,) = refused(tmp_path)
    assert row["reason"].startswith(reason)
    assert row["id"] == f"{one.id}+r0"


def test_the_last_rollout_with_room_for_a_zoom_is_corrected(
    questions: list[Record], factory: EpisodeFactory, tmp_path: Path
) -> None:
    one = questions[0]
    bad = rollout(one, VAIN, VAIN, VAIN, said=wrong(one))
    found, _ = run([one], [bad], tmp_path, turns_of("", "", "", LOOK, answer(right(one))), factory)
    assert found.kept == 1


# ---------------------------------------------------------------- the student's rollouts


def test_rollouts_are_the_same_again_and_are_kept(questions: list[Record], tmp_path: Path) -> None:
    zoomer = load(device="cpu")
    options: dict[str, Any] = {"num_rollouts": 2, "temperature": 1.0, "max_sessions": 4}
    cache = ReplyCache(tmp_path / "a.jsonl")
    first = roll_out(zoomer, questions, cache, seed=0, **options)
    assert [(r.question, r.number) for r in first] == [(q.id, n) for q in questions for n in range(2)]
    assert len({r.turns for r in first}) > 4  # each draws its own numbers
    assert any(r.zoomed for r in first)
    lines = (tmp_path / "a.jsonl").read_bytes().splitlines(keepends=True)
    assert len(lines) == 2  # blocks of two questions
    cache.close()

    (tmp_path / "b.jsonl").write_bytes(lines[0])  # as if killed in the second block
    cache = ReplyCache(tmp_path / "b.jsonl")
    assert roll_out(load(device="cpu"), questions, cache, seed=0, **options) == first
    assert (tmp_path / "b.jsonl").read_bytes() == b"".join(lines)

    class Nobody:
        """Asked for anything, it fails."""

    assert roll_out(Nobody(), questions, cache, seed=0, **options) == first  # type: ignore[arg-type]
    assert roll_out(zoomer, questions, cache, seed=1, **options) != first
    twins = [replace(questions[0], id=name) for name in ("a", "b")]  # alike but for the id
    drawn = [rollout.turns for rollout in roll_out(zoomer, twins, cache, seed=0, **options)]
    assert len(set(drawn)) == 4
    cache.close()
    with pytest.raises(ValueError, match="num_rollouts ≤ max_sessions"):
        roll_out(zoomer, questions, cache, seed=0, num_rollouts=5, temperature=1.0, max_sessions=4)


def test_the_command(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with FaultyOracle(CONFIG, ZOOM) as server:
        monkeypatch.setenv("VZOOM_EXPERT_URL", server.url)
        monkeypatch.setenv("VZOOM_EXPERT_MODEL", "oracle")
        out = tmp_path / "out"
        command = ["reflect", "--questions", str(folder), "--model", "embedded", "--device", "cpu", "--out", str(out)]
        command += ["--temperature", "1.4"]  # hot enough that it answers wrongly
        assert main([*command, "--rollouts", "2"]) == 0
        said = capsys.readouterr()
        assert said.out.startswith(f"{out}/kept: ")
        assert "4/4: questions rolled out" in said.err
        records = list(read(out / "kept"))
        assert records
        for record in records:
            sources = [turn.source for turn in record.turns]
            at = sources.index("reflection")
            assert sources == ["student"] * at + ["reflection"] + ["expert"] * (len(sources) - at - 1)
            assert all(turn.flawed for turn in record.turns[:at])
            assert record.turns[at].pts_seconds
            assert record.answer == record.reference
        before = server.requests.total()
        assert main([*command, "--rollouts", "2"]) == 0
        assert server.requests.total() == before
        assert main([*command, "--rollouts", "3"]) == 2
        assert "was begun with rollouts 2, not 3" in capsys.readouterr().err
        assert main(["data", "check", str(out / "kept"), "--hash-videos", "--model", "embedded"]) == 0
