"""The chat client against real HTTP servers: one says what a test scripts, one is the synthetic oracle with faults."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from faulty_oracle import Fault, Faults, FaultyOracle
from faulty_server import Scripted, ScriptedServer, delta, error, said, scripted_server, streamed

from vzoom.chat import (
    Budget,
    BudgetSpent,
    Chat,
    ChatFailed,
    Endpoint,
    EndpointsRefuse,
    Reply,
    Usage,
    endpoints_from_environment,
)
from vzoom.chat.circuit import Circuits
from vzoom.chat.masking import masked
from vzoom.chat.wire import Problem
from vzoom.cli import main
from vzoom.config import ZoomConfig
from vzoom.synthetic import SyntheticConfig

HELLO = [{"role": "user", "content": "Hello"}]
USAGE = {"prompt_tokens": 30, "completion_tokens": 4}
RECORD = "which-training-000003-0"
GONE = Endpoint("http://127.0.0.1:9/v1", "gone", price_in=0, price_out=0)
CHARGED = {Fault.MALFORMED, Fault.TRUNCATED, Fault.CUT, Fault.DROPPED, Fault.SLOW}  # perhaps: nobody knows


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with scripted_server() as server:
        yield server


@pytest.fixture
def other() -> Iterator[ScriptedServer]:
    with scripted_server() as server:
        yield server


def at(server: ScriptedServer | FaultyOracle, **fields: Any) -> Endpoint:
    return Endpoint(server.url, **{"model": "a-model", "price_in": 2.0, "price_out": 10.0, **fields})


def chat_with(*endpoints: Endpoint, pauses: list[float] | None = None, **settings: Any) -> Chat:
    sleep = (lambda _: None) if pauses is None else pauses.append
    return Chat(endpoints, **{"sleep": sleep, "timeout_seconds": 5.0, **settings})


def say(chat: Chat, tag: str = RECORD, **settings: Any) -> Reply | ChatFailed:
    return chat.complete(HELLO, tag=tag, task="distill", **settings)


# ------------------------------------------------------------------------------------------ what is sent and read


def test_what_goes_out_and_what_comes_back(server: ScriptedServer) -> None:
    endpoint = at(server, key="secret")
    chat = chat_with(endpoint)
    server.replies = [said("<think>hm</think>", usage=USAGE)]
    reply = say(chat, stop=("</answer>",), temperature=0.5, max_tokens=77)
    assert reply == Reply("<think>hm</think>", 30, 4, f"a-model at {server.url}", "stop", 100 / 1e6)
    assert Reply.from_json(json.loads(json.dumps(reply.to_json()))) == reply
    path, headers, body = server.requests[0]
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == "Bearer secret"
    assert body == {
        "model": "a-model",
        "messages": HELLO,
        "temperature": 0.5,
        "max_tokens": 77,
        "stop": ["</answer>"],
        "stream": False,
        "metadata": {"record": RECORD, "task": "distill"},
    }
    assert "secret" not in repr((endpoint, reply, vars(chat)))


def test_options_set_fields_and_take_them_out(server: ScriptedServer) -> None:
    options = {"metadata": None, "temperature": 1, "reasoning_effort": "low"}
    server.replies = [said("yes")]
    say(chat_with(at(server, options=options)))
    body = server.requests[0][2]
    assert "metadata" not in body
    assert (body["temperature"], body["reasoning_effort"]) == (1, "low")


@pytest.mark.parametrize(
    ("reply", "text", "finish", "tokens"),
    [
        (streamed([delta("one "), delta("two", "stop"), {"choices": [], "usage": USAGE}]), "one two", "stop", (30, 4)),
        (streamed([delta(""), delta("role"), delta(None, "stop")]), "role", "stop", None),
        (streamed([": keep-alive", delta("cut"), delta("", "length")]), "cut", "length", None),
        (streamed([delta("without an end"), delta("", "stop")], done=False), "without an end", "stop", None),
        (streamed([delta("without a reason")]), "without a reason", "stop", None),
        (said("no stream at all", usage=USAGE), "no stream at all", "stop", (30, 4)),
    ],
)
def test_streams_as_servers_write_them(
    server: ScriptedServer, reply: Scripted, text: str, finish: str, tokens: tuple[int, int] | None
) -> None:
    server.replies = [reply]
    found = say(chat_with(at(server), stream=True))
    assert isinstance(found, Reply)
    assert (found.text, found.finish) == (text, finish)
    # without the server's counts, bytes are taken: more than any tokenizer makes of them
    assert (found.prompt_tokens, found.completion_tokens) == (tokens or (len("Hello") + 16, len(text)))
    assert server.requests[0][2]["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize(
    "reply",
    [
        streamed([delta("it breaks ")], done=False),
        streamed([], done=False),
        streamed([]),
        streamed([delta("x"), {"error": {"message": "overloaded"}}, delta("y", "stop")]),
        streamed([delta("x"), "data: {no json", delta("y", "stop")]),
        streamed([delta("x"), "data: 7", delta("y", "stop")]),
        streamed([{"choices": [{"delta": None}]}, delta("y", "stop")]),
        streamed([{"choices": [{"delta": {"content": 7}, "finish_reason": "stop"}]}]),
        (200, {"Content-Type": "text/event-stream", "Content-Length": "4000"}, streamed([delta("x")], done=False)[2]),
        said(None),
        said(" \n"),
        said([{"type": "text", "text": "parts"}]),
        (200, {}, b"[" * 5000),
        (200, {}, b"null"),
        "hang up",
        "garbage",
        error(408),
        error(409),
        error(425),
        error(429),
        error(529),
    ],
    ids=lambda reply: str(reply)[-60:],
)
def test_what_may_pass_is_tried_again_and_then_a_value(server: ScriptedServer, reply: Scripted) -> None:
    chat = chat_with(at(server), num_attempts=2)
    server.replies = [reply, said("yes"), reply, reply]
    found = say(chat)
    assert isinstance(found, Reply)
    assert found.text == "yes"
    failed = say(chat)
    assert isinstance(failed, ChatFailed)
    assert failed.num_attempts == 2
    assert failed.reason


def test_what_a_stream_says_is_wrong_is_told(server: ScriptedServer) -> None:
    server.replies = [streamed([delta("x"), {"error": {"message": "overloaded"}}])]
    found = say(chat_with(at(server), stream=True, num_attempts=1))
    assert found == ChatFailed('the stream says: {"error": {"message": "overloaded"}}', 1)


def test_a_check_can_send_a_reply_back(server: ScriptedServer) -> None:
    server.replies = [said("no"), said("yes"), said("no"), said("no")]
    chat = chat_with(at(server), num_attempts=2)
    found = say(chat, check=lambda text: None if text == "yes" else f"not {text}")
    assert isinstance(found, Reply)
    assert say(chat, check=lambda text: f"not {text}") == ChatFailed("not no", 2)


def test_a_proxy_is_for_other_machines(server: ScriptedServer, other: ScriptedServer) -> None:
    code = (
        "import sys; from vzoom.chat import Chat, Endpoint\n"
        "for url in sys.argv[1:]: print(Chat([Endpoint(url, 'm')], num_attempts=1).complete([], tag='', task='').text)"
    )
    server.replies, other.replies = [said("near")], [said("through the proxy")]
    root = other.url.removesuffix("/v1")
    environment = {**os.environ, "http_proxy": root, "no_proxy": "", "PYTHONPATH": str(Path(__file__).parent.parent)}
    command = [sys.executable, "-c", code, server.url, "http://far.invalid/v1"]
    out = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True).stdout
    assert out.splitlines() == ["near", "through the proxy"]
    assert other.requests[0][0] == "http://far.invalid/v1/chat/completions"


# ------------------------------------------------------------------------------------------ refusals and keys


@pytest.mark.parametrize("code", [401, 402, 403, 404, 405, 302, 308])
def test_what_only_the_user_can_mend_is_an_error_that_names_no_key(server: ScriptedServer, code: int) -> None:
    server.replies = [error(code, b'{"error": "bad key s3cret!"}', Location=f"{server.url}/elsewhere")]
    chat = chat_with(at(server, key="s3cret!", variables="VZOOM_EXPERT"))
    for _ in range(2):  # and no other request is sent
        with pytest.raises(ValueError, match=rf"refuses with {code}.*check VZOOM_EXPERT_URL") as caught:
            say(chat)
        assert isinstance(caught.value, EndpointsRefuse)
        assert "s3cret" not in f"{caught.value}{chat.refusals}"
        assert "***" in str(caught.value)
    assert [path for path, _, _ in server.requests] == ["/v1/chat/completions"]


def test_a_parameter_that_the_server_refuses_is_the_users_to_mend(server: ScriptedServer) -> None:
    refused = b'{"error": {"message": "use max_completion_tokens", "param": "max_tokens"}}'
    server.replies = [error(400, refused), error(429, b'{"error": {"code": "insufficient_quota"}}')]
    for text in ("max_completion_tokens", "insufficient_quota"):
        with pytest.raises(EndpointsRefuse, match=text):
            say(chat_with(at(server)))
    params = [b"messages[3].content", b"messages", b"messages.content"]
    server.replies = [*(error(400, b'{"error": {"param": "%s"}}' % param) for param in params), error(413)]
    for text in ("400 Bad", "400 Bad", "400 Bad", "413"):  # this request's own fault
        found = say(chat_with(at(server)))
        assert isinstance(found, ChatFailed)
        assert found.num_attempts == 1
        assert text in found.reason


def test_a_key_in_a_failure_is_struck_out(server: ScriptedServer) -> None:
    server.replies = [error(500, b"key s3cret is busy")]
    found = say(chat_with(at(server, key="s3cret"), num_attempts=1))
    assert found == ChatFailed("500 Internal Server Error: key *** is busy", 1)


KEY = "sk-proj-Zq7Xw2Vb9Nc4Md6Kf1Jg3Hh5"


def parts_shown(text: str) -> list[str]:
    """Parts of the key of four characters and more that a text shows."""
    return [KEY[at : at + 4] for at in range(len(KEY) - 3) if KEY[at : at + 4] in text]


@pytest.mark.parametrize("at", [0, 180, 187, 188, 195, 387, 388, 390, 400, 405, 430, 437, 3970, 3990])
def test_a_key_is_masked_before_anything_is_cut(at: int, server: ScriptedServer) -> None:
    """Wherever the key stands in what a server says, and whatever is cut of that: no part of it is shown."""
    text = "." * at + f" Bearer {KEY}, {KEY[3:25]} and {KEY[:9]}"
    unreadable: list[Scripted] = [(200, {}, text.encode()), streamed([f"data: {text}"]), streamed([{"error": text}])]
    for reply in [error(401, text.encode()), error(500, text.encode()), error(400, text.encode()), *unreadable]:
        server.replies = [reply]
        chat = chat_with(at_key(server), num_attempts=1)
        told = reason_of(chat)
        assert parts_shown(told) == []
        assert "***" in told or at > 300
        assert len(told) < 1200


def reason_of(chat: Chat) -> str:
    try:
        found = say(chat)
    except EndpointsRefuse as refused:
        return f"{refused} {chat.refusals}"
    assert isinstance(found, ChatFailed)
    return found.reason


def at_key(server: ScriptedServer) -> Endpoint:
    return at(server, key=KEY)


def test_a_reply_that_says_the_key_is_kept_without_it(server: ScriptedServer) -> None:
    server.replies = [
        said(f"my key is {KEY}."),
        streamed([delta(f"my key is {KEY[:20]}"), delta(f"{KEY[20:]}.", "stop")]),
    ]
    for stream in (False, True):
        found = say(chat_with(at_key(server), stream=stream))
        assert isinstance(found, Reply)
        assert found.text == "my key is ***."
    assert KEY not in repr(at_key(server))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"{KEY}{KEY}", "******"),
        (f"a {KEY[:5]} b", f"a {KEY[:5]} b"),
        (f"x{KEY[2:8]}y{KEY[4:]}z", "x***y***z"),
        ("see https://me:pw@host/v1?api_key=abc&x=1#f", "see https://***@host/v1?api_key=***&x=1#f"),
        ("GET /v1?token=abc HTTP/1.1", "GET /v1?token=*** HTTP/1.1"),
        ("proxy me:pw@proxy:8080 refused", "proxy ***@proxy:8080 refused"),
        ("at 12:30 mail a@b.c", "at 12:30 mail a@b.c"),
    ],
)
def test_what_is_masked(text: str, shown: str) -> None:
    assert masked(text, KEY) == shown


def test_a_short_key_is_masked_as_a_whole() -> None:
    assert masked("key abc is not abcab", "abc") == "key *** is not ***ab"
    assert masked("nothing", None) == "nothing"


def test_masking_takes_linear_time() -> None:
    started = time.perf_counter()
    masked("a:" * 2000 + "b" * 2000 + KEY[:7] * 400, KEY)
    assert time.perf_counter() - started < 0.5


# ------------------------------------------------------------------------------------------ pauses and failover


def test_pauses_double_with_a_jitter_that_the_tag_decides(server: ScriptedServer) -> None:
    def pauses_of(tag: str, **settings: Any) -> list[float]:
        pauses: list[float] = []
        server.replies = [error(429), error(500), error(429, Retry_After="7"), error(429, Retry_After="900"), said("y")]
        chat = chat_with(at(server), pauses=pauses, pause_seconds=0.5, longest_pause_seconds=30, **settings)
        assert isinstance(say(chat, tag), Reply)
        return pauses

    assert pauses_of("a", jitter=0) == [0.5, 1.0, 7.0, 30.0]
    first = pauses_of("a")
    assert first == pauses_of("a")
    assert first != pauses_of("b")
    for pause, least in zip(first, [0.5, 1.0, 7.0, 30.0], strict=True):
        assert least <= pause <= min(1.25 * least, 30)


def test_the_next_endpoint_takes_over_at_once(server: ScriptedServer, other: ScriptedServer) -> None:
    pauses: list[float] = []
    chat = chat_with(GONE, at(server), at(other), pauses=pauses)
    server.replies = [error(500), said("second")]
    other.replies = [said("third")]
    texts = [reply.text for _ in range(2) if isinstance(reply := say(chat), Reply)]
    assert texts == ["third", "second"]
    assert not pauses
    usage = chat.budget.usage
    assert usage[GONE.name] == Usage(requests=2)
    assert (usage[at(server).name].requests, usage[at(server).name].retries) == (2, 2)


def test_an_endpoint_that_keeps_failing_is_left_alone_and_tried_again(server: ScriptedServer) -> None:
    chat = chat_with(GONE, at(server), rest_seconds=0.3)
    server.replies = [said("yes")] * 20

    def asked_of_gone(times: int) -> int:
        before = chat.budget.usage.get(GONE.name, Usage()).requests
        for _ in range(times):
            assert isinstance(say(chat), Reply)
        return chat.budget.usage[GONE.name].requests - before

    assert asked_of_gone(8) == 3
    time.sleep(0.35)
    assert asked_of_gone(4) == 1


def test_one_request_finds_out_whether_a_resting_endpoint_is_back() -> None:
    now = [100.0]
    circuits = Circuits([GONE, GONE], rest_seconds=10, now=lambda: now[0])
    trouble = Problem("passing", "busy")
    for _ in range(3):
        assert circuits.pick(()) == 0
        circuits.report(0, trouble)
    assert circuits.pick(()) == 1
    assert not circuits.has_fresh({1})
    now[0] = 110.0
    assert [circuits.pick(()) for _ in range(3)] == [0, 1, 1]  # the first is on its way to find out
    circuits.report(0, None)
    assert [circuits.pick(()) for _ in range(3)] == [0, 0, 0]
    circuits.report(0, Problem("passing", "busy", wait_seconds=4))
    assert circuits.pick(()) == 1  # it asked to be left alone
    now[0] = 114.0
    assert circuits.pick(()) == 0
    circuits.report(0, Problem("refused", "401"))
    for _ in range(5):
        circuits.report(1, trouble)
    assert circuits.pick(()) == 1  # none other is left
    circuits.report(1, Problem("refused", "403"))
    with pytest.raises(EndpointsRefuse, match=r"401.*403"):
        circuits.pick(())


def test_where_all_fail_it_pauses_and_gives_up(server: ScriptedServer, other: ScriptedServer) -> None:
    pauses: list[float] = []
    server.replies, other.replies = [error(500)] * 3, [error(503)] * 3
    found = say(chat_with(at(server), at(other), pauses=pauses, num_attempts=5, jitter=0))
    assert isinstance(found, ChatFailed)
    assert found.num_attempts == 5
    assert pauses == [1.0, 2.0]  # one for each round through both
    assert (len(server.requests), len(other.requests)) == (3, 2)


def test_a_refused_endpoint_is_dropped_while_another_is_left(server: ScriptedServer, other: ScriptedServer) -> None:
    server.replies = [error(401)]
    other.replies = [said("yes"), said("yes"), error(403)]
    chat = chat_with(at(server), at(other), num_attempts=1)  # a refusal is not an attempt
    assert isinstance(say(chat), Reply)
    assert isinstance(say(chat), Reply)
    assert list(chat.refusals) == [at(server).name]
    with pytest.raises(EndpointsRefuse, match=r"refuses with 401.*refuses with 403"):
        say(chat)
    assert len(server.requests) == 1


def test_a_server_that_hangs_is_a_failure(server: ScriptedServer) -> None:
    server.replies = ["hang", said("yes")]
    started = time.monotonic()
    assert isinstance(say(chat_with(at(server), timeout_seconds=0.2)), Reply)
    assert time.monotonic() - started < 10


# ------------------------------------------------------------------------------------------ the oracle, with faults


def oracle(**settings: Any) -> FaultyOracle:
    return FaultyOracle(SyntheticConfig(duration_seconds=32, num_scenes=(3, 4)), ZoomConfig(), **settings)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("fault", list(Fault))
def test_every_fault_is_lived_through(fault: Fault, stream: bool) -> None:
    with oracle() as server:
        right = say(chat_with(at(server), stream=stream))
        assert isinstance(right, Reply)
        assert right.text.endswith("</video_zoom>")
        assert right.completion_tokens == len(right.text.split())
    plan = {0: fault, 1: fault, 3: fault, 4: fault}
    with oracle(faults=Faults(plan, slow_seconds=1, retry_after_seconds=7)) as server:
        pauses: list[float] = []
        budget = Budget()
        chat = chat_with(
            at(server),
            pauses=pauses,
            num_attempts=3,
            timeout_seconds=0.3,
            stream=stream,
            jitter=0,
            budget=budget,
        )
        found = say(chat, max_tokens=100)
        assert isinstance(found, Reply)
        assert (found.text, found.prompt_tokens) == (right.text, right.prompt_tokens)
        assert pauses == ([7.0, 7.0] if fault is Fault.BUSY else [1.0, 2.0])
        total = budget.total
        assert (total.requests, total.retries, server.requests[RECORD]) == (3, 2, 3)
        assert total.lost_tokens == (2 * (len("Hello") + 16 + 100) if fault in CHARGED else 0)
        assert total.prompt_tokens == right.prompt_tokens * (3 if fault is Fault.EMPTY else 1)
        failed = say(chat_with(at(server), num_attempts=2, timeout_seconds=0.3, stream=stream))
        assert isinstance(failed, ChatFailed)
        assert failed.num_attempts == 2


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_many_threads_through_a_bad_server_get_what_a_good_one_says(stream: bool) -> None:
    tags = [f"which-training-{i:06d}-0" for i in range(24)]

    def texts(server: FaultyOracle) -> list[str]:
        chat = chat_with(at(server), num_attempts=12, timeout_seconds=1, stream=stream, concurrency=6)
        with ThreadPoolExecutor(12) as pool:
            replies = list(pool.map(lambda tag: say(chat, tag), tags))
        assert all(isinstance(reply, Reply) for reply in replies)
        assert chat.budget.total.requests == server.requests.total()
        assert server.most_at_once <= 6
        return [reply.text for reply in replies if isinstance(reply, Reply)]

    kinds = tuple(f for f in Fault if f is not Fault.SLOW)
    with oracle() as good, oracle(faults=Faults(rate=0.4, seed=5, kinds=kinds)) as bad:
        assert texts(good) == texts(bad)
        assert bad.requests.total() > 30
        assert set(bad.replies.values()) == {1}  # each request was answered in full exactly once


def test_as_many_requests_as_are_allowed_are_in_flight() -> None:
    with oracle(latency_seconds=0.1) as server:
        chat = chat_with(at(server), concurrency=3)
        with ThreadPoolExecutor(9) as pool:
            list(pool.map(lambda i: say(chat, f"which-training-{i:06d}-0"), range(9)))
        assert server.most_at_once == 3


# ------------------------------------------------------------------------------------------ the budget


def test_nothing_is_sent_that_could_pass_the_cap(server: ScriptedServer) -> None:
    worst = len("Hello") + 16 + 100  # tokens
    server.replies = [said("yes", usage=USAGE)] * 9
    chat = chat_with(at(server), budget=Budget(max_tokens=worst + 2 * 34))
    for _ in range(3):
        assert isinstance(say(chat, max_tokens=100), Reply)
    with pytest.raises(BudgetSpent, match=rf"102 of {worst + 68} tokens are spent.*may take {worst}"):
        say(chat, max_tokens=100)
    assert len(server.requests) == 3
    cost = 30 * 2e-6 + 4 * 10e-6
    dear = (len("Hello") + 16) * 2e-6 + 100 * 10e-6
    chat = chat_with(at(server), budget=Budget(max_cost=dear + cost * 1.5))
    for _ in range(2):
        say(chat, max_tokens=100)
    with pytest.raises(BudgetSpent, match="raise the cap"):
        say(chat, max_tokens=100)
    assert len(server.requests) == 5


def test_a_retry_needs_room_too_and_a_lost_reply_counts(server: ScriptedServer) -> None:
    server.replies = ["hang up", said("yes")]
    chat = chat_with(at(server), budget=Budget(max_tokens=200))
    with pytest.raises(BudgetSpent):
        say(chat, max_tokens=100)
    assert chat.budget.total == Usage(requests=1, lost_tokens=121, lost_cost=21 * 2e-6 + 100 * 10e-6)


def test_the_cap_holds_for_threads_and_is_used_up() -> None:
    with oracle(latency_seconds=0.02) as server:
        probe = say(chat_with(at(server)))
        assert isinstance(probe, Reply)
        cost = 3 * 121 + 5  # room for three worst cases at once, but for many real ones
        chat = chat_with(at(server), budget=Budget(max_tokens=cost), concurrency=8)
        spent = threading.Semaphore(0)

        def one(_: int) -> None:
            try:
                say(chat, max_tokens=100)
            except BudgetSpent:
                spent.release()

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(one, range(40)))
        used = chat.budget.total
        each = probe.prompt_tokens + probe.completion_tokens
        assert cost - 121 - each < used.tokens <= cost
        assert used.requests == used.tokens // each
        assert server.most_at_once == 3


def test_a_budget_goes_on_from_what_was_spent(server: ScriptedServer) -> None:
    server.replies = [said("yes", usage=USAGE)] * 2
    endpoint = at(server)
    chat = chat_with(endpoint)
    say(chat)
    saved = json.loads(json.dumps({name: usage.to_json() for name, usage in chat.budget.usage.items()}))
    start = {name: Usage.from_json(usage) for name, usage in saved.items()}
    again = chat_with(endpoint, budget=Budget(max_tokens=34 + 121, start=start))
    say(again, max_tokens=100)
    assert asdict(again.budget.total) == pytest.approx(asdict(Usage(2, 0, 60, 8, cost=2e-4)))
    with pytest.raises(BudgetSpent):
        say(again, max_tokens=100)


def test_images_are_reckoned_with(server: ScriptedServer) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 9000}}
    messages = [{"role": "user", "content": [{"type": "text", "text": "é"}, image, image]}]
    server.replies = ["hang up"]
    chat = chat_with(at(server), num_attempts=1, tokens_per_image=300)
    chat.complete(messages, tag="", task="distill", max_tokens=10)
    assert chat.budget.total.lost_tokens == 2 + 600 + 16 + 10
    assert "metadata" not in server.requests[0][2]


def test_caps_that_could_not_hold_are_refused(server: ScriptedServer) -> None:
    with pytest.raises(ValueError, match="VZOOM_EXPERT_PRICE_IN"):
        chat_with(at(server, price_out=None, variables="VZOOM_EXPERT"), budget=Budget(max_cost=1))
    with pytest.raises(ValueError, match="max_tokens"):
        say(chat_with(at(server), budget=Budget(max_tokens=1000)), max_tokens=None)
    with pytest.raises(ValueError, match="max_cost must be above 0"):
        Budget(max_cost=0)


# ------------------------------------------------------------------------------------------ the environment


def test_the_environment_names_endpoints_in_order() -> None:
    said = {
        "VZOOM_EXPERT_URL": "https://one/v1",
        "VZOOM_EXPERT_MODEL": "m1",
        "VZOOM_EXPERT_KEY": " k1\n",
        "VZOOM_EXPERT_PRICE_IN": "1.25",
        "VZOOM_EXPERT_PRICE_OUT": "10",
        "VZOOM_EXPERT_URL_10": "https://ten/v1",
        "VZOOM_EXPERT_URL_2": "https://two/v1",
        "VZOOM_EXPERT_MODEL_2": "m2",
        "VZOOM_EXPERT_PRICE_OUT_2": "0",
        "VZOOM_EXPERT_OPTIONS_2": '{"metadata": null}',
        "VZOOM_JUDGE_URL_3": "not ours",
        "VZOOM_EXPERT_FOO_7": "",
    }
    found = endpoints_from_environment("VZOOM_EXPERT", said)
    assert [(e.url, e.model, e.key, e.price_in, e.price_out, e.options) for e in found] == [
        ("https://one/v1", "m1", "k1", 1.25, 10.0, {}),
        ("https://two/v1", "m2", None, 1.25, 0.0, {"metadata": None}),  # no key goes to another host
        ("https://ten/v1", "m1", None, 1.25, 10.0, {}),
    ]
    assert "k1" not in repr(found)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"VZOOM_EXPERT_URL": ""}, "set VZOOM_EXPERT_URL to"),
        ({"VZOOM_EXPERT_URL": "", "VZOOM_EXPERT_MODEL": " "}, "set VZOOM_EXPERT_URL and VZOOM_EXPERT_MODEL to"),
        ({"VZOOM_EXPERT_KEY_2": "k"}, "set VZOOM_EXPERT_URL_2"),
        ({"VZOOM_EXPERT_PRICE_IN": "cheap"}, "VZOOM_EXPERT_PRICE_IN must be a number, got 'cheap'"),
        ({"VZOOM_EXPERT_PRICE_OUT": "nan"}, "price_out must be 0 or more"),
        ({"VZOOM_EXPERT_OPTIONS": "{"}, "VZOOM_EXPERT_OPTIONS is no JSON"),
        ({"VZOOM_EXPERT_OPTIONS": "[]"}, "VZOOM_EXPERT_OPTIONS must be a JSON object"),
        ({"VZOOM_EXPERT_URL_2": "host/v1"}, "VZOOM_EXPERT_URL_2: .*http://"),
        ({"VZOOM_EXPERT_URL": "https://me:s3cret@host/v1"}, "give the key by itself"),
        ({"VZOOM_EXPERT_URL": "https://host/v1?key=s3cret"}, "give the key by itself"),
        ({"VZOOM_EXPERT_KEY": "s3cret\x00"}, "cannot be sent in a header"),
    ],
)
def test_what_is_wrong_in_the_environment_is_named(changes: dict[str, str], message: str) -> None:
    good = {"VZOOM_EXPERT_URL": "https://one/v1", "VZOOM_EXPERT_MODEL": "m1"}
    with pytest.raises(ValueError, match=message) as caught:
        endpoints_from_environment("VZOOM_EXPERT", {**good, **changes})
    assert "s3cret" not in str(caught.value)


def test_a_key_may_be_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("k1\n")
    said = {"A_URL": "https://one/v1", "A_MODEL": "m", "A_KEY_FILE": str(file), "A_URL_2": "https://two/v1"}
    assert [endpoint.key for endpoint in endpoints_from_environment("A", said)] == ["k1", None]
    with pytest.raises(ValueError, match="A_KEY and A_KEY_FILE are both set"):
        endpoints_from_environment("A", {**said, "A_KEY": "k2"})
    with pytest.raises(ValueError, match=r"A_KEY_FILE names .*none, which cannot be read: No such file"):
        endpoints_from_environment("A", {**said, "A_KEY_FILE": str(tmp_path / "none")})
    file.write_text("")
    with pytest.raises(ValueError, match="A_URL: the key for https://one/v1 is empty"):
        endpoints_from_environment("A", said)


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="at least one endpoint"):
        Chat([])
    for name in ("concurrency", "num_attempts", "timeout_seconds", "longest_pause_seconds"):
        with pytest.raises(ValueError, match=f"{name} must be above 0"):
            chat_with(GONE, **{name: 0})
    for name in ("pause_seconds", "jitter", "rest_seconds"):
        with pytest.raises(ValueError, match=f"{name} must be 0 or more"):
            chat_with(GONE, **{name: -1})


def test_a_run_leaves_no_part_of_its_key_anywhere(
    server: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a server says back goes into the reply cache, the rejected ones, the summary and the terminal."""
    pytest.importorskip("pyarrow", reason="pyarrow (extra train) is not installed")
    from expert_tools import make_questions

    questions = make_questions(tmp_path, 3)
    monkeypatch.setenv("VZOOM_EXPERT_URL", server.url)
    monkeypatch.setenv("VZOOM_EXPERT_MODEL", "m")
    monkeypatch.setenv("VZOOM_EXPERT_KEY", KEY)
    wrong = f"<think>The key is {KEY}.</think><answer>{KEY}</answer>"
    dots = "." * 380
    server.replies = [said(wrong), said(f"{KEY} is no turn"), error(401, f"{dots} bad key: {KEY}".encode())]
    command = ["distill", "--questions", str(questions), "--out", str(tmp_path / "out"), "--concurrency", "1"]
    assert main([*command, "--model", "embedded"]) == 2
    told = capsys.readouterr()
    assert "401" in told.err
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert {"replies.jsonl", "rejected.jsonl", "settings.json"} <= {path.name for path in files}
    held = b"".join(path.read_bytes() for path in files).decode("utf-8", "replace")
    assert "***" in held
    assert parts_shown(held + told.out + told.err) == []


@pytest.mark.parametrize("option", ["--key", "--api-key=KEY", "--expert-key", "--token"])
def test_a_key_on_the_command_line_is_refused_and_not_said_again(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [option.replace("KEY", KEY)] if "=" in option else [option, KEY]
    with pytest.raises(SystemExit):
        main(["distill", "--questions", "q", "--out", "o", *words])
    told = capsys.readouterr()
    assert "no key is taken from the command line" in told.err
    assert "VZOOM_EXPERT_KEY" in told.err
    assert parts_shown(told.out + told.err) == []
