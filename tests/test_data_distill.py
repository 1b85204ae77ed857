"""Exemplars: who is kept, why the others are not, nothing paid twice, order, budget, and the command line."""

from __future__ import annotations

import json
import threading
import time
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
    files_of,
    make_factory,
    make_questions,
    read_questions,
    turns_of,
)
from faulty_oracle import Fault, Faults, FaultyOracle

from vzoom.chat import BudgetSpent, ChatFailed, Reply
from vzoom.cli import main
from vzoom.data.collect.distill import EpisodeFactory, distill
from vzoom.data.collect.expert import Verifier
from vzoom.data.collect.loop import CollectSummary
from vzoom.data.collect.reply_cache import JsonLines, ReplyCache, key_of, same_settings
from vzoom.data.record import Record
from vzoom.data.store import num_waiting, read
from vzoom.protocol.judging import JudgeFailed
from vzoom.types import ZoomCall

pytest.importorskip("pyarrow", reason="pyarrow (extra train) is not installed")

LOOK = '<think>See.</think><video_zoom>{"segment": [4, 6], "fps": 2}</video_zoom>'
BROKEN = '<think>See.</think><video_zoom>{"segment": [4, 6]}</video_zoom>'


def answer(letter: str) -> str:
    return f"<think>So.</think><answer>{letter}</answer>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_questions(tmp_path_factory.mktemp("videos"), 6)


@pytest.fixture(scope="module")
def questions(folder: Path) -> list[Record]:
    return read_questions(folder)


@pytest.fixture(scope="module")
def factory() -> EpisodeFactory:
    return make_factory()


def run(
    questions: Sequence[Record], out: Path, says: Says, factory: EpisodeFactory, **options: Any
) -> tuple[CollectSummary, ScriptedChat]:
    chat = ScriptedChat(says)
    cache = ReplyCache(out / "replies.jsonl")
    try:
        verify = Verifier(cache, options.pop("judge", None))
        found = distill(questions, out, factory=factory, expert=expert_of(chat, cache), verify=verify, **options)
    finally:
        cache.close()
    return found, chat


def rejected(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]


def right(question: Record) -> str:
    assert question.reference is not None
    return answer(question.reference)


def wrong(question: Record) -> str:
    return answer(next(letter for letter in "ABCD" if letter != question.reference))


# ---------------------------------------------------------------- who is kept


def test_a_right_answer_is_kept_with_what_led_to_it(
    questions: list[Record], factory: EpisodeFactory, tmp_path: Path
) -> None:
    one = questions[0]
    found, chat = run([one], tmp_path, turns_of(BROKEN, LOOK, right(one)), factory)
    assert (found.items, found.kept, found.rejected, found.stopped) == (1, 1, {}, None)
    (record,) = read(tmp_path / "kept")
    assert (record.id, record.question, record.options, record.reference) == (
        (one.id, one.question, one.options, one.reference)
    )
    assert [turn.text for turn in record.turns] == [BROKEN, LOOK, right(one)]
    assert [turn.flawed for turn in record.turns] == [True, False, False]
    assert record.turns[1].outcome == ZoomCall(4, 6, 2)
    assert [(tag, task) for tag, task, _ in chat.asked] == [(one.id, "distill")] * 3


@pytest.mark.parametrize(
    ("says", "reason", "detail"),
    [
        (lambda q: turns_of(LOOK, wrong(q)), "wrong", "the answer is"),
        (lambda q: turns_of(answer("A or B")), "wrong", "'A or B'"),
        (lambda q: turns_of(LOOK, LOOK, LOOK, LOOK, LOOK), "no_answer", "rounds"),
        (lambda q: turns_of(*["I do not know."] * 5), "no_answer", "rounds"),
        (lambda q: turns_of("<think>" + "and on " * 80), "no_answer", "turn_tokens"),
        (lambda q: turns_of(f"It is {right(q)}"), "form", "turn 1"),
        (lambda q: turns_of(LOOK, right(q).replace("</think>", "</think> chatter ")), "form", "turn 2"),
        (lambda q: lambda m, t: Reply(right(q)[:-9], 1, 1, "e", finish="length"), "cut_short", "turn 1"),
    ],
)
def test_what_is_not_kept_is_recorded_with_the_reason(
    says: Any, reason: str, detail: str, questions: list[Record], factory: EpisodeFactory, tmp_path: Path
) -> None:
    found, chat = run(questions[:1], tmp_path, says(questions[0]), factory)
    assert (found.kept, found.rejected) == (0, {reason: 1})
    (row,) = rejected(tmp_path)
    assert (row["id"], row["reason"]) == (questions[0].id, reason)
    assert detail in row["detail"]
    assert len(row["turns"]) == len(chat.asked)  # all that was said


