"""A `Cache` of transformers whose keys and values are in vzoom's pages, for `generate()` of an enabled model.

Its layers write pages and return only the new keys and values; attention (see `backend.py`) reads the pages.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from ..engine import PagePool
from ..protocol import RopeRule, TokenSpan, VideoTokens, VisionBlock, span_positions
from .paged_batch import PagedBatch, RunPlan

_PLAN = "_vzoom_plan"


@dataclass(frozen=True)
class PagedModel:
    """What caches need to know of a model that `vzoom.enable` was called on.

    Attributes:
        pool: the pages of all its caches.
        merge: patches per side that the vision tower merges into one token.
        video: how the family writes video tokens.
        rope_rule: where this transformers places text after a video.
    """

    model: weakref.ref[Any]
    pool: PagePool
    num_layers: int
    image_token_id: int
    merge: int
    video: VideoTokens
    rope_rule: RopeRule


PAGED_MODELS: weakref.WeakKeyDictionary[Any, PagedModel] = weakref.WeakKeyDictionary()


class ZoomLayer(CacheLayerMixin):
    """One layer of a batch. The first layer does what concerns all of them."""

    is_sliding = False
    is_croppable = True
    supports_early_init = False

    def __init__(self, pages: PagedBatch, index: int, num_layers: int) -> None:
        super().__init__()
        self.pages, self.index, self.is_last = pages, index, index == num_layers - 1

    def lazy_initialization(self, *args: Any) -> None:
        """Does nothing: the pages are there before the first run."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write the new keys and values, [B, G, n, D], and return them; attention finds the pages through the keys."""
        plan = self.pages.plan
        if plan is None:
            raise ValueError("this ZoomCache belongs to a model that is not enabled: call vzoom.enable(model) first")
        if key_states.requires_grad:
            raise ValueError("a ZoomCache carries no gradients: call the model under torch.no_grad()")
        plan.write(self.index, key_states, value_states)
        # Attention functions do not get the cache, so the keys carry the plan. A global could be that of another run
        # when threads or models are nested.
        setattr(key_states, _PLAN, (plan, self.index))
        if self.is_last:
            self.pages.finish()
        return key_states, value_states

    def get_seq_length(self, *args: Any) -> int:
        return self.pages.length

    def get_mask_sizes(self, *args: Any) -> tuple[int, int]:
        return 0, 0  # no keys outside the pages: there is nothing to mask

    def get_max_length(self) -> int:
        return -1

    def get_max_cache_shape(self) -> int:
        """The name of `get_max_length` up to transformers 5."""
        return -1

    def reset(self) -> None:
        if self.index == 0:
            self.pages.reset()

    def crop(self, tokens: int) -> None:
        """Below zero: remove so many tokens. Above zero: keep so many, as older transformers had it. 0: do nothing."""
        if self.index == 0 and tokens:
            self.pages.crop(-tokens if tokens < 0 else max(0, self.pages.length - tokens))

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        if self.index == 0 and self.pages.length:
            self.pages.select(torch.arange(len(self.pages))[indices.cpu()].tolist())

    def batch_repeat_interleave(self, repeats: int) -> None:
        if self.index == 0 and self.pages.length:
            self.pages.select([i for i in range(len(self.pages)) for _ in range(repeats)])


def plan_of(key_states: Tensor) -> tuple[RunPlan, int] | None:
    """(plan, layer) of keys that a ZoomLayer returned; None for any other keys."""
    return getattr(key_states, _PLAN, None)


