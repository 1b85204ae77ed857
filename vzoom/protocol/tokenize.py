"""Parts of the protocol -> token ids, with the visual tokens in their places.

The sampler and every trainer use this one function, so neither ever tokenises again what the other wrote.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

from .render import ImagePart, Part, TextPart, VideoPart
from .text_codec import TextCodec
from .vocabulary import VideoTokens


@dataclass(frozen=True)
class VisionBlock:
    """Visual tokens that follow each other: an image, or frames as video tokens.

    Attributes:
        first_frame: index of its first frame in the glance or the clip.
        num_frames: so many frames from there on; one of an image.
        offset: of its first token in the span.
        grid_thw: temporal patches, and rows and columns of patches before the vision tower merges them.
        is_video: whether they are video tokens.
        seconds_per_patch: from one temporal patch to the next; 0 if there is one alone.
    """

    first_frame: int
    num_frames: int
    offset: int
    grid_thw: tuple[int, int, int]
    is_video: bool = False
    seconds_per_patch: float = 0.0

    @property
    def frames(self) -> slice:
        """Where its frames are in the glance or the clip."""
        return slice(self.first_frame, self.first_frame + self.num_frames)

    def num_tokens(self, merge: int) -> int:
        """Visual tokens that it takes, if merge x merge patches make one."""
        t, h, w = self.grid_thw
        return t * (h // merge) * (w // merge)


@dataclass
class TokenSpan:
    """Consecutive tokens of a conversation, and where the vision blocks are in them."""

    ids: list[int] = field(default_factory=list)
    blocks: list[VisionBlock] = field(default_factory=list)

    def after(self, token: int) -> TokenSpan:
        """The span with one more token in front of it."""
        return TokenSpan([token, *self.ids], [replace(block, offset=block.offset + 1) for block in self.blocks])


def tokenize_parts(
    parts: Sequence[Part],
    grids_hw: Sequence[tuple[int, int]],
    codec: TextCodec,
    image_token_id: int,
    merge: int,
    video: VideoTokens | None = None,
) -> TokenSpan:
    """Tokenise what `render` gave.

    Args:
        parts: text and the places of frames, in order.
        grids_hw: grid (h, w) in patches of each frame; the indices of `ImagePart` and `VideoPart` point into it.
        codec: encodes the text. Added tokens are recognised in trusted text only.
        image_token_id: the id that stands for one visual token of an image.
        merge: patches per side of one visual token.
        video: how the model's family writes video tokens.

    Returns:
        The tokens. An image takes (h / merge) * (w / merge) of them, a video as many per temporal patch.

    Raises:
        ValueError: there is a `VideoPart`, and `video` is not given.
    """
    span = TokenSpan()
    for kind, run in groupby(_written(parts, grids_hw, video), key=type):
        if kind is TextPart:
            span.ids += codec.encode_parts(part for part in run if isinstance(part, TextPart))
            continue
        for block in run:
            assert isinstance(block, VisionBlock)
            span.blocks.append(replace(block, offset=len(span.ids)))
            token = video.token_id if block.is_video and video is not None else image_token_id
            span.ids += [token] * block.num_tokens(merge)
    return span


def _written(
    parts: Sequence[Part], grids_hw: Sequence[tuple[int, int]], video: VideoTokens | None
) -> Iterator[TextPart | VisionBlock]:
    """Text and vision blocks, which are not placed yet."""
    for part in parts:
        if isinstance(part, ImagePart):
            yield VisionBlock(part.index, 1, 0, (1, *grids_hw[part.index]))
        elif isinstance(part, VideoPart):
            if video is None:
                raise ValueError(
                    "frames cannot be written as video tokens: how the model's family does it is not known"
                )
            yield from _video_blocks(part, grids_hw[part.first], video)
        else:
            yield part


def _video_blocks(part: VideoPart, grid_hw: tuple[int, int], video: VideoTokens) -> Iterator[TextPart | VisionBlock]:
    """The frames of a clip as the processor of the family writes them. The last of an odd number stands twice."""
    together, count = video.frames_per_patch, len(part.times)
    if not video.timed:
        patches = -(-count // together)
        yield TextPart("<|vision_start|>")
        yield VisionBlock(
            part.first, count, 0, (patches, *grid_hw), True, together * part.spacing if patches > 1 else 0.0
        )
        yield TextPart("<|vision_end|>")
        return
    for begin in range(0, count, together):
        times = part.times[begin : begin + together]
        yield TextPart(f"<{(times[0] + times[-1]) / 2:.1f} seconds><|vision_start|>")
        yield VisionBlock(part.first + begin, len(times), 0, (1, *grid_hw), True)
        yield TextPart("<|vision_end|>")
