"""What vzoom runs of a Qwen-VL model: transformers' modules for weights, our own loop over the layers.

The loop exists because transformers' forward wants padded batches and one cache length; ours is ragged and paged.
What differs between the families is in `qwen2_vl.py`, `qwen2_5_vl.py` and `qwen3_vl.py`; vision is in `tower.py`.

T tokens, S sequences, H query heads, G key heads, D head_dim, R = D / 2, C hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ..kernels.linear import linear
from ..kernels.rms_norm import rms_norm
from .attention import Pages, Ragged, append_and_attend
from .features import Features
from .layers import Layer
from .plain_modules import check_modules
from .tower import VisionTower


class VisionLanguageModel:
    """The part of a checkpoint that all families share. `hf` is transformers' own model object, which still works.

    Weights may change in place while nothing runs; they may not be replaced or moved to another device.
    """

    model_types: tuple[str, ...] = ()
    config_class = ""  # transformers'
    tower_class: type[VisionTower] = VisionTower
    # How its processor writes videos, see `protocol.VideoTokens`.
    times_videos = False
    positions_per_second: float | None = None  # if config.json says nothing

    def __init__(self, hf: Any) -> None:
        check_modules(hf)
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
        self.visual_token_ids = frozenset({self.image_token_id, int(hf.config.video_token_id)})
        self.device: torch.device = self.language.embed_tokens.weight.device
        self.dtype: torch.dtype = self.language.embed_tokens.weight.dtype
        # An image's patches hold one copy of it: both that a video would need are folded into the patch embedding.
        self.temporal_copies = 1
        self._check_text()
        sections = self._rope_settings["mrope_section"]
        axes = self.rope_axes(list(sections))
        if len(axes) != self.head_dim // 2:
            raise ValueError(
                f"mrope_section {sections} gives {len(axes)} frequencies, head_dim {self.head_dim} needs half"
            )
        self._axes_R = torch.tensor(axes, device=self.device)
        self.layers = Layer.all_of(self.language.layers)
        self.epsilon: float = text.rms_norm_eps
        self.max_positions: int = text.max_position_embeddings
        self.tower = self.tower_class(self.visual, device=self.device, dtype=self.dtype)

    def _check_text(self) -> None:
        text = self.text_config
        windows = {text.sliding_window for kind in getattr(text, "layer_types", None) or () if kind != "full_attention"}
        if windows:
            raise ValueError(
                f"this checkpoint uses sliding-window attention ({windows}), which vzoom does not run: "
                "set use_sliding_window to false in its config.json if it was trained with full attention"
            )
        if text.hidden_act != "silu":
            raise ValueError(f"this checkpoint's hidden_act is {text.hidden_act!r}; vzoom runs silu")
        rope = self._rope_settings
        kind = str(rope.get("rope_type", rope.get("type")))
        if kind in ("dynamic", "longrope"):
            raise ValueError(
                f"this checkpoint's rope_type is {kind!r}: its frequencies change with the conversation's length, so "
                "cached keys would go stale. Use the checkpoint's variant with yarn, or the plain one"
            )

    @property
    def _rope_settings(self) -> dict[str, Any]:
        text = self.text_config
        settings: dict[str, Any] = getattr(text, "rope_parameters", None) or text.rope_scaling
        return settings

    # ------------------------------------------------------------ what a family decides

    def rope_axes(self, sections: list[int]) -> list[int]:
        """For each of the R frequencies the position axis that it reads: 0 time, 1 row, 2 column."""
        raise NotImplementedError

    # ------------------------------------------------------------ what the engine calls

    @torch.inference_mode()
    def encode_images(self, patches: torch.Tensor, grid_hw: Sequence[tuple[int, int]]) -> Features:
        """Run the vision tower.

        Args:
            patches: of images or of temporal patches of videos, in order, [sum(h * w), values]. Those of an image hold
                `temporal_copies` copies of its pixels, those of a video two frames.
            grid_hw: (rows, columns) of patches of each image or temporal patch.

        Returns:
            The visual tokens of all of them, in order.
        """
        return self.tower.encode(patches.to(self.device, self.dtype), tuple(grid_hw))

    @torch.inference_mode()
    def forward(
        self,
        ids_T: torch.Tensor,
        batch: Ragged,
        pages: Pages,
        image_rows: torch.Tensor | None = None,
        images: Features | None = None,
    ) -> torch.Tensor:
        """Feed T packed tokens and append them to the pages of their sequences.

        No value is read on the host, so a decode step on CUDA can be captured as a graph.

        Args:
            ids_T: int64 token ids.
            batch: where the rows belong.
            pages: keys and values of all layers.
            image_rows: int64 rows of the packed batch that hold visual tokens, in the order of images.embeds.
            images: the visual tokens of these rows.

        Returns:
            Logits [S, V] after the last row of each sequence.
        """
        hidden = self.language.embed_tokens.weight.index_select(0, ids_T)
        if images is not None:
            assert image_rows is not None
            hidden.index_copy_(0, image_rows, images.embeds.to(hidden.dtype))
        cos, sin = self.rotary(batch.positions_3T, hidden.dtype)
        deepstack = images.deepstack if images is not None else ()
        for index, layer in enumerate(self.layers):
            # After the last layer's keys and values only the rows are needed from which a token is sampled.
            is_last = index == self.num_layers - 1 and index >= len(deepstack)
            q, k, v = self._project(layer, hidden)
            attended = append_and_attend(
                q, k, v, cos, sin, pages=pages, layer=index, batch=batch, scale=self.head_dim**-0.5, only_last=is_last
            )
            if len(attended) < len(hidden):
                hidden = hidden.index_select(0, batch.last_rows_S)
            hidden = linear(attended.flatten(1), layer.out_CC, layer.out_bias_C, add_TO=hidden)
            hidden = layer.mlp(hidden, self.epsilon)
            if index < len(deepstack):
                assert image_rows is not None
                hidden.index_add_(0, image_rows, deepstack[index].to(hidden.dtype))
        if len(hidden) > len(batch.last_rows_S):
            hidden = hidden.index_select(0, batch.last_rows_S)
        last = rms_norm(hidden, self.language.norm.weight.detach(), self.epsilon)
        return linear(last, self.hf.lm_head.weight.detach())

    def _project(self, layer: Layer, hidden_TC: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """q [T, H, D], k [T, G, D], v [T, G, D] before rotation."""
        normed = rms_norm(hidden_TC, layer.input_norm_C, self.epsilon)
        qkv = linear(normed, layer.qkv_QC, layer.qkv_bias_Q).view(len(hidden_TC), -1, self.head_dim)
        q, k, v = qkv.split([self.num_heads, self.num_kv_heads, self.num_kv_heads], dim=1)
        if layer.q_norm_D is not None and layer.k_norm_D is not None:
            q, k = rms_norm(q, layer.q_norm_D, self.epsilon), rms_norm(k, layer.k_norm_D, self.epsilon)
        return q, k, v

    def rotation(self, delta: int) -> tuple[torch.Tensor, torch.Tensor]:
        """cos and sin [R] in float32 that turn a key by `delta` positions on all axes; angles in float64."""
        angles = delta * self.language.rotary_emb.inv_freq.double()
        return angles.cos().float(), angles.sin().float()

    def rotary(self, positions_3T: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """cos and sin [T, R] of each token, angles in float32, cast to `dtype` as transformers does."""
        rope = self.language.rotary_emb
        angles = positions_3T.float().T.contiguous()[:, self._axes_R] * rope.inv_freq.float()
        return (angles.cos() * rope.attention_scaling).to(dtype), (angles.sin() * rope.attention_scaling).to(dtype)