class ZoomCache(Cache):
    """A conversation, or a batch of equally long ones, in the pages of an enabled model.

        vzoom.enable(model)
        cache = vzoom.ZoomCache(model)
        ids = model.generate(**glance, past_key_values=cache)
        ids = cache.append(ids, processor(text=tool_turn, images=frames, return_tensors="pt"))
        ids = model.generate(ids, past_key_values=cache)

    Pages go back on `reset()`, or when the cache is deleted.

    Args:
        model: one that `vzoom.enable` was called on.

    Raises:
        ValueError: the model is not enabled.
    """

    def __init__(self, model: Any) -> None:
        paged_model = PAGED_MODELS.get(model)
        if paged_model is None:
            raise ValueError(f"this {type(model).__name__} is not enabled: call vzoom.enable(model) first")
        self.set_up(paged_model, PagedBatch(paged_model.pool))

    def set_up(self, paged_model: PagedModel, pages: PagedBatch) -> ZoomCache:
        """Put a cache on its pages. For the hooks, which know the model already."""
        super().__init__(
            layers=[ZoomLayer(pages, index, paged_model.num_layers) for index in range(paged_model.num_layers)]
        )
        self.paged_model, self.pages = paged_model, pages
        return self

    @property
    def num_blocks(self) -> int:
        """Pages that the cache holds; one that several of its sequences share counts once."""
        return self.pages.num_blocks

    def fork(self, count: int) -> list[ZoomCache]:
        """`count` caches that continue from here, each on its own. They share every page until one of them writes.

        For one batch of continuations: `cache.batch_repeat_interleave(count)`.
        """
        if count < 1:
            raise ValueError(f"fork makes 1 or more caches, got {count}")
        return [self.__deepcopy__({}) for _ in range(count)]

    def __deepcopy__(self, memo: dict[int, Any]) -> ZoomCache:
        """copy.deepcopy(cache) is transformers' recipe for using a prompt again. Here it copies no page."""
        return ZoomCache.__new__(ZoomCache).set_up(self.paged_model, self.pages.fork())

    def append(self, ids: Tensor, turn: Mapping[str, Tensor]) -> Tensor:
        """Splice a turn with its images and videos after what was generated. Positions are those of a prefill from
        scratch.

        Args:
            ids: int64 [B, L], all tokens so far, as `generate()` returned them. The one sampled last was never fed; it
                opens the run that is fed here.
            turn: what a processor returns for the new text and frames alone: input_ids [B, n] with one image or video
                token per visual token and, if there are images, pixel_values and image_grid_thw [images, 3]; if there
                are videos, pixel_values_videos, video_grid_thw [videos, 3] and, for Qwen2.5-VL, second_per_grid_ts.

        Returns:
            All ids, int64 [B, L + n], for the next `generate()`, which feeds the last token of the turn.

        Raises:
            ValueError: ids, tokens or grids do not fit. The cache is then unchanged.
        """
        model, held = self.paged_model.model(), self.pages.length
        if model is None:
            raise ValueError("the model of this ZoomCache was deleted")
        _check_turn(ids, turn, held)
        visual = [self.paged_model.image_token_id, self.paged_model.video.token_id]
        if bool(torch.isin(ids[:, held:], torch.tensor(visual, device=ids.device)).any()):
            raise ValueError(
                f"the model sampled a visual token, which no frame belongs to: generate(..., suppress_tokens={visual})"
            )
        fresh = turn["input_ids"].to(ids.device)
        everything = torch.cat([ids, fresh], dim=1)
        run = everything[:, held:-1].to(model.device)
        starts = self.pages.next_positions_B.tolist()
        positions = _positions(run.tolist(), starts, turn, self.paged_model)
        media = {k: turn[k].to(model.device) for k in _MEDIA if k in turn}
        self.pages.given_positions = torch.from_numpy(positions).to(model.device)
        try:
            if run.shape[1]:
                with torch.no_grad():
                    model.model(
                        input_ids=run,
                        position_ids=self.pages.given_positions,
                        past_key_values=self,
                        use_cache=True,
                        **media,
                    )
        finally:
            self.pages.given_positions = None
        return everything


_MEDIA = ("pixel_values", "image_grid_thw", "pixel_values_videos", "video_grid_thw")
_KNOWN = {"input_ids", "attention_mask", "mm_token_type_ids", "second_per_grid_ts", *_MEDIA}


