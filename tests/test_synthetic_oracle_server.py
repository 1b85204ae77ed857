"""The oracle behind HTTP: what it says is what the oracle says, whoever made the calls, and nothing is kept."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections import Counter
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faulty_oracle import Fault, Faults, FaultyOracle
from protocols import VZOOM

from vzoom.chat import Chat, ChatFailed, Endpoint, EndpointsRefuse, Reply
from vzoom.config import ZoomConfig
from vzoom.protocol import parse
from vzoom.protocol.render import render_call
from vzoom.synthetic import FAMILIES, SyntheticConfig, config_for
from vzoom.synthetic.dataset import facts_of
from vzoom.synthetic.oracle import next_turn, oracle_turns
from vzoom.synthetic.oracle_server import OracleServer, main
from vzoom.types import Answer, ZoomCall

DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
parse_turn = partial(parse.parse_turn, protocol=VZOOM, video_fps=8.0)
ZOOM = ZoomConfig(max_zooms=4)
CONFIGS = {family: config_for(family) for family in FAMILIES}
RECORD = "which-training-000003-0"
FRAME = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
QUESTION = {"role": "user", "content": [{"type": "text", "text": "Frame 1 at 0.00s: "}, FRAME]}
CLIP = {"role": "user", "content": [{"type": "text", "text": "2 frames"}, FRAME, FRAME]}
_IMAGELESS = {"role": "user", "content": [{"text": "of no type"}]}
ERROR = {"role": "user", "content": "Error (reversed): The start must be before the end."}


def chat_at(server: OracleServer, **settings: Any) -> Chat:
    return Chat([Endpoint(server.url, "oracle", settings.pop("key", None))], sleep=lambda _: None, **settings)


def ask(chat: Chat, messages: list[Any], record: str = RECORD, task: str = "distill", **settings: Any) -> str:
    reply = chat.complete(messages, tag=record, task=task, **settings)
    assert isinstance(reply, Reply), reply
    return reply.text


def play(chat: Chat, record: str) -> list[str]:
    """A whole conversation: each call brings a clip."""
    messages, texts = [QUESTION], []
    while True:
        texts.append(ask(chat, messages, record))
        if isinstance(parse_turn(texts[-1]), Answer):
            return texts
        messages = [*messages, {"role": "assistant", "content": texts[-1]}, CLIP]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_conversation_is_the_oracles_own(family: str, stream: bool) -> None:
    with FaultyOracle(CONFIGS, ZOOM) as server:
        chat = chat_at(server, stream=stream)
        for number in range(6):
            record = f"{family}-{('training', 'public')[number % 2]}-{number:06d}-{number}"
            video, question = facts_of(record, CONFIGS)
            turns = oracle_turns(video, question, ZOOM, max_zooms=4, rng=np.random.default_rng(0))
            texts = play(chat, record)
            assert texts == [turn.text(VZOOM) for turn in turns]
            assert server.requests[record] == len(texts)
            assert texts == play(chat, record)  # it keeps nothing


def test_what_others_called_counts_only_where_it_brought_frames() -> None:
    question = facts_of(RECORD, CONFIGS)[1]
    start, end = question.evidence[0]
    good = {
        "role": "assistant",
        "content": f"<think>there</think>{render_call(ZoomCall(start - 1, end + 1, 2), VZOOM)}",
    }
    with OracleServer(CONFIGS, ZOOM) as server:
        chat = chat_at(server)
        assert parse_turn(ask(chat, [QUESTION, good, CLIP])) == Answer(question.answer_letter)
        assert isinstance(parse_turn(ask(chat, [QUESTION, good, ERROR])), ZoomCall)
        # refused turns use up zooms, too
        said = ask(chat, [QUESTION, *[good, ERROR] * 4])
        assert said.startswith("<think>Not seen.</think>")
        assert said == ask(chat, [QUESTION, *[good, ERROR] * 4])  # the same guess every time


def test_a_correction_says_what_was_wrong() -> None:
    video, question = facts_of(RECORD, CONFIGS)
    other = next(s for s in video.scenes if (s.start_seconds, s.end_seconds) != question.search[0])
    call = ZoomCall(other.start_seconds, other.start_seconds + 4, 2)
    wrong = {"role": "assistant", "content": f"<think>here</think>{render_call(call, VZOOM)}"}
    parts = [*CLIP["content"], {"type": "text", "text": "That was wrong: say why, and zoom again."}]
    with FaultyOracle(CONFIGS, ZOOM) as server:
        text = ask(chat_at(server), [QUESTION, wrong, {"role": "user", "content": parts}], task="reflect")
        assert server.log[0].task == "reflect"
    assert text.startswith(f"<think>That is {other.colour}. The ")
    expected = next_turn(video, question, ZOOM, [call], zooms_left=3, rng=np.random.default_rng(0))
    assert text == expected.text(VZOOM)


def test_stop_strings_and_limits_are_those_of_openai() -> None:
    with OracleServer(CONFIGS, ZOOM) as server:
        chat = chat_at(server)
        whole = ask(chat, [QUESTION])
        assert ask(chat, [QUESTION], stop=("</video_zoom>", "</answer>")) == whole.removesuffix("</video_zoom>")
        reply = chat.complete([QUESTION], tag=RECORD, task="distill", max_tokens=3)
        assert isinstance(reply, Reply)
        assert (reply.text, reply.finish, reply.completion_tokens) == (" ".join(whole.split()[:3]), "length", 3)
        assert reply.prompt_tokens == len(["Frame", "1", "at", "0.00s:"]) + 1


def test_what_it_refuses() -> None:
    with OracleServer(CONFIGS, ZOOM, key="k") as server:
        with pytest.raises(EndpointsRefuse, match="401"):
            ask(chat_at(server, key="l"), [QUESTION])
        for record in ("x", "which-training-3-0", "where-training-000003-0"):
            with pytest.raises(EndpointsRefuse, match="404"):
                ask(chat_at(server, key="k"), [QUESTION], record)
        chat = chat_at(server, key="k")
        for messages in ([], [{"role": "user"}], [{"role": "assistant", "content": "x"}], [_IMAGELESS]):
            failed = chat.complete(messages, tag=RECORD, task="distill")
            assert isinstance(failed, ChatFailed)
            assert failed.reason.startswith("400")
        assert isinstance(chat.complete([QUESTION], tag="", task=""), ChatFailed)  # no metadata
        root = server.url.removesuffix("/v1")
        for url, code in ((f"{root}/v2/models", 404), (f"{root}/v1/completions", 404)):
            data = b"{}" if url.endswith("completions") else None
            with pytest.raises(urllib.error.HTTPError) as caught:
                DIRECT.open(url, data)
            assert caught.value.code == code
            assert "no such path" in json.load(caught.value)["error"]["message"]
        with DIRECT.open(f"{server.url}/models") as reply:
            assert json.load(reply)["data"][0]["id"] == "oracle"


def test_faults_are_the_same_whatever_the_order() -> None:
    faults = Faults({7: Fault.SLOW}, rate=0.3, seed=2)
    drawn = {(r, n): faults.befalling(100, r, n) for r in ("a", "b") for n in range(300)}
    assert drawn == {(r, n): faults.befalling(999, r, n) for r in ("b", "a") for n in reversed(range(300))}
    assert 120 < sum(f is not None for f in drawn.values()) < 240
    assert {f for f in drawn.values() if f} == set(Fault)
    assert [replace(faults, seed=3).befalling(100, "a", n) for n in range(50)] != [drawn["a", n] for n in range(50)]
    assert faults.befalling(7, "a", 0) is Fault.SLOW
    with pytest.raises(ValueError, match="rate"):
        Faults(rate=1.0)


def test_the_log_tells_what_was_asked_twice() -> None:
    with FaultyOracle(CONFIGS, ZOOM, faults=Faults({1: Fault.BROKEN})) as server:
        chat = chat_at(server)
        for _ in range(2):
            ask(chat, [QUESTION])
        ask(chat, [QUESTION, {"role": "assistant", "content": "x"}, ERROR])
        assert server.requests == Counter({RECORD: 4})
        assert [served.fault for served in server.log] == [None, Fault.BROKEN, None, None]
        assert [served.digest == server.log[0].digest for served in server.log] == [True, True, True, False]
        assert sorted(server.replies.values()) == [1, 2]


def test_closing_waits_for_no_slow_reply() -> None:
    with FaultyOracle(CONFIGS, ZOOM, faults=Faults({0: Fault.SLOW}, slow_seconds=60)) as server:
        found: list[Any] = []
        thread = threading.Thread(target=lambda: found.append(ask(chat_at(server), [QUESTION])))
        thread.start()
        while not server.log:
            thread.join(0.01)
    thread.join(10)
    assert len(found) == 1  # it came when the server went down


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_runs_as_a_program(number: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "--config" in capsys.readouterr().out
    config = config_for("which", SyntheticConfig(duration_seconds=32, num_scenes=(3, 4)))
    (tmp_path / "videos.json").write_text(json.dumps({"which": asdict(config)}))
    ZOOM.save(tmp_path / "vzoom.json")
    command = [sys.executable, "-m", "vzoom.synthetic.oracle_server", "--port", "0", "--key", "k"]
    command += ["--config", str(tmp_path / "videos.json"), "--zoom", str(tmp_path / "vzoom.json")]
    root = Path(__file__).parent.parent
    path = os.pathsep.join(filter(None, (str(root), os.environ.get("PYTHONPATH"))))
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}
    ) as process:
        try:
            assert process.stdout is not None
            chat = Chat([Endpoint(process.stdout.readline().strip(), "oracle", "k")])
            video, question = facts_of(RECORD, config)
            turns = oracle_turns(video, question, ZOOM, max_zooms=4, rng=np.random.default_rng(0))
            assert play(chat, RECORD) == [turn.text(VZOOM) for turn in turns]
        finally:
            process.send_signal(number)
        assert process.stdout.read() == f"{len(turns)} requests\n"


@pytest.mark.parametrize("limit", [0, 1])
def test_a_record_with_fewer_zooms_is_held_with_fewer(limit: int) -> None:
    with OracleServer(CONFIGS, ZOOM) as server:
        for number in range(8):
            texts = play(chat_at(server), f"which-training-{number:06d}-0-z{limit}")
            assert len(texts) <= limit + 1