def test_a_reply_that_ends_in_time_is_no_reply_cut_short(
    questions: list[Record], factory: EpisodeFactory, tmp_path: Path
) -> None:
    reply = Reply(right(questions[0]) + " and on", 1, 1, "e", finish="length")
    assert run(questions[:1], tmp_path, lambda m, t: reply, factory)[0].kept == 1


def test_attempts_go_on_until_one_is_right(questions: list[Record], factory: EpisodeFactory, tmp_path: Path) -> None:
    one = questions[0]
    said = iter([wrong(one), "nothing", *["no"] * 4, right(one), "too many"])
    found, chat = run([one], tmp_path / "a", lambda m, t: next(said), factory, attempts=4)
    assert (found.kept, found.rejected, len(chat.asked)) == (1, {}, 7)
    found, chat = run([one], tmp_path / "b", lambda m, t: wrong(one), factory, attempts=3)
    assert (found.kept, found.rejected, len(chat.asked)) == (0, {"wrong": 1}, 3)
    with pytest.raises(ValueError, match="attempts must be 1 or more"):
        run([one], tmp_path / "c", lambda m, t: "", factory, attempts=0)


def test_an_open_answer_needs_a_judge_who_is_asked_once(
    questions: list[Record], factory: EpisodeFactory, tmp_path: Path
) -> None:
    open_ended = [replace(q, options=(), reference="a star") for q in questions[:2]]
    asked = []

    def judge(question: str, reference: str, said: str) -> bool:
        asked.append((question, reference, said))
        return said == "one star"

    def says(messages: Sequence[Mapping[str, Any]], tag: str) -> str:
        return answer("one star" if tag == open_ended[0].id else "a ring")

    found, _ = run(open_ended, tmp_path, says, factory, judge=judge)
    assert (found.kept, found.rejected) == (1, {"wrong": 1})
    assert sorted(said for _, _, said in asked) == ["a ring", "one star"]
    cache = ReplyCache(tmp_path / "replies.jsonl")
    verify = Verifier(cache, judge)
    assert verify(open_ended[0], "one star")  # by the cache
    assert not verify(open_ended[1], "a ring")
    assert len(asked) == 2
    cache.close()
    with pytest.raises(ValueError, match="needs a judge"):
        run(open_ended, tmp_path / "b", says, factory)
    found, _ = run(open_ended, tmp_path / "c", says, factory, judge=lambda *_: JudgeFailed("busy"))
    assert (found.passed, found.kept) == ({"no_reply": 2}, 0)


@pytest.mark.parametrize(
    ("changes", "problem"), [({"reference": None}, "no reference answer"), ({"reference": "E"}, "must be one of")]
)
def test_questions_that_nobody_can_verify(
    changes: dict[str, Any], problem: str, questions: list[Record], factory: EpisodeFactory, tmp_path: Path
) -> None:
    unclear = replace(questions[1], **changes)
    with pytest.raises(ValueError, match=problem):
        run([questions[0], unclear], tmp_path, turns_of(answer("A")), factory)
    assert (tmp_path / "replies.jsonl").read_bytes() == b""  # and nothing was paid


def test_conversations_and_doubles_are_no_questions(
    questions: list[Record], factory: EpisodeFactory, tmp_path: Path
) -> None:
    one = questions[0]
    run([one], tmp_path / "a", turns_of(right(one)), factory)
    with pytest.raises(ValueError, match="is a conversation already"):
        run(list(read(tmp_path / "a" / "kept")), tmp_path / "b", turns_of(right(one)), factory)
    with pytest.raises(ValueError, match="more than once"):
        run([one, one], tmp_path / "b", turns_of(right(one)), factory)


# ---------------------------------------------------------------- order, and nothing paid twice


def test_results_are_in_the_order_of_the_questions(
    questions: list[Record], factory: EpisodeFactory, tmp_path: Path
) -> None:
    """The first question takes longest, and every second answer is wrong."""
    by_id = {question.id: number for number, question in enumerate(questions)}

    def says(messages: Sequence[Mapping[str, Any]], tag: str) -> str:
        number = by_id[tag]
        time.sleep(0.1 * (len(questions) - number))
        return wrong(questions[number]) if number % 2 else right(questions[number])

    found, _ = run(questions, tmp_path, says, factory, concurrency=6)
    assert (found.kept, found.rejected) == (3, {"wrong": 3})
    assert [record.id for record in read(tmp_path / "kept")] == [q.id for q in questions[::2]]
    assert [row["id"] for row in rejected(tmp_path)] == [q.id for q in questions[1::2]]
    again, chat = run(questions, tmp_path, says, factory)
    assert (again, chat.asked) == (found, [])
    assert len(rejected(tmp_path)) == 3  # neither asked nor written twice


