"""transformers' generate(): with the KV cache kept between turns ("cache"), or everything again in each ("reprefill").

Keeping the cache is exact in one way only: ids, mask, grids and token types of the whole conversation, and features of
the new images alone, passed as `mm_encoder_outputs`. Rollouts of a group are one batch: their lengths are equal here.
"""

from __future__ import annotations

import time
from typing import Any

import torch
import transformers
from PIL import Image
from transformers import AutoImageProcessor, DynamicCache, LogitsProcessor, LogitsProcessorList
from transformers import Qwen2_5_VLForConditionalGeneration as Model
from workload import Workload

from . import Phases


def make(model: str, dtype: str, mode: str) -> HfGenerate:
    return HfGenerate(model, dtype, keep_cache=mode == "cache")


class _Watch(LogitsProcessor):
    """Notes the CPU time at which a generation's first logits are there, and log-probabilities of greedy tokens."""

    def __init__(self, checked: bool) -> None:
        self.first_at: float | None = None
        self.logprobs: list[list[float]] = []  # [step][rollout]
        self._checked = checked

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        if self.first_at is None:
            self.first_at = time.thread_time()
        if self._checked:
            self.logprobs.append(scores.float().log_softmax(-1).amax(-1).tolist())
        return scores


class HfGenerate:
    def __init__(self, model: str, dtype: str, *, keep_cache: bool) -> None:
        torch.set_grad_enabled(False)
        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        self.processor = AutoImageProcessor.from_pretrained(model)
        self.model: Any = Model.from_pretrained(model, dtype=getattr(torch, dtype), attn_implementation="sdpa").eval()
        self.keep_cache = keep_cache
        self.phases = Phases()
        self.phases.watch(self.model.model.visual, "forward", "vision")
        self.prompt_tokens: list[int] = []
        self.checked = False
        self.logprobs: list[list[list[float]]] = []
        self.versions = {"transformers": transformers.__version__}
        self.settings = {"attention": "sdpa", "keep_cache": keep_cache}
        self._image_id: int = self.model.config.image_token_id

    def prepare(self, work: Workload) -> None:
        self.model.model.rope_deltas = None
        self._glance = [Image.fromarray(frame) for frame in work.glance]
        self._clips = [[[Image.fromarray(frame) for frame in clip] for clip in own] for own in work.clips]

    def run(self, work: Workload) -> list[list[list[int]]]:
        shape = work.shape
        ids = torch.tensor([work.expanded(work.prompt_ids)] * shape.rollouts)
        images = [list(self._glance) for _ in range(shape.rollouts)]
        self.prompt_tokens = []
        self.logprobs = []
        self._cache = DynamicCache(config=self.model.config)
        self._grids: list[torch.Tensor] = []  # of each rollout, all its images so far
        sampled: list[list[list[int]]] = []
        for turn in range(shape.turns):
            self.prompt_tokens.append(ids.shape[1])
            count = shape.turn_tokens(turn)
            if not self.keep_cache:
                kwargs = self._everything(images)
            elif turn == 0:
                kwargs = self._glance_once(ids)
            else:
                kwargs = self._new_clips([clips[turn - 1] for clips in self._clips])
            ids = self._generate(ids, count, kwargs)
            sampled.append(ids[:, -count:].tolist())
            if turn < shape.zooms:
                ids = torch.cat([ids, torch.tensor([work.expanded(own[turn]) for own in work.turn_ids])], dim=1)
                for rollout, own in enumerate(images):
                    own += self._clips[rollout][turn]
        return sampled

    def _pixels(self, images: list[Image.Image]) -> tuple[torch.Tensor, torch.Tensor]:
        with self.phases.stage("patches"):
            batch = self.processor(images=images, return_tensors="pt")
        return batch["pixel_values"], batch["image_grid_thw"]

    def _everything(self, images: list[list[Image.Image]]) -> dict[str, Any]:
        pixels, grids = self._pixels([image for own in images for image in own])
        return {"pixel_values": pixels, "image_grid_thw": grids}

    def _glance_once(self, ids: torch.Tensor) -> dict[str, Any]:
        """The glance is prefilled once; for a group the cache is then copied, and generate() feeds the last token."""
        pixels, grid = self._pixels(self._glance)
        rollouts = len(ids)
        self._grids = [grid] * rollouts
        if rollouts == 1:
            return {"pixel_values": pixels, "image_grid_thw": grid, "past_key_values": self._cache}
        one = ids[:1]
        inner = self.model.model
        types = (one == self._image_id).int()
        positions, deltas = inner.get_rope_index(one, mm_token_type_ids=types, image_grid_thw=grid)
        seconds_of_vision = self.phases.seconds.get("vision", 0.0)
        began = time.thread_time()
        inner(
            input_ids=one[:, :-1],
            position_ids=positions[..., :-1],
            pixel_values=pixels,
            image_grid_thw=grid,
            past_key_values=self._cache,
            use_cache=True,
        )
        self._cache.batch_repeat_interleave(rollouts)
        vision = self.phases.seconds["vision"] - seconds_of_vision
        self.phases.add("prefill", time.thread_time() - began - vision)
        inner.rope_deltas = deltas
        return {"image_grid_thw": torch.cat(self._grids), "past_key_values": self._cache}

    def _new_clips(self, clips: list[list[Image.Image]]) -> dict[str, Any]:
        pixels, grids = self._pixels([image for clip in clips for image in clip])
        features = self.model.model.get_image_features(pixels, grids, return_dict=True)
        new = grids.view(len(clips), -1, 3)
        self._grids = [torch.cat([old, own]) for old, own in zip(self._grids, new, strict=True)]
        return {
            "image_grid_thw": torch.cat(self._grids),
            "past_key_values": self._cache,
            "mm_encoder_outputs": {"image": features},
        }

    def _generate(self, ids: torch.Tensor, count: int, kwargs: dict[str, Any]) -> torch.Tensor:
        watch = _Watch(self.checked)
        vision_before = self.phases.seconds.get("vision", 0.0)
        began = time.thread_time()
        made = self.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            mm_token_type_ids=(ids == self._image_id).int(),
            max_new_tokens=count,
            do_sample=False,
            eos_token_id=None,
            use_cache=True,
            return_dict_in_generate=True,
            logits_processor=LogitsProcessorList([watch]),
            **kwargs,
        )
        assert watch.first_at is not None
        self.logprobs.append([list(own) for own in zip(*watch.logprobs, strict=True)])
        vision = self.phases.seconds.get("vision", 0.0) - vision_before
        self.phases.add("prefill", watch.first_at - began - vision)
        self.phases.add("decode", time.thread_time() - watch.first_at)
        self.phases.decode_tokens += len(ids) * (count - 1)
        self._cache = made.past_key_values
        sequences: torch.Tensor = made.sequences
        return sequences
