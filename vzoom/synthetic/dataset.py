"""A folder of synthetic videos with questions about them, as training and its tests use it.

    questions   records without turns (`vzoom.data`): question, options, reference, video
    videos      what they are about, as MP4 files

A record's id says what it is about, "{family}-{namespace}-{video}-{k}", so that its facts can be drawn again. One
that ends in "-z{n}" allows at most n zooms; the others allow as many as the data set does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from ..config import ZoomConfig
from ..data import Record, Writer, refer
from .questions import Question, ask
from .spec import SyntheticConfig, SyntheticVideo, make_training_video, make_video
from .video import render

Namespace = Literal["training", "public"]
_MAKERS: dict[str, Callable[[int, SyntheticConfig | None], SyntheticVideo]] = {
    "training": make_training_video,
    "public": make_video,
}
_ID = re.compile(rf"([a-z]+)-({'|'.join(get_args(Namespace))})-(\d{{6}})-(\d+)(?:-z(\d+))?")


def write_questions(
    folder: str | Path,
    family: str,
    num_videos: int,
    config: SyntheticConfig,
    *,
    zoom: ZoomConfig,
    questions_per_video: int = 1,
    first: int = 0,
    namespace: Namespace = "training",
    fewer_zooms: float = 0.0,
    say: Callable[[str], None] = lambda line: None,
) -> Path:
    """Render videos and write questions about them. What the folder holds already is not made again.

    Several families may share a folder: one call for each, in the same order every time.

    Args:
        folder: gets `questions` and `videos`.
        family: of the questions, see `FAMILIES`.
        num_videos: how many videos to ask about.
        config: of the videos.
        zoom: the limits of the conversations.
        questions_per_video: drawn independently.
        first: number of the first video; the others follow it.
        namespace: every "public" video is held out from "training".
        fewer_zooms: the share of questions, from 0 to 1, that allow fewer zooms than `zoom.max_zooms`, down to none.
            From these a model learns to heed the limit.
        say: gets a line for every 50 videos.

    Returns:
        folder/questions, as `vzoom.data.read` reads it.

    Raises:
        ValueError: a number is out of range, or a video allows no question of this family.
    """
    if num_videos < 1 or questions_per_video < 1 or first < 0:
        raise ValueError(
            f"need num_videos ≥ 1, questions_per_video ≥ 1, first ≥ 0, got {num_videos}, {questions_per_video}, {first}"
        )
    if not 0 <= fewer_zooms <= 1:
        raise ValueError(f"fewer_zooms is a share, from 0 to 1, got {fewer_zooms}")
    folder = Path(folder)
    (folder / "videos").mkdir(parents=True, exist_ok=True)
    with Writer(folder / "questions") as writer:
        for done, number in enumerate(range(first, first + num_videos)):
            ids = [
                f"{family}-{namespace}-{number:06d}-{k}{_limit(number, k, zoom.max_zooms, fewer_zooms)}"
                for k in range(questions_per_video)
            ]
            fresh = [id for id in ids if id not in writer.ids]
            if not fresh:
                continue
            path = folder / "videos" / f"{family}-{namespace}-{number:06d}.mp4"
            video, _ = facts_of(fresh[0], config)
            if not path.exists():
                render(video, path)
            reference = refer(path)
            for id in fresh:
                question = facts_of(id, config)[1]
                held = replace(zoom, max_zooms=zooms_allowed(id, zoom))
                writer.add(Record(id, question.text, question.options, question.answer_letter, reference, held))
            if (done + 1) % 50 == 0 or done + 1 == num_videos:
                say(f"{family} {namespace}: {done + 1}/{num_videos} videos")
    return folder / "questions"


def facts_of(
    record_id: str, config: SyntheticConfig | Mapping[str, SyntheticConfig]
) -> tuple[SyntheticVideo, Question]:
    """What a record of `write_questions` is about.

    Args:
        record_id: as "which-training-000012-0".
        config: of the data set's videos: one for all families, or one per family.

    Returns:
        The video and the question, drawn again.

    Raises:
        ValueError: the id is no id of `write_questions`, or `config` lacks its family.
    """
    match = _ID.fullmatch(record_id)
    if match is None:
        raise ValueError(f"{record_id!r} is not the id of a synthetic question, as which-training-000012-0")
    family, namespace, number, k, _ = match.groups()
    if isinstance(config, Mapping):
        if family not in config:
            raise ValueError(f"{record_id}: no config for the family {family}, only {', '.join(config)}")
        config = config[family]
    video = _MAKERS[namespace](int(number), config)
    rng = np.random.default_rng(np.random.SeedSequence((int(number), int(k)), spawn_key=(3,)))
    return video, ask(video, family, rng)


def zooms_allowed(record_id: str, zoom: ZoomConfig) -> int:
    """How many zooms the question of this id allows, in a data set that allows those of `zoom`."""
    match = _ID.fullmatch(record_id)
    return zoom.max_zooms if match is None or match[5] is None else int(match[5])


def _limit(number: int, k: int, max_zooms: int, share: float) -> str:
    """What an id ends in: "" or "-z{n}", n below max_zooms."""
    rng = np.random.default_rng(np.random.SeedSequence((number, k), spawn_key=(4,)))
    return f"-z{rng.integers(max_zooms)}" if max_zooms and rng.random() < share else ""
