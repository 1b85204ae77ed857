"""Training examples: whole conversations of the oracle, and drills that teach one skill of them densely.

Every example is laid out by `protocol` and `layout`, as the engine does it. Only sampled tokens are learned: the
assistant's turns, not the end of turn that the tool turn puts behind a call, and not a flawed turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...config import ZoomConfig
from ...layout import Run, Tokenizer, lay_out
from ...protocol import CALL_OPEN, Image, Part, Text, prompt, render_answer, render_turn, tool_turn
from ...timeline import glance_timestamps, zoom_timestamps
from ...types import Answer, Malformed, ZoomCall
from ...world.oracle import Flaw, finding_note, nothing_note, oracle_turns, scene_note
from ...world.questions import LETTERS, ask
from ...world.spec import COLOURS, SHAPES, WorldEvent
from .bank import BankedVideo

MERGE = 2


@dataclass
class Example:
    """ids[i] is learned where learned[i]. frames: (video number, row in the bank) of each image, in order."""

    run: Run = field(default_factory=Run)
    learned: list[bool] = field(default_factory=list)
    frames: list[tuple[int, int]] = field(default_factory=list)
    turn_ends: list[int] = field(default_factory=list)  # index behind each learned turn, for greedy checks


class CachedTokenizer:
    """The same tokens as `tokenizer`, remembered: dialogues repeat a few hundred pieces of text."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._cache: dict[tuple[Any, ...], list[int]] = {}

    def encode(self, text: str, **kwargs: Any) -> list[int]:
        key = (text, tuple(sorted(kwargs.items())))
        if key not in self._cache:
            self._cache[key] = self._tokenizer.encode(text, **kwargs)
        return self._cache[key]

    def decode(self, ids: Sequence[int], **kwargs: Any) -> str:
        return self._tokenizer.decode(ids, **kwargs)

    def convert_tokens_to_ids(self, token: str) -> int:
        return self._tokenizer.convert_tokens_to_ids(token)


