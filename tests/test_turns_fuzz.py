"""The fuzzer of turns, short; and that reading a turn takes time in proportion to its length."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import pytest
from fuzz.turns import fuzz_rules, fuzz_turns, protocols

from vzoom.protocol import Protocol, TurnScanner, cut_turn, parse_turn, partial_call, untagged_answer


def test_no_turn_raises_or_stalls() -> None:
    seen, timing = fuzz_turns(3000, seed=0)
    timing.check()
    assert {"ZoomCall", "Answer", "two_calls", "bad_json", "not_finite", "unclosed"} <= seen.keys(), seen


def test_no_call_gives_times_that_are_no_numbers() -> None:
    seen = fuzz_rules(1500, seed=0)
    assert sum(count for name, count in seen.items() if name.endswith("frames")) > 1000, seen


def _scan(text: str, protocol: Protocol) -> None:
    """As a session does: look at the turn again after every few characters."""
    scanner = TurnScanner(protocol)
    for end in range(0, len(text), 50):
        scanner.read(text[:end])


READERS: dict[str, Callable[[str, Protocol], object]] = {
    "parse": partial(parse_turn, video_fps=8.0),
    "cut": cut_turn,
    "untagged": untagged_answer,
    "look ahead": partial(partial_call, video_fps=8.0, max_frames=16),
    "scan": _scan,
}
# Each was quadratic or worse somewhere: in blanks, digits, quotes, braces, or tags in an open thought.
UNITS = (" ", "9", '"', "{", "[", "(", ",", "'", "\\boxed{", "start=", '"segment": [', "a b ", "```")


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("protocol", protocols(), ids=lambda one: one.name)
def test_reading_is_linear(protocol: Protocol, reader: str) -> None:
    """Sixteen times the length may take 64 times as long on a busy machine; quadratic would be 256 times."""
    read = READERS[reader]
    tags = (protocol.call.open, protocol.answer.close, protocol.thought.open, protocol.thought.close)
    for unit in (*UNITS, *filter(None, tags)):
        for head in ("", protocol.call.open, f"{protocol.thought.open}{protocol.call.open}"):
            short, long = (f"{head}{unit * (length // len(unit))}" for length in (4_000, 64_000))
            took_short, took_long = (min(_seconds(read, text, protocol) for _ in range(3)) for text in (short, long))
            limit = 64 * max(took_short, 20e-6)
            assert took_long < limit, f"{took_short * 1e3:.2f} ms, then {took_long * 1e3:.2f} ms of {head}{unit!r}…"


def _seconds(read: Callable[[str, Protocol], object], text: str, protocol: Protocol) -> float:
    started = time.thread_time()
    read(text, protocol)
    return time.thread_time() - started


@pytest.mark.parametrize(
    "head", ['"segment": [', '"segment": [1', '"segment": [1,', '"start_time":', '"start_time": 1', "start"]
)
def test_blanks_in_a_half_written_call_cost_nothing(head: str) -> None:
    """It is looked at for every sampled token; once 1 000 blanks took two thirds of a second."""
    for protocol in protocols():
        body = f"{protocol.call.tool} {head}{' ' * 4000}"
        took = min(_seconds(READERS["look ahead"], body, protocol) for _ in range(3))
        assert took < 1e-3, f"{took * 1e3:.2f} ms in {protocol.name}"
