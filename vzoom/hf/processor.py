"""What AutoProcessor is for, without torchvision: a text and its frames -> the inputs of a transformers model."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..config import ZoomConfig
from ..models import load_patch_spec, load_vocabulary
from ..protocol import ImagePart, Part, TextPart, VideoPart, tokenize_parts
from ..types import Clip
from ..video import frames_to_patches

_PLACES = re.compile(r"<\|image_pad\|>|(?:<\|vision_start\|>)?<\|video_pad\|>(?:<\|vision_end\|>)?")


class ZoomProcessor:
    """Makes what the processor of a Qwen-VL checkpoint makes, by vzoom's own code: ids, pixels and grids are equal.

        processor = vzoom.ZoomProcessor(path)
        inputs = processor("<|vision_start|><|image_pad|><|vision_end|>What is this?", images=[frame])

    Args:
        name_or_path: a checkpoint, a folder or hub id.
        config: its resize rule and pixel limits decide the size of the frames.

    Raises:
        OSError: nothing was found.
        ValueError: it is no Qwen-VL checkpoint, or its tokenizer is a slow one.
    """

    def __init__(self, name_or_path: str, config: ZoomConfig | None = None) -> None:
        config = config or ZoomConfig()
        shown = config.protocol.override
        self._configs = {kind: replace(config, protocol=shown(frame={"encoding": kind})) for kind in ("image", "video")}
        self._vocabulary = load_vocabulary(name_or_path)
        self._spec = load_patch_spec(name_or_path)

    def __call__(
        self, text: str, *, images: Sequence[np.ndarray] = (), videos: Sequence[Clip] = ()
    ) -> dict[str, Tensor]:
        """Inputs of `generate()` and of `ZoomCache.append`.

        Args:
            text: with one `<|image_pad|>` per image and one `<|video_pad|>` per video, as a chat template writes them.
                Control tokens that it spells are control tokens.
            images: frames, uint8 [H, W, 3].
            videos: clips whose frames become video tokens; their times tell Qwen2.5-VL how far the frames are apart,
                and are written in the text for Qwen3-VL.

        Returns:
            input_ids, attention_mask and, if this transformers asks for it, mm_token_type_ids, each [1, T]; with images
            pixel_values and image_grid_thw; with videos pixel_values_videos, video_grid_thw and, for Qwen2.5-VL,
            second_per_grid_ts.

        Raises:
            ValueError: the text has another number of places than there are images or videos.
        """
        vocabulary, video = self._vocabulary, self._vocabulary.video
        assert video is not None, "load_vocabulary knows the families"
        patches: dict[str, list[Tensor]] = {"image": [], "video": []}
        grids: list[tuple[int, int]] = []
        for kind, pictures in (
            ("image", [image[None] for image in images]),
            ("video", [clip.frames for clip in videos]),
        ):
            for frames in pictures:
                made, grid = frames_to_patches(frames, config=self._configs[kind], spec=self._spec)
                patches[kind].append(made)
                grids += [grid] * len(frames)
        parts = list(_parts(text, len(images), videos))
        span = tokenize_parts(parts, grids, vocabulary.codec, vocabulary.image_token_id, vocabulary.merge, video)
        ids = torch.tensor([span.ids])
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if _asks_for_kinds():
            inputs["mm_token_type_ids"] = (ids == vocabulary.image_token_id).int() + 2 * (ids == video.token_id).int()
        if patches["image"]:
            inputs["pixel_values"] = torch.cat(patches["image"])
            inputs["image_grid_thw"] = torch.tensor([block.grid_thw for block in span.blocks if not block.is_video])
        if patches["video"]:
            inputs["pixel_values_videos"] = torch.cat(patches["video"])
            starts = np.cumsum([len(images), *map(len, videos)])[:-1]
            together = self._spec.temporal_patch_size
            inputs["video_grid_thw"] = torch.tensor(
                [(-(-len(clip) // together), *grids[at]) for clip, at in zip(videos, starts, strict=True)]
            )
            if video.positions_per_second is not None:
                inputs["second_per_grid_ts"] = torch.tensor([together * _spacing(clip) for clip in videos])
        return inputs


def _parts(text: str, num_images: int, videos: Sequence[Clip]) -> list[Part]:
    """The text with its places filled. Frames of videos are counted after the images."""
    places = [found[0] for found in _PLACES.finditer(text)]
    asked = sum("image" in place for place in places), sum("video" in place for place in places)
    if asked != (num_images, len(videos)):
        raise ValueError(
            f"the text has places for {asked[0]} images and {asked[1]} videos, and {num_images} and {len(videos)} are "
            "given: write <|image_pad|> or <|video_pad|> once for each"
        )
    parts: list[Part] = []
    at = image = clip = 0
    first = num_images
    for found in _PLACES.finditer(text):
        parts.append(TextPart(text[at : found.start()]))
        at = found.end()
        if "image" in found[0]:
            parts.append(ImagePart(image))
            image += 1
        else:
            parts.append(VideoPart(first, videos[clip].pts_seconds))
            first += len(videos[clip])
            clip += 1
    return [*parts, TextPart(text[at:])]


def _spacing(clip: Clip) -> float:
    """Seconds from one frame to the next; 1 if there is one frame, as transformers has it if nothing is known."""
    return (clip.pts_seconds[-1] - clip.pts_seconds[0]) / (len(clip) - 1) if len(clip) > 1 else 1.0


def _asks_for_kinds() -> bool:
    """transformers 5.0 finds images and videos by their tokens."""
    from transformers import Qwen2VLForConditionalGeneration as Model

    return "mm_token_type_ids" in inspect.signature(Model.forward).parameters