class Builder:
    """Makes examples from banked videos. side: of a frame in pixels; rng: owned by the caller."""

    def __init__(self, tokenizer: Tokenizer, config: ZoomConfig, *, side: int, rng: np.random.Generator) -> None:
        self.tokenizer, self.config, self.rng = CachedTokenizer(tokenizer), config, rng
        self.grid = (side // 14, side // 14)
        self.image_token = tokenizer.convert_tokens_to_ids("<|image_pad|>")

    # ------------------------------------------------------------ whole conversations

    def conversation(
        self, banked: BankedVideo, *, max_zooms: int, flaw: Flaw = "none", family: str = "which", glance: bool = True
    ) -> Example:
        """The oracle's game. glance=False leaves the overview out and learns nothing before the first clip."""
        question = ask(banked.video, family, self.rng)
        turns = oracle_turns(banked.video, question, self.config, max_zooms=max_zooms, rng=self.rng, flaw=flaw)
        example = Example()
        times = glance_timestamps(banked.video.info(), self.config) if glance else []
        self._prompt(example, banked, question.text, max_zooms, times=times)
        for number, turn in enumerate(turns):
            self._assistant(example, turn.text, learned=not turn.flawed and (glance or number > 0))
            if isinstance(turn.outcome, ZoomCall):
                self._clip(example, banked, turn.outcome, zooms_left=max_zooms - number - 1)
        return example

    # ------------------------------------------------------------ drills

    def captions(self, videos: Sequence[BankedVideo]) -> Example:
        """One frame of each video, followed by its scene's colour and its shape or "No shape"."""
        example = Example()
        for banked in videos:
            video = banked.video
            if video.events and self.rng.random() < 0.6:
                row = banked.index_of(video.events[int(self.rng.integers(len(video.events)))].start_seconds)
            else:
                row = int(self.rng.integers(len(banked.frames)))
            seconds = row * banked.step_seconds
            scene = next(s for s in video.scenes if s.start_seconds <= seconds < s.end_seconds)
            shown = [e.shape for e in video.events if e.start_seconds <= seconds < e.end_seconds]
            words = f"I see a {shown[0]}" if shown else "No shape"
            self._frames(example, banked, [seconds])
            self._assistant(example, f" {scene.colour}\n{words}", learned=True)
        return example

    def letters(self, banked: BankedVideo) -> Example:
        """A question, then which letter some of its options have: no image, only look-ups.

        Options are drawn anew each time, so none can be found by leaving out those already named.
        """
        example, question = Example(), ask(banked.video, "which", self.rng)
        self._prompt(example, banked, question.text, self.config.max_zooms, times=[])
        for i in self.rng.integers(len(question.options), size=6):
            seconds = float(self.rng.integers(len(banked.frames))) * banked.step_seconds
            event = WorldEvent(seconds, seconds, 0, question.options[int(i)], 0.5, 0.5)
            letter = LETTERS[int(i)]
            head, option, tail = finding_note([event], letter).partition(f" ({letter})")
            self._assistant(example, head, learned=False)
            self._assistant(example, option, learned=True)
            self._assistant(example, tail, learned=False)
            self._assistant(example, render_answer(letter), learned=True)
        return example

    def recall(self) -> Example:
        """Times in front of words, then the words again, each to be followed by its time: the look-up that finding a
        scene by its colour and an option by its shape are made of, at its densest and without any image."""
        example, words = Example(), self.rng.permutation([f" {w}" for w in (*COLOURS, *SHAPES)])[:8]
        numbers = [str(n) for n in self.rng.choice(64, size=len(words), replace=False)]
        for number, word in zip(numbers, words, strict=True):
            self._assistant(example, number + self._filler() + word, learned=False)
        for i in self.rng.integers(len(words), size=20):
            self._assistant(example, words[int(i)], learned=False)
            self._assistant(example, numbers[int(i)], learned=True)
        return example

    def _filler(self) -> str:
        """Nothing, or what stands between a frame's time and its pixels."""
        return ("", "", ".00s", ".50s<|vision_start|>")[int(self.rng.integers(4))]

    def look(self, banked: BankedVideo) -> Example:
        """One frame of every scene, then each colour, and each shape that is seen, to be followed by its frame's time:
        `recall` with pixels in the place of words."""
        example, video = Example(), banked.video
        shown: list[tuple[float, list[str]]] = []
        for number, scene in enumerate(video.scenes):
            low, high = (round(t / banked.step_seconds) for t in (scene.start_seconds, scene.end_seconds))
            seconds = int(self.rng.integers(low, high)) * banked.step_seconds
            events = video.events_in(number)
            if events and self.rng.random() < 0.5:
                seconds = events[int(self.rng.integers(len(events)))].start_seconds
            shapes = [e.shape for e in events if e.start_seconds <= seconds < e.end_seconds]
            shown.append((seconds, [scene.colour, *shapes]))
        self._frames(example, banked, [seconds for seconds, _ in shown])
        queries = [(word, seconds) for seconds, words in shown for word in words]
        for i in self.rng.permutation(len(queries)):
            word, seconds = queries[int(i)]
            self._assistant(example, f" {word}", learned=False)
            self._assistant(example, str(int(seconds)), learned=True)
        return example

    def scenes(self, banked: BankedVideo, *, max_frames: int) -> Example:
        """A run of glance frames, then where the scenes in it begin and end, in random order.

        max_frames: length of the run; from the video's whole glance on, this is the real prompt.
        """
        example, video = Example(), banked.video
        times = glance_timestamps(video.info(), self.config)
        count = min(max_frames, len(times))
        begin = int(self.rng.integers(len(times) - count + 1))
        shown = times[begin : begin + count]
        question = ask(video, "which", self.rng)
        self._prompt(example, banked, question.text, self.config.max_zooms, times=shown)
        self._assistant(example, "<think>", learned=False)
        for i in self.rng.permutation(len(video.scenes)):
            scene = video.scenes[int(i)]
            starts, ends = scene.start_seconds in shown, scene.end_seconds in (*shown, video.config.duration_seconds)
            if not starts:
                continue
            note = scene_note(scene.colour, scene.start_seconds, scene.end_seconds)
            head, tail = note.partition(" from ")[0], note.partition(" to ")[0]
            self._assistant(example, head, learned=False)
            if ends:
                self._assistant(example, note[len(head) :], learned=True)
            else:  # where it ends is not shown
                self._assistant(example, tail[len(head) :], learned=True)
                self._assistant(example, ".", learned=False)
        return example

    def reading(self, banked: BankedVideo, *, nothing: float, max_frames: int) -> Example:
        """A question and one clip of at most max_frames: what is in it and which letter that is, or that nothing is.

        nothing: how often the clip misses the event.
        """
        video = banked.video
        question = ask(video, "which", self.rng)
        (start, _), step = question.evidence[0], banked.step_seconds
        event = next(e for e in video.events if e.start_seconds == start)
        first, last = (round(t / step) for t in question.search[0])
        length = int(self.rng.integers(2, min(max_frames, self.config.zoom_max_frames, last - first) + 1))
        hit = [r for r in range(first, last - length + 1) if r <= start / step < r + length]
        missed = [r for r in range(first, last - length + 1) if r not in hit]
        rows = missed if missed and self.rng.random() < nothing else hit
        begin = int(self.rng.choice(rows))
        clip = ZoomCall(begin * step, (begin + length) * step, 1 / step)
        example = Example()
        self._prompt(example, banked, question.text, self.config.max_zooms, times=[])
        self._assistant(example, "<think></think>", learned=False)
        self._clip(example, banked, clip, zooms_left=self.config.max_zooms - 1)
        if rows is hit:
            letter = question.answer_letter
            text = render_turn(finding_note([event], letter), Answer(letter))
        else:
            text = f"<think>{nothing_note(clip.start_seconds, clip.end_seconds)}</think>{CALL_OPEN}"
        self._assistant(example, text, learned=True)
        return example

    # ------------------------------------------------------------ pieces

    def _prompt(
        self, example: Example, banked: BankedVideo, text: str, max_zooms: int, *, times: Sequence[float]
    ) -> None:
        info = banked.video.info()
        parts = prompt(
            text,
            info,
            times,
            max_zooms=max_zooms,
            zoom_max_frames=self.config.zoom_max_frames,
            style=self.config.prompt,
        )
        self._add(example, parts, banked, times)

    def _clip(self, example: Example, banked: BankedVideo, call: ZoomCall, *, zooms_left: int) -> None:
        times = zoom_timestamps(call, banked.video.info(), self.config)
        if isinstance(times, Malformed):
            raise ValueError(f"the oracle's own call is malformed: {times}")
        self._add(example, tool_turn(times, "", zooms_left=zooms_left, style=self.config.prompt), banked, times)

    def _frames(self, example: Example, banked: BankedVideo, times: Sequence[float]) -> None:
        parts: list[Part] = []
        for i, t in enumerate(times):
            parts += [Text(f"{t:.2f}s<|vision_start|>"), Image(i), Text("<|vision_end|>")]
        self._add(example, parts, banked, times)

    def _assistant(self, example: Example, text: str, *, learned: bool) -> None:
        self._add(example, [Text(text)], None, [], learned=learned)
        if learned:
            example.turn_ends.append(len(example.run.ids))

    def _add(
        self,
        example: Example,
        parts: Sequence[Part],
        banked: BankedVideo | None,
        times: Sequence[float],
        *,
        learned: bool = False,
    ) -> None:
        piece = lay_out(parts, [self.grid] * len(times), self.tokenizer, self.image_token, MERGE)
        offset = len(example.run.ids)
        for index, start, grid in piece.images:
            example.run.images.append((len(example.frames), offset + start, grid))
            assert banked is not None
            example.frames.append((banked.number, banked.index_of(times[index])))
        example.run.ids += piece.ids
        example.learned += [learned] * len(piece.ids)
