"""Drills that teach one skill of seeing each, densely; and whole conversations of the oracle, to hold others against.

Only what the model itself writes is learned: not the end of turn that the tool turn puts behind a call, not a flawed
turn. No drill zooms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ...protocol import LETTERS, glance_timestamps, render_answer, render_turn
from ...synthetic import (
    COLOURS,
    SHAPES,
    Flaw,
    Question,
    Scene,
    SyntheticEvent,
    SyntheticVideo,
    ask,
    finding_note,
    next_turn,
    nothing_note,
    oracle_turns,
    scene_note,
    sightings,
)
from ...types import Answer, ZoomCall
from .example import Example, Layout
from .frame_store import BankedVideo


class Builder(Layout):
    """Makes examples; see `Layout`."""

    # ------------------------------------------------------------ whole conversations

    def conversation(
        self, banked: BankedVideo, *, max_zooms: int, flaw: Flaw = "none", family: str = "which", glance: bool = True
    ) -> Example:
        """The oracle's game. glance=False leaves the overview out and learns nothing before the first clip."""
        question = ask(banked.video, family, self.rng)
        turns = oracle_turns(banked.video, question, self.config, max_zooms=max_zooms, rng=self.rng, flaw=flaw)
        example = Example()
        times = glance_timestamps(banked.video.info(), self.config) if glance else []
        self.put_prompt(example, banked, question.text, max_zooms, times=times)
        for number, turn in enumerate(turns):
            self.write(example, turn.text, learned=not turn.flawed and (glance or number > 0))
            if isinstance(turn.outcome, ZoomCall):
                self.put_clip(example, banked, turn.outcome, zooms_left=max_zooms - number - 1)
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
            self.put_frames(example, banked, [seconds])
            self.write(example, f" {scene.colour}\n{words}", learned=True)
        return example

    def letters(self, banked: BankedVideo) -> Example:
        """A question, then which scene it is about and which letter some of its options have: no image, only look-ups.

        Options are drawn anew each time, so none can be found by leaving out those already named.
        """
        example, question = Example(), ask(banked.video, "which", self.rng)
        self.put_prompt(example, banked, question.text, self.config.max_zooms, times=[])
        self._name(example, _asked(banked.video, question))
        self.write(example, " scene.", learned=False)
        for i in self.rng.integers(len(question.options), size=6):
            seconds = float(self.rng.integers(len(banked.frames))) * banked.step_seconds
            event = SyntheticEvent(seconds, seconds, 0, question.options[int(i)], 0.5, 0.5)
            letter = LETTERS[int(i)]
            head, option, tail = finding_note([event], letter).partition(f" ({letter})")
            self.write(example, head, learned=False)
            self.write(example, option, learned=True)
            self.write(example, tail, learned=False)
            self.write(example, render_answer(letter), learned=True)
        return example

    def recall(self) -> Example:
        """Times in front of words, then the words again, each to be followed by its time: the look-up that finding a
        scene by its colour and an option by its shape are made of, at its densest and without any image."""
        example, words = Example(), self.rng.permutation([f" {w}" for w in (*COLOURS, *SHAPES)])[:8]
        numbers = [str(n) for n in self.rng.choice(64, size=len(words), replace=False)]
        for number, word in zip(numbers, words, strict=True):
            self.write(example, number + self._filler() + word, learned=False)
        for i in self.rng.integers(len(words), size=20):
            self.write(example, words[int(i)], learned=False)
            self.write(example, numbers[int(i)], learned=True)
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
        self.put_frames(example, banked, [seconds for seconds, _ in shown])
        queries = [(word, seconds) for seconds, words in shown for word in words]
        for i in self.rng.permutation(len(queries)):
            word, seconds = queries[int(i)]
            self.write(example, f" {word}", learned=False)
            self.write(example, str(int(seconds)), learned=True)
        return example

    def scenes(self, banked: BankedVideo, *, max_frames: int) -> Example:
        """A run of glance frames, then where the scenes in it begin and end: the one that is asked about, then others.

        max_frames: length of the run; from the video's whole glance on, this is the real prompt.
        """
        example, video = Example(), banked.video
        times = glance_timestamps(video.info(), self.config)
        count = min(max_frames, len(times))
        begin = int(self.rng.integers(len(times) - count + 1))
        shown = times[begin : begin + count]
        question = ask(video, "which", self.rng)
        self.put_prompt(example, banked, question.text, self.config.max_zooms, times=shown)
        asked = _asked(video, question)
        for scene in (asked, *(video.scenes[int(i)] for i in self.rng.permutation(len(video.scenes)))):
            starts, ends = scene.start_seconds in shown, scene.end_seconds in (*shown, video.config.duration_seconds)
            if not starts:
                continue
            note = scene_note(scene.colour, scene.start_seconds, scene.end_seconds)
            head, tail = note.partition(" from ")[0], note.partition(" to ")[0]
            if scene is asked and not any(example.learned):
                self._name(example, asked)
                head = note.partition(" scene")[0]
            else:
                self.write(example, head, learned=False)
            if ends:
                self.write(example, note[len(head) :], learned=True)
            else:  # where it ends is not shown
                self.write(example, tail[len(head) :], learned=True)
                self.write(example, ".", learned=False)
        return example

    def _name(self, example: Example, scene: Scene) -> None:
        """The scene that the question is about, by its colour."""
        self.write(example, "The", learned=False)
        self.write(example, f" {scene.colour}", learned=True)

    def listing(self, banked: BankedVideo, *, max_frames: int, num_clips: int = 3) -> Example:
        """Close frames of a part of a scene, at most max_frames, and all that they show; so with several scenes."""
        example, video, step = Example(), banked.video, banked.step_seconds
        for number in self.rng.permutation(len(video.scenes))[:num_clips]:
            scene = video.scenes[int(number)]
            low, high = (round(t / step) for t in (scene.start_seconds, scene.end_seconds))
            length = min(int(self.rng.integers(2, max_frames + 1)), high - low)
            begin = int(self.rng.integers(low, high - length + 1))
            times = [(begin + i) * step for i in range(length)]
            self.put_frames(example, banked, times)
            firsts = [(e, next((t for t in times if _shows(e, t)), None)) for e in video.events]
            shown = [replace(e, start_seconds=t) for e, t in firsts if t is not None]
            text = f"{sightings(shown)}." if shown else nothing_note(times[0], times[-1] + step)
            self.write(example, text, learned=True)
            self.write(example, "\n", learned=False)
        return example

    def reading(self, banked: BankedVideo, *, nothing: float, max_frames: int, family: str = "which") -> Example:
        """A question behind close frames of a part of its scene, at most max_frames: what they show and which letter
        that is, or that they show nothing, and a guess.

        nothing: how often the frames miss the event.
        """
        video, step = banked.video, banked.step_seconds
        question = ask(video, family, self.rng)
        low, high = (round(t / step) for t in question.search[0])
        length = min(int(self.rng.integers(2, max_frames + 1)), high - low)
        if family == "count":  # only the whole scene tells
            begins, length = [low], high - low
        else:
            begins = list(range(low, high - length + 1))
        first, last = (t / step for t in question.evidence[0])
        hits = [b for b in begins if max(b, first) < min(b + length, last)]
        missed = [b for b in begins if b not in hits]
        begin = int(self.rng.choice(missed if missed and self.rng.random() < nothing else hits))
        times = [(begin + i) * step for i in range(length)]
        events = [e for e in video.events if (e.start_seconds, e.end_seconds) in question.evidence]
        letter = question.answer_letter
        if begin in hits:
            firsts = [next(t for t in times if _shows(e, t)) for e in events]
            shown = [replace(e, start_seconds=t) for e, t in zip(events, firsts, strict=True)]
            thought = finding_note(shown, letter, family=family)
        else:
            thought = nothing_note(begin * step, (begin + length) * step)
            letter = LETTERS[int(self.rng.integers(len(question.options)))]
        example = Example()
        self.put_prompt(example, banked, question.text, int(self.rng.integers(self.config.max_zooms + 1)), times=times)
        self.write(example, render_turn(thought, Answer(letter)), learned=True)
        return example

    def answers(self, banked: BankedVideo, *, family: str = "which") -> Example:
        """The whole glance and a question, answered without a zoom: by what the glance shows, or by a guess."""
        question, example = ask(banked.video, family, self.rng), Example()
        times = glance_timestamps(banked.video.info(), self.config)
        self.put_prompt(example, banked, question.text, int(self.rng.integers(self.config.max_zooms + 1)), times=times)
        turn = next_turn(banked.video, question, self.config, [], zooms_left=0, rng=self.rng)
        self.write(example, turn.text, learned=True)
        return example


def _asked(video: SyntheticVideo, question: Question) -> Scene:
    """The scene that a question of `which` or `count` is about."""
    return next(s for s in video.scenes if s.start_seconds == question.search[0][0])


def _shows(event: SyntheticEvent, seconds: float) -> bool:
    return event.start_seconds <= seconds < event.end_seconds
