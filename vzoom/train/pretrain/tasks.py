"""The tasks of pretraining: each makes an example that practises one skill of seeing many times.

Only what the model itself would write is learned. No task zooms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ...protocol import LETTERS, glance_timestamps, render_answer, render_turn
from ...synthetic import (
    COLOURS,
    SHAPES,
    Question,
    Scene,
    SyntheticEvent,
    SyntheticVideo,
    ask,
    finding_note,
    next_turn,
    nothing_note,
    scene_note,
    sightings,
)
from ...types import Answer
from .example import Example, ExampleWriter
from .frame_store import StoredVideo


def captions(writer: ExampleWriter, videos: Sequence[StoredVideo]) -> Example:
    """One frame of each video, then the colour of its scene, and its shape or "No shape"."""
    example = Example()
    for stored in videos:
        video = stored.video
        if video.events and writer.rng.random() < 0.6:
            row = stored.index_of(video.events[int(writer.rng.integers(len(video.events)))].start_seconds)
        else:
            row = int(writer.rng.integers(len(stored.frames)))
        seconds = row * stored.step_seconds
        scene = next(s for s in video.scenes if s.start_seconds <= seconds < s.end_seconds)
        shown = [e.shape for e in video.events if e.start_seconds <= seconds < e.end_seconds]
        words = f"I see a {shown[0]}" if shown else "No shape"
        writer.put_frames(example, stored, [seconds])
        writer.write(example, f" {scene.colour}\n{words}", learned=True)
    return example


def letters(writer: ExampleWriter, stored: StoredVideo) -> Example:
    """A question, then the scene that it is about, and the letters of some of its options: look-ups without an image.

    Every option is drawn anew, so that none follows from those already named.
    """
    example, question = Example(), ask(stored.video, "which", writer.rng)
    writer.put_prompt(example, stored, question.text, writer.config.max_zooms, times=[])
    _name_scene(writer, example, _asked(stored.video, question))
    writer.write(example, " scene.", learned=False)
    for i in writer.rng.integers(len(question.options), size=6):
        seconds = float(writer.rng.integers(len(stored.frames))) * stored.step_seconds
        event = SyntheticEvent(seconds, seconds, 0, question.options[int(i)], 0.5, 0.5)
        letter = LETTERS[int(i)]
        head, option, tail = finding_note([event], letter).partition(f" ({letter})")
        writer.write(example, head, learned=False)
        writer.write(example, option, learned=True)
        writer.write(example, tail, learned=False)
        writer.write(example, render_answer(letter, writer.config.protocol), learned=True)
    return example


def recall(writer: ExampleWriter) -> Example:
    """Times before words, then the words again, each with its time to be found.

    Finding a scene by its colour and an option by its shape are such look-ups; here they come densely and without an
    image.
    """
    example, words = Example(), writer.rng.permutation([f" {w}" for w in (*COLOURS, *SHAPES)])[:8]
    numbers = [str(n) for n in writer.rng.choice(64, size=len(words), replace=False)]
    for number, word in zip(numbers, words, strict=True):
        writer.write(example, number + _filler(writer.rng) + word, learned=False)
    for i in writer.rng.integers(len(words), size=20):
        writer.write(example, words[int(i)], learned=False)
        writer.write(example, numbers[int(i)], learned=True)
    return example


def _filler(rng: np.random.Generator) -> str:
    """Nothing, or what is between a frame's time and its pixels."""
    return ("", "", ".00s", ".50s<|vision_start|>")[int(rng.integers(4))]


def look(writer: ExampleWriter, stored: StoredVideo) -> Example:
    """One frame of every scene, then each colour and each visible shape, with its frame's time to be found.

    It is `recall` with pixels in place of words.
    """
    example, video = Example(), stored.video
    shown: list[tuple[float, list[str]]] = []
    for number, scene in enumerate(video.scenes):
        low, high = (round(t / stored.step_seconds) for t in (scene.start_seconds, scene.end_seconds))
        seconds = int(writer.rng.integers(low, high)) * stored.step_seconds
        events = video.events_in(number)
        if events and writer.rng.random() < 0.5:
            seconds = events[int(writer.rng.integers(len(events)))].start_seconds
        shapes = [e.shape for e in events if e.start_seconds <= seconds < e.end_seconds]
        shown.append((seconds, [scene.colour, *shapes]))
    writer.put_frames(example, stored, [seconds for seconds, _ in shown])
    queries = [(word, seconds) for seconds, words in shown for word in words]
    for i in writer.rng.permutation(len(queries)):
        word, seconds = queries[int(i)]
        writer.write(example, f" {word}", learned=False)
        writer.write(example, str(int(seconds)), learned=True)
    return example


