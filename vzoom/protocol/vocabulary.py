"""What a session must know of a checkpoint: how text becomes tokens, and how many tokens a frame takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .text_codec import TextCodec


@dataclass(frozen=True)
class VideoTokens:
    """How a family writes frames as video tokens.

    Attributes:
        token_id: the id that stands for one visual token of a video.
        frames_per_patch: frames that share the tokens of one.
        timed: whether each temporal patch is a vision block of its own, after its time as text (Qwen3-VL). Otherwise
            all frames of a clip are one vision block.
        positions_per_second: how far the time axis of M-RoPE moves in a second of video (Qwen2.5-VL); None if it moves
            by one per temporal patch.
    """

    token_id: int
    frames_per_patch: int = 2
    timed: bool = False
    positions_per_second: float | None = None


@dataclass(frozen=True)
class Vocabulary:
    """The text codec of a model, its control tokens, and the grid that a frame of a given size gets.

    `models.vocabulary_of` and `models.load_vocabulary` make one.

    Attributes:
        codec: text <-> token ids.
        image_token_id: the id that stands for one visual token of an image.
        end_of_turn_id: the id that ends a turn of either side.
        end_ids: the ids that end a generation; end_of_turn_id is one of them.
        merge: patches per side of one visual token.
        grid_hw: (height, width in pixels, `ZoomConfig`) of a frame -> (rows, columns) of patches.
        video: how the model's family writes video tokens; None if that is not known.
        untagged_answers: whether a turn that ends without any tag is the answer: nobody trained the model for tags.
    """

    codec: TextCodec
    image_token_id: int
    end_of_turn_id: int
    end_ids: frozenset[int]
    merge: int
    grid_hw: Callable[[int, int, Any], tuple[int, int]]
    video: VideoTokens | None = None
    untagged_answers: bool = False

    @property
    def visual_token_ids(self) -> frozenset[int]:
        """The ids that stand for visual tokens, of images and of videos."""
        return frozenset({self.image_token_id} if self.video is None else {self.image_token_id, self.video.token_id})
