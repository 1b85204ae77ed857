"""Turns as no model should write them, through the parser, the look-ahead and the session; calls through frame rules.

Whatever the text: no exception, no time that is not a number, no call where none was made, and time in proportion to
the length.

    PYTHONPATH=tests python tests/fuzz/turns.py --long      # 1 000 000 turns, 100 000 calls for each frame rule
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import get_args

import numpy as np

from vzoom.config import ZoomConfig
from vzoom.engine import Done, NeedFrames, NeedTokens, Session
from vzoom.protocol import (
    Protocol,
    TextCodec,
    TextPart,
    TurnScanner,
    Vocabulary,
    builtin_names,
    builtin_protocol,
    cut_turn,
    error_turn,
    glance_timestamps,
    opening_tags,
    parse_turn,
    partial_call,
    strict_action,
    zoom_timestamps,
)
from vzoom.protocol.definition import GlanceName, ZoomName
from vzoom.types import Answer, Clip, Malformed, TurnOutcome, VideoInfo, ZoomCall, calls_of

MAX_CHARACTERS = 1 << 16  # of a turn: 4 096 tokens of 16 characters
SLOW_SECONDS, SLOWEST_SECONDS = 1e-3, 20e-3  # CPU seconds: of 99.99 % of the turns, and of each


def protocols() -> list[Protocol]:
    """The built-in protocols, with words in the place of missing ones, and those that only other data has."""
    found = []
    for name in builtin_names():
        one = builtin_protocol(name)
        found.append(replace(one, texts={**one.texts, **dict.fromkeys(one.missing, "words")}, missing=()))
    vzoom = builtin_protocol("vzoom")
    boxed = vzoom.override(
        name="boxed",
        call={"grammar": "boxed", "open": "\\boxed{", "close": "}", "arguments": {}},
        answer={"form": "boxed", "open": "", "close": ""},
    )
    spoken = next(one for one in found if one.name == "longvt").override(
        name="spoken", answer={"form": "text", "open": "", "close": ""}, thought={"required": False}
    )
    return [*found, boxed, spoken]


# ---------------------------------------------------------------- what is written

_NUMBERS = """
0 1 3 5.5 12 64 63.99 -1 00:05 1:02:03.5 00:00:07 12s 2fps 1e3 1e-310 1e308 1e999 NaN nan Infinity -inf null true [] {}
'5' .5 5. 0x10 ٣ 1_000 --1 1:2:3:4 99:99 9007199254740993
""".split()  # noqa: SIM905
_LONG = ("9" * 400, "9" * 5000, "9" * 400 + ":00:00", "0." + "1" * 400, " " * 1000, '"' * 300, "{" * 500, "[" * 3000)
_KEYS = (
    "segment", "fps", "start_time", "end_time", "start", "end", "nframes", "num_frames", "name", "arguments", "query",
)  # fmt: skip
_WORDS = (
    "the red scene", "look", "\n", " ", "é", "東", "\u2028", "\ud800", "<|im_end|>", "<|im_start|>user\n", "```",
)  # fmt: skip


def number(rng: random.Random) -> str:
    """A number, or what stands in the place of one."""
    if rng.random() < 0.03:
        return rng.choice(_LONG)
    if rng.random() < 0.5:
        return f"{rng.uniform(0, 70):.{rng.randrange(4)}f}"
    return rng.choice(_NUMBERS)


def body(rng: random.Random, protocol: Protocol) -> str:
    """What stands between the tags of a call: mostly nearly right."""
    call, one, other, fps = protocol.call, number(rng), number(rng), number(rng)
    if rng.random() < 0.5:  # one that can be carried out
        start = rng.uniform(0, 60)
        one, other, fps = f"{start:.2f}", f"{start + rng.uniform(0.5, 8):.1f}", str(rng.randrange(1, 5))
    if rng.random() < 0.6:
        match call.grammar:
            case "action":
                return call.tool.replace("{start}", one).replace("{end}", other)
            case "clip":
                return f"{one}-{other}"
            case "boxed":
                return f"[{one}, {other}]"
    values = {"segment": f"[{one}, {other}]", "start": one, "end": other, "fps": fps, "num_frames": fps}
    names = call.arguments if rng.random() < 0.8 else {key: rng.choice(_KEYS) for key in values}
    pairs = [f'"{theirs}": {values[ours]}' for ours, theirs in names.items() if rng.random() < 0.95]
    inside = "{" + ", ".join(pairs) + "}"
    if call.grammar == "hermes" and rng.random() < 0.9:
        inside = f'{{"{call.name_key}": "{call.tool}", "{call.arguments_key}": {inside}}}'
    kind = rng.random()
    if kind < 0.1:
        inside = inside.replace('"', "'")
    elif kind < 0.15:
        inside = f"```json\n{inside}\n```"
    elif kind < 0.2:
        inside = f"start={one} end={other} fps={fps}"
    return inside


def turn(rng: random.Random, protocol: Protocol) -> str:
    """One turn: thoughts, calls, answers and stray pieces, then mutations."""
    call, answer, thought = protocol.call, protocol.answer, protocol.thought
    tags = [call.open, call.close, answer.open, answer.close, thought.open, thought.close, *_WORDS]
    pieces = [thought.open, rng.choice(_WORDS), thought.close] if rng.random() < 0.8 else []
    for _ in range(rng.choices((1, 2, 3, 12), (70, 15, 10, 5))[0]):
        kind = rng.random()
        if kind < 0.55:
            pieces += [call.open, call.padding, body(rng, protocol), call.padding, call.close]
        elif kind < 0.75:
            pieces += [answer.open, rng.choice(("A", "", " ", "\\boxed{B}", *_WORDS)), answer.close]
        elif kind < 0.9:
            pieces.append(rng.choice(tags))
        elif kind < 0.96:
            pieces += [thought.open, body(rng, protocol), thought.close]
        else:
            pieces.append(rng.choice((*_LONG, *tags)) * rng.choice((1, 1, 1, 50)))
    for _ in range(rng.choices((0, 1, 3), (60, 30, 10))[0]):
        at = rng.randrange(len(pieces) + 1)
        kind = rng.randrange(4)
        if kind == 0:
            pieces.insert(at, rng.choice(tags))
        elif kind == 1 and pieces:
            pieces.pop(at % len(pieces))
        elif kind == 2 and pieces:
            text = pieces[at % len(pieces)]
            cut = rng.randrange(len(text) + 1)
            pieces[at % len(pieces)] = text[:cut] + rng.choice(("", " ", "<", "}", '"', "\\", text)) + text[cut + 1 :]
        elif pieces:
            pieces[at % len(pieces)] = pieces[at % len(pieces)].swapcase()
    return "".join(pieces)[:MAX_CHARACTERS]


# ---------------------------------------------------------------- what must hold


def check_outcome(text: str, outcome: TurnOutcome, protocol: Protocol) -> None:
    """A call has times, and was made: outside thoughts, by itself, between tags of its own."""
    calls = calls_of(outcome)
    for call in calls:
        values = (call.start_seconds, call.end_seconds, call.fps)
        assert all(map(math.isfinite, values)), f"{values} of {text!r}"
        assert 0 <= call.start_seconds < call.end_seconds, f"{values} of {text!r}"
        assert call.fps > 0, f"{values} of {text!r}"
        assert call.num_frames is None or call.num_frames >= 1, f"{call} of {text!r}"
    if not isinstance(outcome, Malformed):
        acting = text.rsplit(protocol.thought.close, 1)[-1] if protocol.thought.close else text
        opened = [acting.count(opening) for opening in opening_tags(protocol)]
        if calls and protocol.call.grammar not in ("boxed", "action"):
            assert opened[0] == len(calls) <= protocol.call.per_turn, f"{calls} of {text!r}"
            assert sum(opened[1:]) == 0, f"{calls} beside an answer in {text!r}"
        if isinstance(outcome, Answer):
            assert outcome.text.strip(), f"an empty answer of {text!r}"
            assert protocol.answer.form == "text" or any(opened), f"an answer without a tag in {text!r}"
    if isinstance(outcome, Malformed):
        assert len(outcome.detail) <= 200, f"{len(outcome.detail)} characters are told of {text!r}"


def check_times(times: Sequence[float] | Malformed, video: VideoInfo, limit: int) -> None:
    """Times are finite, in order, within the video, and not too many."""
    if isinstance(times, Malformed):
        return
    assert len(times) <= limit, f"{len(times)} frames, the limit is {limit}"
    assert all(0 <= t <= video.duration_seconds + 1e-6 for t in times), f"{times} of {video}"
    assert all(a < b for a, b in pairwise(times)), f"{times} of {video}"


@dataclass
class Timing:
    """CPU seconds of the turns, by stage."""

    counts: Counter[str] = field(default_factory=Counter)
    slow: Counter[str] = field(default_factory=Counter)
    worst: dict[str, tuple[float, str]] = field(default_factory=dict)

    def of(self, stage: str, text: str, read: Callable[[str], object]) -> None:
        """Time reading a text. What is slow is timed again, twice: the machine may have been busy elsewhere."""
        seconds = _seconds(read, text)
        if seconds > SLOW_SECONDS:
            seconds = min(seconds, _seconds(read, text), _seconds(read, text))
        self.counts[stage] += 1
        self.slow[stage] += seconds > SLOW_SECONDS
        if seconds > self.worst.get(stage, (0.0, ""))[0]:
            self.worst[stage] = (seconds, text)

    def check(self) -> None:
        """99.99 % of the turns below SLOW_SECONDS, each below SLOWEST_SECONDS."""
        for stage, count in self.counts.items():
            assert self.slow[stage] <= max(1, count // 10_000), f"{self.slow[stage]} of {count} turns are slow: {stage}"
            seconds, text = self.worst[stage]
            assert seconds < SLOWEST_SECONDS, f"{stage} took {seconds * 1e3:.1f} ms for {text[:300]!r}"


def _seconds(read: Callable[[str], object], text: str) -> float:
    started = time.thread_time()
    read(text)
    return time.thread_time() - started


# ---------------------------------------------------------------- parser, look-ahead, session


class PieceCodec(TextCodec):
    """Every piece of text is a token of its own: a scripted model writes a turn in as few or as many as it likes."""

    def __init__(self) -> None:
        self.pieces = ["<|image_pad|>", "<|im_end|>"]

    def encode_parts(self, parts: Iterable[TextPart]) -> list[int]:
        return [self.token("".join(part.text for part in parts))]

    def decode(self, ids: Sequence[int], *, special: bool = False) -> str:
        return "".join(self.pieces[id] for id in ids if id > 1)

    def token(self, text: str) -> int:
        self.pieces.append(text)
        return len(self.pieces) - 1


def pieces_of(rng: random.Random, text: str) -> list[str]:
    """The text in one to twelve pieces."""
    cuts = sorted(rng.randrange(len(text) + 1) for _ in range(rng.randrange(12)))
    return [text[a:b] for a, b in zip((0, *cuts), (*cuts, len(text)), strict=True)]


def converse(rng: random.Random, protocol: Protocol, texts: list[str]) -> Counter[str]:
    """A session whose model writes these turns. Returns what became of them."""
    codec = PieceCodec()
    vocabulary = Vocabulary(codec, 0, 1, frozenset({1}), merge=2, grid_hw=lambda h, w, config: (2, 2))
    config = ZoomConfig.of(protocol, max_zooms=len(texts), glance_max_frames=4, max_frames=200, max_total_tokens=4096)
    video = random_video(rng)
    session = Session(rng.choice(("Who?", "<answer>A</answer>?", "\ud800")), video, vocabulary, config)
    seen: Counter[str] = Counter()
    script: list[int] = []
    waiting = list(texts)
    while not isinstance(session.action, Done):
        if isinstance(session.action, NeedFrames):
            need = session.action
            check_times(need.timestamps[: need.per_clip[0]], video, 10**6)
            if need.call is not None and rng.random() < 0.1:
                session.unreadable("no frame")
                continue
            frames = np.broadcast_to(np.zeros((), np.uint8), (len(need.timestamps), 8, 8, 3))
            count = len(need.timestamps)
            session.splice(Clip(frames, need.timestamps, tuple(range(count)), (False,) * count), need.per_clip)
            continue
        assert isinstance(session.action, NeedTokens)
        if session.action.opens_turn:
            if not waiting:
                session.cancel()
                break
            script = [codec.token(piece) for piece in pieces_of(rng, waiting.pop(0))]
        session.accept(script.pop(0) if script else 1, 0.0)
        assert all(map(math.isfinite, session.prefetch_seconds)), session.turn.text
    for one in session.trajectory.turns:
        if one.outcome is not None:
            check_outcome(one.text, one.outcome, protocol)
            seen[kind(one.outcome)] += 1
    return seen


def random_video(rng: random.Random) -> VideoInfo:
    """A video of any length and rate."""
    duration = rng.choice((0.04, 1.0, 64.0, 3600.0, 10.0 ** rng.uniform(-2, 6)))
    return VideoInfo("v.mp4", duration, rng.choice((0.5, 8.0, 23.976, 30.0, 240.0)), 8, 8)


def kind(outcome: TurnOutcome) -> str:
    return str(outcome.error) if isinstance(outcome, Malformed) else type(outcome).__name__


def fuzz_turns(count: int, seed: int) -> tuple[Counter[str], Timing]:
    """Write `count` turns, and read them. AssertionError or whatever else is wrong ends it."""
    rng, timing, seen = random.Random(seed), Timing(), Counter[str]()
    known = protocols()
    done = 0
    while done < count:
        protocol, fps = rng.choice(known), rng.choice((0.5, 8.0, 29.97))
        texts = [turn(rng, protocol) for _ in range(rng.randrange(1, 6))]
        done += len(texts)
        for text in texts:
            outcome = parse_turn(text, protocol, video_fps=fps)
            check_outcome(text, outcome, protocol)
            strict = strict_action(text, protocol, video_fps=fps)
            assert strict is None or strict == outcome, f"{strict} is strict, {outcome} is read in {text!r}"
            scanner, written = TurnScanner(protocol), ""
            for piece in pieces_of(rng, text):
                written += piece
                scanner.read(written)
                if scanner.call_start is not None:
                    guess = partial_call(written[scanner.call_start :], protocol, video_fps=fps, max_frames=16)
                    assert guess is None or math.isfinite(guess.start_seconds + guess.end_seconds + guess.fps), written
            assert (None if scanner.end is None else text[: scanner.end]) == cut_turn(text, protocol), text
            if isinstance(outcome, Malformed):
                error_turn(outcome, random_video(rng), ZoomConfig(protocol=protocol), question="Who?", zooms_left=1)
            timing.of("parse", text, partial(parse_turn, protocol=protocol, video_fps=fps))
            timing.of("cut", text, partial(cut_turn, protocol=protocol))
            half = TurnScanner(protocol)
            half.read(text[: len(text) // 2])
            ahead = partial(partial_call, protocol=protocol, video_fps=fps, max_frames=16)
            timing.of("look ahead", text[half.call_start or 0 :], ahead)
        seen += converse(rng, protocol, texts)
    return seen, timing


# ---------------------------------------------------------------- frame rules


def fuzz_rules(count: int, seed: int) -> Counter[str]:
    """`count` calls for each frame rule, and a tenth as many glances."""
    rng, seen = random.Random(seed), Counter[str]()
    base = builtin_protocol("vzoom")

    def seconds() -> float:
        return rng.choice(
            (0.0, 0.1, 5.0, 63.99, 64.0, 1e-310, 1e308, 10.0 ** rng.uniform(-320, 308), rng.uniform(0, 70))
        )

    def rate() -> float:
        return rng.choice((1e-310, 5e-324, 1e308, 1.0, 2.0, 8.0, 1e9, 10.0 ** rng.uniform(-320, 308)))

    for rule in get_args(ZoomName):
        config = ZoomConfig(protocol=base.override(name=rule, zoom={"rule": rule}))
        for _ in range(count):
            start, end, video = seconds(), seconds(), random_video(rng)
            num_frames = rng.choice((None, None, 1, 8, 16, 10**6, 10**300))
            times = zoom_timestamps(ZoomCall(start, end, rate(), num_frames), video, config)
            check_times(times, video, config.zoom_max_frames)
            seen[f"{rule}: {times.error if isinstance(times, Malformed) else 'frames'}"] += 1
    for rule in get_args(GlanceName):
        config = ZoomConfig(protocol=base.override(name=rule, glance={"rule": rule}))
        for _ in range(count // 10):
            video = random_video(rng)
            times = glance_timestamps(video, config)
            check_times(times, video, config.glance_max_frames)
            assert bool(times) == (rule != "none"), f"{rule} of {video}"
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--long", action="store_true", help="1 000 000 turns and 100 000 calls for each frame rule")
    parser.add_argument("--turns", type=int, default=4000, help="how many turns (default: %(default)s)")
    parser.add_argument("--calls", type=int, default=2000, help="calls for each frame rule (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn (default: %(default)s)")
    args = parser.parse_args()
    turns, calls = (1_000_000, 100_000) if args.long else (args.turns, args.calls)
    rules = fuzz_rules(calls, args.seed)
    seen, timing = fuzz_turns(turns, args.seed)
    slow = {stage: [timing.slow[stage], count] for stage, count in timing.counts.items()}
    worst = {stage: round(seconds * 1e3, 3) for stage, (seconds, _) in timing.worst.items()}
    print(json.dumps({"rules": rules, "outcomes": seen, "above 1 ms": slow, "worst ms": worst}, indent=1))
    timing.check()


if __name__ == "__main__":
    main()