def test_no_more_at_once_than_allowed(questions: list[Record], factory: EpisodeFactory, tmp_path: Path) -> None:
    now, most, lock = 0, 0, threading.Lock()

    def says(messages: Sequence[Mapping[str, Any]], tag: str) -> str:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.05)
        with lock:
            now -= 1
        return answer("A")

    run(questions, tmp_path, says, factory, concurrency=2)
    assert most == 2


def test_what_stopped_goes_on_with_what_was_paid(
    questions: list[Record], factory: EpisodeFactory, tmp_path: Path
) -> None:
    """Stopped by a budget in the middle of conversations: replies that came are used, and not asked for again."""
    by_id = {question.id: question for question in questions}

    def says(messages: Sequence[Mapping[str, Any]], tag: str) -> str:
        return turns_of(LOOK, right(by_id[tag]))(messages, tag)

    whole = tmp_path / "whole"
    _, undisturbed = run(questions, whole, says, factory, concurrency=1)
    out, left = tmp_path / "stopped", iter(range(5))

    def poor(messages: Sequence[Mapping[str, Any]], tag: str) -> str:
        if next(left, None) is None:
            raise BudgetSpent("the cap is reached")
        return says(messages, tag)

    stopped, _ = run(questions, out, poor, factory, concurrency=2)
    assert stopped.stopped == "the cap is reached"
    assert stopped.kept <= 2
    assert not list((out / "kept").glob("*.parquet"))  # a short shard would not be that of an undisturbed run
    assert num_waiting(out / "kept") == stopped.kept
    replies = (out / "replies.jsonl").read_text().splitlines()
    assert len(replies) == 5
    again, second = run(questions, out, says, factory, concurrency=2)
    assert (again.kept, again.stopped) == (6, None)
    assert len(second.asked) == len(undisturbed.asked) - 5
    shard = "kept/part-00000.parquet"
    assert (out / shard).read_bytes() == (whole / shard).read_bytes()
    assert run(questions, out, says, factory)[1].asked == []


def test_a_ledger_that_a_kill_cut_short(questions: list[Record], factory: EpisodeFactory, tmp_path: Path) -> None:
    one = questions[0]
    run([one], tmp_path, turns_of(LOOK, right(one)), factory)
    cache = tmp_path / "replies.jsonl"
    whole = cache.read_bytes()
    first = whole.index(b"\n") + 1
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "replies.jsonl").write_bytes(whole[: first + 40])
    _, chat = run([one], tmp_path / "b", turns_of(LOOK, right(one)), factory)
    assert len(chat.asked) == 1  # the first was paid for
    assert (tmp_path / "b" / "replies.jsonl").read_bytes() == whole


def test_another_temperature_is_another_request(
    questions: list[Record], factory: EpisodeFactory, tmp_path: Path
) -> None:
    chat = ScriptedChat(lambda m, t: "x")
    cache = ReplyCache(tmp_path / "l.jsonl")
    expert = expert_of(chat, cache)
    hello = [{"role": "user", "content": "Hello"}]
    for changes in ({}, {}, {"tag": "b"}, {"task": "u"}, {"attempt": 1}):
        expert.ask(hello, **{"tag": "a", "task": "t", "attempt": 0, **changes})
    expert.ask([*hello, *hello], tag="a", task="t", attempt=0)
    assert len(chat.asked) == 5  # of six: the second was in the cache
    warm = expert_of(chat, cache)
    warm._temperature = 0.5
    warm.ask(hello, tag="a", task="t", attempt=0)
    assert len(chat.asked) == 6
    cache.close()


# ---------------------------------------------------------------- nobody answers


def test_a_question_without_a_reply_is_asked_again_later(
    questions: list[Record], factory: EpisodeFactory, tmp_path: Path
) -> None:
    by_id = {question.id: question for question in questions}
    silent = questions[1].id

    def says(messages: Sequence[Mapping[str, Any]], tag: str) -> str | ChatFailed:
        return ChatFailed("500", 6) if tag == silent else right(by_id[tag])

    found, _ = run(questions, tmp_path, says, factory)
    assert (found.kept, found.passed, found.rejected) == (5, {"no_reply": 1}, {})
    found, chat = run(questions, tmp_path, lambda m, t: right(by_id[t]), factory)
    assert (found.kept, found.passed) == (6, {})
    assert [tag for tag, _, _ in chat.asked] == [silent]


def test_an_expert_who_is_gone_stops_the_run(questions: list[Record], factory: EpisodeFactory, tmp_path: Path) -> None:
    found, chat = run(questions, tmp_path, lambda m, t: ChatFailed("no route", 6), factory, concurrency=1)
    assert found.stopped is not None
    assert "no route" in found.stopped
    assert len(chat.asked) <= 4  # three in a row, and one that was on its way
    assert rejected(tmp_path) == []


