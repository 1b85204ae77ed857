"""A whole conversation in the layout of pretraining's examples, to hold other code against it."""

from __future__ import annotations

from vzoom.protocol import glance_timestamps, tool_turn, zoom_timestamps
from vzoom.synthetic import Flaw, ask, oracle_turns
from vzoom.train.pretrain.example import Example, ExampleWriter
from vzoom.train.pretrain.frame_store import StoredVideo
from vzoom.types import ZoomCall


def conversation(
    writer: ExampleWriter,
    stored: StoredVideo,
    *,
    max_zooms: int,
    flaw: Flaw = "none",
    family: str = "which",
) -> Example:
    """The oracle's whole conversation about a stored video, as a training example."""
    question = ask(stored.video, family, writer.rng)
    turns = oracle_turns(stored.video, question, writer.config, max_zooms=max_zooms, rng=writer.rng, flaw=flaw)
    example = Example()
    times = glance_timestamps(stored.video.info(), writer.config)
    writer.put_prompt(example, stored, question.text, max_zooms, times=times)
    for number, turn in enumerate(turns):
        writer.write(example, turn.text(writer.config.protocol), learned=not turn.flawed)
        if isinstance(turn.outcome, ZoomCall):
            clip = zoom_timestamps(turn.outcome, stored.video.info(), writer.config)
            assert isinstance(clip, list)
            left, info = max_zooms - number - 1, stored.video.info()
            parts = tool_turn([(turn.outcome, clip)], info, writer.config, question=question.text, zooms_left=left)
            writer.put(example, parts, stored, clip)
    return example