def scenes(writer: ExampleWriter, stored: StoredVideo, *, max_frames: int) -> Example:
    """Some glance frames, then where the scenes in them begin and end: first the scene of the question, then others.

    Args:
        writer: writes the example.
        stored: the video.
        max_frames: how many frames; with the whole glance this is the real prompt.

    Returns:
        The example.
    """
    example, video = Example(), stored.video
    times = glance_timestamps(video.info(), writer.config)
    count = min(max_frames, len(times))
    begin = int(writer.rng.integers(len(times) - count + 1))
    shown = times[begin : begin + count]
    question = ask(video, "which", writer.rng)
    writer.put_prompt(example, stored, question.text, writer.config.max_zooms, times=shown)
    asked = _asked(video, question)
    for scene in (asked, *(video.scenes[int(i)] for i in writer.rng.permutation(len(video.scenes)))):
        starts, ends = scene.start_seconds in shown, scene.end_seconds in (*shown, video.config.duration_seconds)
        if not starts:
            continue
        note = scene_note(scene.colour, scene.start_seconds, scene.end_seconds)
        head, tail = note.partition(" from ")[0], note.partition(" to ")[0]
        if scene is asked and not any(example.learned):
            _name_scene(writer, example, asked)
            head = note.partition(" scene")[0]
        else:
            writer.write(example, head, learned=False)
        if ends:
            writer.write(example, note[len(head) :], learned=True)
        else:  # the frames do not show where it ends
            writer.write(example, tail[len(head) :], learned=True)
            writer.write(example, ".", learned=False)
    return example


def _name_scene(writer: ExampleWriter, example: Example, scene: Scene) -> None:
    """The scene that the question is about, by its colour."""
    writer.write(example, "The", learned=False)
    writer.write(example, f" {scene.colour}", learned=True)


def listing(writer: ExampleWriter, stored: StoredVideo, *, max_frames: int, num_clips: int = 3) -> Example:
    """Close frames of a part of a scene, at most max_frames, then all that they show; for num_clips scenes."""
    example, video, step = Example(), stored.video, stored.step_seconds
    for number in writer.rng.permutation(len(video.scenes))[:num_clips]:
        scene = video.scenes[int(number)]
        low, high = (round(t / step) for t in (scene.start_seconds, scene.end_seconds))
        length = min(int(writer.rng.integers(2, max_frames + 1)), high - low)
        begin = int(writer.rng.integers(low, high - length + 1))
        times = [(begin + i) * step for i in range(length)]
        writer.put_frames(example, stored, times)
        firsts = [(e, next((t for t in times if _shows(e, t)), None)) for e in video.events]
        shown = [replace(e, start_seconds=t) for e, t in firsts if t is not None]
        text = f"{sightings(shown)}." if shown else nothing_note(times[0], times[-1] + step)
        writer.write(example, text, learned=True)
        writer.write(example, "\n", learned=False)
    return example


def reading(
    writer: ExampleWriter, stored: StoredVideo, *, nothing: float, max_frames: int, family: str = "which"
) -> Example:
    """Close frames of a part of a scene and a question about it, then what they show and its letter; or a guess.

    Args:
        writer: writes the example.
        stored: the video.
        nothing: how often the frames miss the event.
        max_frames: most frames.
        family: of the question.

    Returns:
        The example.
    """
    video, step = stored.video, stored.step_seconds
    question = ask(video, family, writer.rng)
    low, high = (round(t / step) for t in question.search[0])
    length = min(int(writer.rng.integers(2, max_frames + 1)), high - low)
    if family == "count":  # only the whole scene has the answer
        begins, length = [low], high - low
    else:
        begins = list(range(low, high - length + 1))
    first, last = (t / step for t in question.evidence[0])
    hits = [b for b in begins if max(b, first) < min(b + length, last)]
    missed = [b for b in begins if b not in hits]
    begin = int(writer.rng.choice(missed if missed and writer.rng.random() < nothing else hits))
    times = [(begin + i) * step for i in range(length)]
    events = [e for e in video.events if (e.start_seconds, e.end_seconds) in question.evidence]
    letter = question.answer_letter
    if begin in hits:
        firsts = [next(t for t in times if _shows(e, t)) for e in events]
        shown = [replace(e, start_seconds=t) for e, t in zip(events, firsts, strict=True)]
        thought = finding_note(shown, letter, family=family)
    else:
        thought = nothing_note(begin * step, (begin + length) * step)
        letter = LETTERS[int(writer.rng.integers(len(question.options)))]
    example = Example()
    writer.put_prompt(
        example, stored, question.text, int(writer.rng.integers(writer.config.max_zooms + 1)), times=times
    )
    writer.write(example, render_turn(thought, Answer(letter), writer.config.protocol), learned=True)
    return example


def answers(writer: ExampleWriter, stored: StoredVideo, *, family: str = "which") -> Example:
    """The whole glance and a question, answered without a zoom: by what the glance shows, or by a guess."""
    question, example = ask(stored.video, family, writer.rng), Example()
    times = glance_timestamps(stored.video.info(), writer.config)
    writer.put_prompt(
        example, stored, question.text, int(writer.rng.integers(writer.config.max_zooms + 1)), times=times
    )
    turn = next_turn(stored.video, question, writer.config, [], zooms_left=0, rng=writer.rng)
    writer.write(example, turn.text(writer.config.protocol), learned=True)
    return example


def _asked(video: SyntheticVideo, question: Question) -> Scene:
    """The scene that a question of `which` or `count` is about."""
    return next(s for s in video.scenes if s.start_seconds == question.search[0][0])


def _shows(event: SyntheticEvent, seconds: float) -> bool:
    return event.start_seconds <= seconds < event.end_seconds
