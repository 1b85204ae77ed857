"""Conversations for tests of training: a small world video, and what a checkpoint's engine made of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from protocols import BRIEF

from vzoom.cli.exactness import replay
from vzoom.config import ZoomConfig
from vzoom.data.record import Record, RecordedTurn, VideoRef
from vzoom.data.store import Writer, read
from vzoom.data.videos import refer
from vzoom.models import Checkpoint
from vzoom.models.checkpoint.vocabulary import vocabulary_of
from vzoom.protocol.frame_times import glance_timestamps, zoom_timestamps
from vzoom.synthetic import make_video, render
from vzoom.synthetic.dataset import facts_of, write_questions
from vzoom.synthetic.oracle import oracle_turns
from vzoom.synthetic.spec import SyntheticConfig
from vzoom.train.common.policy import PolicyModel, load_policy
from vzoom.train.common.samples import Sample, from_trajectory
from vzoom.train.recipes.recipe import SFTRecipe
from vzoom.types import StopReason, Trajectory, ZoomCall

PLAIN = SFTRecipe(batch_size=2, gradient_checkpointing=False)
WORLD = SyntheticConfig(duration_seconds=32.0, frame_size=84, num_scenes=(4, 8), scene_seconds=(4.0, 8.0))
ZOOM = ZoomConfig(
    protocol=BRIEF,
    min_pixels=3136,
    max_pixels=3136,
    glance_max_frames=8,
    zoom_max_frames=6,
    max_new_tokens=64,
    max_total_tokens=1024,
    answer_reserve=64,
)


def small_video(folder: Path, number: int = 0) -> VideoRef:
    path = folder / f"w{number}.mp4"
    if not path.exists():
        render(make_video(number, WORLD), path)
    return refer(path)


def roomy(checkpoint: Checkpoint, **changes: Any) -> Checkpoint:
    """The checkpoint with room for the turns of `played`, whatever its tokenizer."""
    config = replace(checkpoint.config, glance_max_frames=4, zoom_max_frames=4, max_new_tokens=512, protocol=BRIEF)
    return replace(checkpoint, config=replace(config, max_total_tokens=4096, **changes))


def played(checkpoint: Checkpoint, video: VideoRef, num_zooms: int) -> tuple[Trajectory, torch.Tensor]:
    """A scripted conversation, and the engine's log-probabilities of its sampled tokens, [N]."""
    made = replay(checkpoint, video.path, num_zooms=num_zooms)
    ids = torch.tensor([i for i, yes in zip(made.trajectory.ids, made.trajectory.sampled, strict=True) if yes])
    logits = made.logits_NV.index_fill(1, torch.tensor(checkpoint.banned_ids), float("-inf"))
    return made.trajectory, logits.log_softmax(1).gather(1, ids[:, None])[:, 0]


def policy_of(checkpoint: Checkpoint, part: SFTRecipe = PLAIN, **settings: Any) -> PolicyModel:
    return load_policy(checkpoint.name, part, **settings)


def sample_of(
    trajectory: Trajectory, checkpoint: Checkpoint, video: VideoRef, *, num_zooms: int = 4, id: str = "a"
) -> Sample:
    config = replace(checkpoint.config, max_zooms=num_zooms)
    return from_trajectory(trajectory, config, vocabulary_of(checkpoint), id=id, video=video)


def lessons(folder: Path, num_videos: int = 3) -> tuple[Path, Path]:
    """Folders of questions about small world videos, and of the oracle's conversations about them."""
    questions = write_questions(folder, "which", num_videos, WORLD, zoom=ZOOM, questions_per_video=2)
    with Writer(folder / "talks") as writer:
        for number, question in enumerate(read(questions)):
            writer.add(lesson(question, number))
    return questions, folder / "talks"


def lesson(question: Record, number: int) -> Record:
    """The oracle's conversation about a question; every third begins with a flawed zoom."""
    video, facts = facts_of(question.id, WORLD)
    flaw = "shifted" if number % 3 == 0 else "none"
    said = oracle_turns(video, facts, ZOOM, max_zooms=4, rng=np.random.default_rng(number), flaw=flaw)
    info = question.video.info
    turns = []
    for turn in said:
        times = zoom_timestamps(turn.outcome, info, ZOOM) if isinstance(turn.outcome, ZoomCall) else []
        assert isinstance(times, list)
        turns.append(RecordedTurn(turn.text(BRIEF), "oracle", turn.outcome, turn.flawed, tuple(times)))
    glance = tuple(glance_timestamps(info, ZOOM))
    return replace(question, glance_seconds=glance, turns=tuple(turns), stop_reason=StopReason.ANSWERED)
