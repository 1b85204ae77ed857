"""The folder in which a page's code runs, and what stands in for what a test does not have."""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from docs_blocks import Block
from published_chats import KINDS, rows_of

import vzoom
from vzoom.data import Writer, read
from vzoom.data.importers import PUBLIC_CONFIG
from vzoom.data.record import from_trajectory
from vzoom.synthetic import FAMILIES, OracleServer, config_for, make_video, render, write_questions
from vzoom.zoomer import embedded_path

# Checkpoints of the hub: no test may reach for one. All that a page shows of them runs with the embedded model.
HUB = ("zsgvivo/videozoomer", "Qwen/Qwen2.5-VL-7B-Instruct", "Qwen/Qwen2.5-VL-3B-Instruct")
# Folders that a page takes for granted.
CHECKPOINTS = ("checkpoint", "base", "sft")
CONFIGS = {family: config_for(family) for family in FAMILIES}
NUM_QUESTIONS = 6
# The same commands with less to do.
FEWER = (
    (re.compile(r"(--benchmark world)\b(?!.*--limit)"), r"\1 --limit 2"),
    (re.compile(r"(--limit) \d\d+\b"), r"\1 4"),
)


def stand_ins(block: Block) -> str:
    """The code of a block with the embedded model for checkpoints of the hub, and with less to do."""
    code = block.code
    for name in HUB:
        code = code.replace(name, str(embedded_path()))
    if block.kind == "shell":
        for pattern, instead in FEWER:
            code = pattern.sub(instead, code)
    return code


def fill(folder: Path) -> None:
    """What the pages take for granted: a video, checkpoints, questions, conversations.

    match.mp4                   64 s, rendered
    checkpoint, base, sft       the embedded model
    videos/*.mp4, train.json    questions in the form in which VideoZoomer published theirs, about rendered videos
    held-out, trajectories      questions as records, and the embedded model's conversations about them
    sft.json                    conversations as they are published, in VideoZoomer's protocol with words of ours
    """
    render(make_video(4, config_for("which")), folder / "match.mp4")
    for name in CHECKPOINTS:
        (folder / name).symlink_to(embedded_path())
    questions = write_questions(folder, "count", NUM_QUESTIONS, CONFIGS["count"], zoom=PUBLIC_CONFIG)
    rows = [
        {
            "problem": record.question,
            "solution": record.reference,
            "videos": [Path(record.video.path).name],
            "doc_id": record.id,  # tells the oracle what the question is about
        }
        for record in read(questions)
    ]
    (folder / "train.json").write_text(json.dumps(rows))
    shutil.rmtree(questions)
    _write_conversations(folder)
    made, _ = rows_of(KINDS["videozoomer"], random.Random(0), 40)
    (folder / "sft.json").write_text(json.dumps(made))


def _write_conversations(folder: Path) -> None:
    zoomer = vzoom.load(device="cpu")
    write_questions(folder, "which", 3, CONFIGS["which"], zoom=zoomer.config).rename(folder / "held-out")
    records = list(read(folder / "held-out"))
    results = zoomer.ask_many([(record.video.path, record.question) for record in records])
    with Writer(folder / "trajectories") as writer:
        for record, result in zip(records, results, strict=True):
            about = {"video": record.video, "reference": record.reference, "options": record.options}
            writer.add(from_trajectory(result.trajectory, zoomer.config, id=record.id, **about))


@contextmanager
def expert() -> Iterator[dict[str, str]]:
    """The oracle of the rendered videos as an expert behind HTTP; the environment variables that name it."""
    with OracleServer(CONFIGS, PUBLIC_CONFIG) as server:
        yield {"VZOOM_EXPERT_URL": server.url, "VZOOM_EXPERT_MODEL": server.model}
