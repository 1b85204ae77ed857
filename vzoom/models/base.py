"""What vzoom runs of a Qwen-VL model: transformers' modules for weights and layers, our own loop over the layers.

The loop exists because transformers' forward wants padded batches and one cache length; ours is ragged and paged.
What differs between the families is in `qwen2_vl.py`, `qwen2_5_vl.py` and `qwen3_vl.py`.

T tokens, H query heads, G key heads, D head_dim, R = D / 2, C hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ..attention import Ragged, append_and_attend
from ..cache import PagePool


@dataclass(frozen=True)
class Features:
    """Visual tokens of some images. `deepstack[i]` is added behind decoder layer i (Qwen3-VL). Each [N, C]."""

    embeds: torch.Tensor
    deepstack: tuple[torch.Tensor, ...] = field(default=())

    def split(self, counts: Sequence[int]) -> list[Features]:
        """One Features an image, image i with counts[i] tokens."""
        levels = zip(*(level.split(list(counts)) for level in (self.embeds, *self.deepstack)), strict=True)
        return [Features(first, tuple(rest)) for first, *rest in levels]

    @property
    def num_bytes(self) -> int:
        return sum(level.nbytes for level in (self.embeds, *self.deepstack))

    def clone(self) -> Features:
        """A copy in memory of its own."""
        return Features(self.embeds.clone(), tuple(level.clone() for level in self.deepstack))

    @staticmethod
    def cat(features: Sequence[Features]) -> Features:
        deepstack = zip(*(f.deepstack for f in features), strict=True)
        return Features(torch.cat([f.embeds for f in features]), tuple(torch.cat(level) for level in deepstack))


class VisionLanguageModel:
    """The part of a checkpoint that all families share. `hf` is transformers' own model object, unmodified."""

    model_types: tuple[str, ...] = ()

    def __init__(self, hf: Any) -> None:
        self.hf = hf.eval()
        self.visual: nn.Module = hf.model.visual
        self.language: Any = hf.model.language_model
        self.text_config = text = self.language.config
        self.num_layers: int = text.num_hidden_layers
        self.num_heads: int = text.num_attention_heads
        self.num_kv_heads: int = text.num_key_value_heads
        self.head_dim: int = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        self.merge: int = hf.config.vision_config.spatial_merge_size
        self.image_token_id: int = hf.config.image_token_id
        self.device: torch.device = self.language.embed_tokens.weight.device
        self.dtype: torch.dtype = self.language.embed_tokens.weight.dtype
        windows = {text.sliding_window for kind in getattr(text, "layer_types", None) or () if kind != "full_attention"}
        if windows:
            raise ValueError(
                f"this checkpoint uses sliding-window attention ({windows}), which vzoom does not run: "
                "set use_sliding_window to false in its config.json if it was trained with full attention"
            )
        sections = (getattr(text, "rope_parameters", None) or text.rope_scaling)["mrope_section"]
        axes = self.rope_axes(list(sections))
        if len(axes) != self.head_dim // 2:
            raise ValueError(
                f"mrope_section {sections} gives {len(axes)} frequencies, head_dim {self.head_dim} needs half"
            )
        self._axes_R = torch.tensor(axes, device=self.device)

    # ------------------------------------------------------------ what a family decides

    def rope_axes(self, sections: list[int]) -> list[int]:
        """For each of the R frequencies the position axis that it reads: 0 time, 1 row, 2 column."""
        raise NotImplementedError

    def project(self, attention: Any, hidden_TC: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """q [T, H, D], k [T, G, D], v [T, G, D] before rotation."""
        heads = (hidden_TC.shape[0], -1, self.head_dim)
        return (
            attention.q_proj(hidden_TC).view(heads),
            attention.k_proj(hidden_TC).view(heads),
            attention.v_proj(hidden_TC).view(heads),
        )

    def features(self, output: Any) -> Features:
        """What the vision tower returned -> Features."""
        return Features(output.pooler_output)

    # ------------------------------------------------------------ what the engine calls

    @torch.inference_mode()
    def encode_images(self, patches: torch.Tensor, grid_hw: Sequence[tuple[int, int]]) -> Features:
        """Patches of images in order, [sum(h * w), patch values], and their grids -> visual tokens."""
        grid_thw = torch.tensor([(1, h, w) for h, w in grid_hw], device=self.device)
        output = self.visual(patches.to(self.device, self.dtype), grid_thw=grid_thw, return_dict=True)
        return self.features(output)

    @torch.inference_mode()
    def forward(
        self,
        ids_T: torch.Tensor,
        batch: Ragged,
        pool: PagePool,
        image_rows: torch.Tensor | None = None,
        images: Features | None = None,
    ) -> torch.Tensor:
        """Feed T packed tokens, append them to their sequences' pages, and return logits [S, V] of the last rows.

        image_rows: int64 rows of the packed batch that hold image tokens, in the order of images.embeds.
        """
        hidden = self.language.embed_tokens(ids_T)
        if images is not None:
            assert image_rows is not None
            hidden = hidden.index_copy(0, image_rows, images.embeds.to(hidden.dtype))
        cos, sin = self.rotary(batch.positions_3T, hidden.dtype)
        for index, layer in enumerate(self.language.layers):
            attention = layer.self_attn
            q, k, v = self.project(attention, layer.input_layernorm(hidden))
            attended = append_and_attend(
                q, k, v, cos, sin, pool=pool, layer=index, batch=batch, scale=self.head_dim**-0.5
            )
            hidden = hidden + attention.o_proj(attended.flatten(1))
            hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
            if images is not None and index < len(images.deepstack):
                assert image_rows is not None
                hidden = hidden.index_add(0, image_rows, images.deepstack[index].to(hidden.dtype))
        last = self.language.norm(hidden.index_select(0, batch.last_rows_S))
        logits: torch.Tensor = self.hf.lm_head(last)
        return logits

    def rotary(self, positions_3T: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """cos and sin [T, R] of each token, angles in float32, cast to `dtype` as transformers does."""
        rope = self.language.rotary_emb
        angles = positions_3T.float().T.contiguous()[:, self._axes_R] * rope.inv_freq.float()
        return (angles.cos() * rope.attention_scaling).to(dtype), (angles.sin() * rope.attention_scaling).to(dtype)
