"""The two workloads that vzoom and its peers are compared on, as token ids and frames in a file.

"single": a glance of 64 frames, then 4 times a turn of 60 tokens and a clip of 16 frames, then 64 answer tokens.
"group": 8 rollouts share a glance and a question; 2 zooms each, every rollout its own clips; 64 answer tokens.

What is sampled is forced in number, greedy in content. Text ids are random: what costs is how many there are.
Ids, frames and counts are the same for every system, so nothing here imports vzoom, torch or a tokenizer.

R rollouts, K zooms, N frames of a clip, S pixels a side.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

# Text tokens of a real conversation in this protocol: in front of, between and behind the frames.
PROMPT_TEXT = (320, 12, 48)
TURN_TEXT = (34, 12, 47)
PIXELS_A_TOKEN = 28  # a side: patches of 14, merged 2 x 2
LOWEST_TEXT_ID = 256


@dataclass(frozen=True)
class Shape:
    """How much of everything a workload holds. The defaults are those of "single"."""

    glance_frames: int = 64
    clip_frames: int = 16
    zooms: int = 4
    rollouts: int = 1
    zoom_tokens: int = 60
    answer_tokens: int = 64
    side_pixels: int = 168

    @property
    def tokens_a_frame(self) -> int:
        return (self.side_pixels // PIXELS_A_TOKEN) ** 2

    @property
    def turns(self) -> int:
        """Generations of a rollout."""
        return self.zooms + 1

    def turn_tokens(self, turn: int) -> int:
        """How many tokens generation `turn` samples."""
        return self.answer_tokens if turn == self.zooms else self.zoom_tokens

    @property
    def sampled_tokens(self) -> int:
        """Of all rollouts."""
        return self.rollouts * (self.zooms * self.zoom_tokens + self.answer_tokens)


SHAPES = {"single": Shape(), "group": Shape(zooms=2, rollouts=8)}


@dataclass(frozen=True)
class ControlIds:
    """The ids that stand around and for a frame."""

    image: int
    vision_start: int
    vision_end: int

    @classmethod
    def of_checkpoint(cls, folder: Path) -> ControlIds:
        """From config.json of a Qwen2.5-VL checkpoint, where it names them, else from tokenizer.json."""
        config = json.loads((folder / "config.json").read_text())
        added = json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
        by_text = {token["content"]: int(token["id"]) for token in added}
        return cls(int(config["image_token_id"]), by_text["<|vision_start|>"], by_text["<|vision_end|>"])


@dataclass(frozen=True)
class Workload:
    """One conversation, or one group of them, with one id for each frame (`expanded` gives as many as it has tokens).

    prompt_ids: [P]. turn_ids: [R, K, T], what follows generation k. glance: uint8 [N, S, S, 3].
    clips: uint8 [R, K, N, S, S, 3].
    """

    shape: Shape
    image_token_id: int
    prompt_ids: np.ndarray
    turn_ids: np.ndarray
    glance: np.ndarray
    clips: np.ndarray

    @classmethod
    def make(cls, shape: Shape, ids: ControlIds, seed: int) -> Workload:
        """The same seed gives the same workload, everywhere."""
        rng = np.random.default_rng(seed)

        def text(count: int) -> np.ndarray:
            # Control tokens lie behind the text tokens in Qwen's vocabularies, vision_start among the first of them.
            return rng.integers(LOWEST_TEXT_ID, ids.vision_start - 16, count)

        def run(lengths: tuple[int, int, int], frames: int) -> np.ndarray:
            frame = [ids.vision_start, ids.image, ids.vision_end]
            labelled = [np.concatenate([text(lengths[1]), frame]) for _ in range(frames)]
            return np.concatenate([text(lengths[0]), *labelled, text(lengths[2])])

        def frames(count: int) -> np.ndarray:
            blocks = rng.integers(0, 240, (count, 12, 12, 3), dtype=np.uint8)
            scale = -(-shape.side_pixels // 12)
            large = blocks.repeat(scale, axis=1).repeat(scale, axis=2)[:, : shape.side_pixels, : shape.side_pixels]
            return large + rng.integers(0, 16, large.shape, dtype=np.uint8)

        turns = [[run(TURN_TEXT, shape.clip_frames) for _ in range(shape.zooms)] for _ in range(shape.rollouts)]
        clips = [[frames(shape.clip_frames) for _ in range(shape.zooms)] for _ in range(shape.rollouts)]
        return cls(
            shape,
            ids.image,
            run(PROMPT_TEXT, shape.glance_frames),
            np.array(turns),
            frames(shape.glance_frames),
            np.array(clips),
        )

    def expanded(self, ids: np.ndarray) -> list[int]:
        """Every image id repeated for each visual token of its frame."""
        return np.repeat(ids, np.where(ids == self.image_token_id, self.shape.tokens_a_frame, 1)).tolist()

    @property
    def final_tokens(self) -> int:
        """Length of a rollout's conversation at its end, visual tokens included."""
        fed = len(self.expanded(self.prompt_ids)) + sum(len(self.expanded(turn)) for turn in self.turn_ids[0])
        return fed + self.shape.sampled_tokens // self.shape.rollouts

    def save(self, path: Path) -> None:
        np.savez(
            path,
            shape=json.dumps(asdict(self.shape)),
            image_token_id=self.image_token_id,
            prompt_ids=self.prompt_ids,
            turn_ids=self.turn_ids,
            glance=self.glance,
            clips=self.clips,
        )

    @classmethod
    def load(cls, path: Path) -> Workload:
        with np.load(path) as held:
            return cls(
                Shape(**json.loads(str(held["shape"]))),
                int(held["image_token_id"]),
                *(held[name] for name in ("prompt_ids", "turn_ids", "glance", "clips")),
            )