def test_a_refused_key_ends_the_run(questions: list[Record], factory: EpisodeFactory, tmp_path: Path) -> None:
    def says(messages: Sequence[Mapping[str, Any]], tag: str) -> str:
        raise ValueError("the key is refused")

    with pytest.raises(ValueError, match="the key is refused"):
        run(questions, tmp_path, says, factory)


# ---------------------------------------------------------------- files


def test_lines_and_ledgers(tmp_path: Path) -> None:
    path = tmp_path / "a" / "l.jsonl"
    lines = JsonLines(path)
    with pytest.raises(ValueError, match="in use by another"):
        JsonLines(path)
    lines.add({"a": "ö"})
    lines.close()
    with path.open("ab") as file:
        file.write(b'{"b": 1')
    lines = JsonLines(path)
    assert lines.rows == [{"a": "ö"}]
    lines.add({"c": 2})
    lines.close()
    assert path.read_text() == '{"a": "ö"}\n{"c": 2}\n'
    path.write_text('{"a": 1}\n{"a"\n{"a": 3}\n')
    with pytest.raises(ValueError, match=r"l\.jsonl, line 2"):
        JsonLines(path)
    path.write_text('{"a": 1}\n')
    with pytest.raises(ValueError, match=r"line 1 is damaged .it holds no key"):
        ReplyCache(path)
    path.write_text("[]\n")
    with pytest.raises(ValueError, match=r"line 1 is damaged .it is no JSON object"):
        JsonLines(path)
    assert key_of({"a": 1, "b": 2}) == key_of({"b": 2, "a": 1}) != key_of({"a": 1, "b": 3})


def test_a_folder_is_gone_on_with_as_it_was_begun(tmp_path: Path) -> None:
    same_settings(tmp_path / "a", {"attempts": 1, "names": ("x",)})
    same_settings(tmp_path / "a", {"attempts": 1, "names": ("x",)})
    with pytest.raises(ValueError, match="was begun with attempts 1, not 2"):
        same_settings(tmp_path / "a", {"attempts": 2, "names": ("x",)})


# ---------------------------------------------------------------- the command line, against a real server


def test_the_command(
    folder: Path,
    questions: list[Record],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With faults on the way; a budget that stops it; taken up again; as an undisturbed run in the end."""
    faults = Faults(plan={1: Fault.BROKEN, 4: Fault.DROPPED, 6: Fault.TRUNCATED, 9: Fault.EMPTY})
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with FaultyOracle(CONFIG, ZOOM, faults=faults) as faulty, FaultyOracle(CONFIG, ZOOM) as server:
        monkeypatch.setenv("VZOOM_EXPERT_MODEL", "oracle")
        monkeypatch.setenv("VZOOM_EXPERT_URL", server.url)
        out = tmp_path / "out"
        command = ["distill", "--questions", str(folder), "--concurrency", "2", "--reply-tokens", "200", "--out"]
        assert main([*command, str(out), "--max-tokens", "35000", "--progress"]) == 1
        said = capsys.readouterr()
        assert "raise the cap to continue" in said.err
        assert "Run the same command again to resume." in said.err
        assert not (out / "summary.json").exists()
        assert main([*command, str(out)]) == 0
        said = capsys.readouterr()
        assert said.out.startswith(f"{out}/kept: 6 of 6 kept, ")
        assert "6/6: 6 kept, " in said.err
        assert set(server.replies.values()) == {1}  # nothing was paid twice
        summary = json.loads((out / "summary.json").read_text())
        assert (summary["items"], summary["kept"], summary["rejected"]) == (6, 6, {})
        (paid,) = summary["paid"].values()
        assert paid["requests"] == server.replies.total() == 12
        assert main([*command, str(out), "--attempts", "2"]) == 2
        assert "was begun with attempts 1, not 2" in capsys.readouterr().err
        assert main(["data", "check", str(out / "kept"), "--hash-videos", "--model", "embedded"]) == 0

        monkeypatch.setenv("VZOOM_EXPERT_URL", faulty.url)
        assert main([*command, str(tmp_path / "faulty")]) == 0
        shard = "kept/part-00000.parquet"
        assert files_of(tmp_path / "faulty")[shard] == files_of(out)[shard]
        assert faulty.requests.total() == 12 + 4
        assert main([*command, str(tmp_path / "two"), "--limit", "2"]) == 0
        assert len(list(read(tmp_path / "two" / "kept"))) == 2
        assert main([*command, str(tmp_path / "two"), "--limit", "0"]) == 2


def test_the_command_needs_an_expert(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("VZOOM_EXPERT_URL", "VZOOM_EXPERT_MODEL"):
        monkeypatch.delenv(name, raising=False)
    assert main(["distill", "--questions", str(folder), "--out", str(tmp_path / "o")]) == 2
    assert "set VZOOM_EXPERT_URL and VZOOM_EXPERT_MODEL" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