def _check_turn(ids: Tensor, turn: Mapping[str, Tensor], held: int) -> None:
    if held == 0:
        raise ValueError("the cache is empty: the first turn goes to generate(**inputs, past_key_values=cache)")
    if unknown := set(turn) - _KNOWN:
        raise ValueError(f"append takes text, images and videos, not {', '.join(sorted(unknown))}")
    for values, grids in zip(_MEDIA[::2], _MEDIA[1::2], strict=True):
        if (values in turn) != (grids in turn):
            raise ValueError(f"{values} and {grids} go together, and only one of them is given")
    fresh = turn["input_ids"]
    if ids.ndim != 2 or fresh.ndim != 2 or len(ids) != len(fresh) or not fresh.shape[1]:
        raise ValueError(f"ids and input_ids must be [B, tokens], got {tuple(ids.shape)} and {tuple(fresh.shape)}")
    if ids.shape[1] < held:
        raise ValueError(
            f"the cache holds {held} tokens and ids only {ids.shape[1]}: give all tokens, as generate() returned them"
        )
    mask = turn.get("attention_mask")
    if mask is not None and not bool(mask.bool().all()):
        raise ValueError("the turns of a batch must be equally long: append cannot pad between turns")


def _positions(
    run: list[list[int]], starts: list[int], turn: Mapping[str, Tensor], paged_model: PagedModel
) -> np.ndarray:
    """int64 [3, B, n] of runs that start at `starts`; the turn's grids go to its images and videos in order."""
    known = paged_model
    images, videos = _Grids("image", turn.get("image_grid_thw")), _Grids("video", turn.get("video_grid_thw"))
    seconds = [0.0] * len(videos.left)
    if known.video.positions_per_second is not None and videos.left:
        given = turn.get("second_per_grid_ts")
        if given is None or len(given) != len(videos.left):
            raise ValueError(
                f"this model's positions need second_per_grid_ts, one number for each of {len(videos.left)} videos: "
                "seconds from one temporal patch to the next"
            )
        seconds = [float(value) for value in given]
    if known.video.timed:  # each temporal patch is a block of its own
        videos.left = [(1, h, w) for t, h, w in videos.left for _ in range(t)]
        seconds = [0.0] * len(videos.left)
    visual = {known.image_token_id: images, known.video.token_id: videos}
    rows = []
    for ids, start in zip(run, starts, strict=True):
        blocks: list[VisionBlock] = []
        at = 0
        while at < len(ids):
            grids = visual.get(ids[at])
            if grids is None:
                at += 1
                continue
            is_video = grids is videos
            block = VisionBlock(0, 0, at, grids.next(), is_video, seconds[videos.number - 1] if is_video else 0.0)
            count = block.num_tokens(known.merge)
            if not count or (not is_video and block.grid_thw[0] != 1) or ids[at : at + count] != [ids[at]] * count:
                raise ValueError(
                    f"{grids.kind} tokens and {grids.kind}_grid_thw do not fit: {grids.kind} {grids.number} of "
                    f"{grids.number + len(grids.left)} {f'takes {count} tokens' if count else 'has no grid'}, and the "
                    f"tokens from {at} on are not: input_ids must hold one {grids.kind} token per visual token, as "
                    "processors write them"
                )
            blocks.append(block)
            at += count
            if at == len(ids) and is_video and known.rope_rule == "hf523":
                raise ValueError(
                    "the turn ends with a video, after which this transformers has no next position: add text"
                )
        rows.append(span_positions(start, TokenSpan(ids, blocks), known.merge, known.video, known.rope_rule)[0])
    for grids in (images, videos):
        if grids.left:
            total = grids.number + len(grids.left)
            raise ValueError(
                f"{grids.kind}_grid_thw holds {total} {grids.kind}s, input_ids the tokens of {grids.number}"
            )
    return np.stack(rows, axis=1)


class _Grids:
    """The grids of a turn's images or videos, taken one by one. number: of the one that was taken last, from 1."""

    def __init__(self, kind: str, grids: Tensor | None) -> None:
        self.kind, self.number = kind, 0
        self.left: list[tuple[int, int, int]] = [] if grids is None else [(t, h, w) for t, h, w in grids.tolist()]

    def next(self) -> tuple[int, int, int]:
        if not self.left:
            raise ValueError(
                f"{self.kind} tokens and {self.kind}_grid_thw do not fit: {self.kind} {self.number + 1} of "
                f"{self.number} has no grid"
            )
        self.number += 1
        return self.left.pop(0)
