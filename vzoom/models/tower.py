"""The vision tower: transformers' weights, our own loop over its blocks.

transformers attends image by image, window by window, in a Python loop. Here images of all sizes are one ragged batch
over the two ops that the language model uses: keys and values go to pages, and every patch attends to its span. What
differs between the families (norms, MLP, merger, windows, learned positions) is in their files.
T patches, U visual tokens, H heads, D head_dim, C hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..kernels.layout import page_shape
from ..kernels.linear import linear
from ..kernels.mrope_append import mrope_append
from ..kernels.paged_attention import paged_attention
from .features import Features
from .tower_plan import Grids, Spans, TowerPlan, make_tower_plan

_MAX_PLANS = 32  # a video has one grid, a batch of videos a few; each holds 2 R floats per patch


# On the CPU the tower takes about so many patches at a time: this bounds the memory of what layers hand each other.
_PATCHES_TOGETHER = 4096


def _groups(grids: Grids) -> Iterator[Grids]:
    """Images in order, in groups of at least _PATCHES_TOGETHER patches, the last one apart."""
    start = patches = 0
    for i, (height, width) in enumerate(grids):
        patches += height * width
        if patches >= _PATCHES_TOGETHER or i + 1 == len(grids):
            yield grids[start : i + 1]
            start, patches = i + 1, 0


def weights(module: nn.Linear) -> tuple[Tensor, Tensor | None]:
    """Its weight and bias as the ops take them: they have no gradient."""
    return module.weight.detach(), None if module.bias is None else module.bias.detach()


def project(module: nn.Linear, x_TK: Tensor, *, add: Tensor | None = None) -> Tensor:
    """module(x) + add."""
    return linear(x_TK, *weights(module), add_TO=add)


class VisionTower:
    """Runs `visual`, a transformers vision model, on packed patches."""

    window: int | None = None  # merged patches per side of an attention window
    whole_layers: frozenset[int] = frozenset()  # of a tower with windows: those that attend to the whole image
    positions_side: int | None = None  # entries per side of the square of learned positions

    def __init__(self, visual: Any, *, device: torch.device, dtype: torch.dtype) -> None:
        self.visual = visual
        self.device = device
        self.dtype = dtype
        self.num_heads: int = visual.config.num_heads
        self.merge_size: int = visual.config.spatial_merge_size
        self._block_size = 32 if device.type == "cpu" else 64  # pages of a batch that is gone after its run
        self._plans: dict[Grids, TowerPlan] = {}

    # ------------------------------------------------------------ what a family decides

    def normed(self, norm: Any, x: Tensor) -> Tensor:
        raise NotImplementedError

    def mlp(self, block: Any, x: Tensor) -> Tensor:
        """x + MLP(norm2(x))."""
        raise NotImplementedError

    def merge(self, x: Tensor) -> Tensor:
        """[T, C] of the last block -> visual tokens [U, language C]."""
        raise NotImplementedError

    def level(self, index: int, x: Tensor) -> Tensor | None:
        """Visual tokens that the language model wants of this block; None if it wants none."""
        return None

    def features(self, x: Tensor, levels: list[Tensor], plan: TowerPlan) -> Features:
        merged = self.merge(x)
        return Features(merged if plan.back_U is None else merged.index_select(0, plan.back_U))

    # ------------------------------------------------------------ the loop

    def encode(self, patches: Tensor, grids: Grids) -> Features:
        """Run the tower.

        Args:
            patches: of images in order, [T, values].
            grids: (rows, columns) of patches of each image.

        Returns:
            The visual tokens of all images, in order.

        Raises:
            ValueError: the patches do not belong to the grids, or hold another number of copies of their pixels than
                one or the checkpoint's temporal patch.
        """
        expected = sum(h * w for h, w in grids)
        if len(patches) != expected:
            raise ValueError(f"{len(patches)} patches, but the grids {grids} have {expected}")
        if self.device.type != "cpu":
            return self._run(patches, grids)
        groups = list(_groups(grids))
        rows = patches.split([sum(h * w for h, w in group) for group in groups])
        return Features.cat([self._run(part, group) for part, group in zip(rows, groups, strict=True)])

    def _run(self, patches: Tensor, grids: Grids) -> Features:
        plan = self._plan(grids)
        x = self.embed(patches, plan)
        if plan.order_U is not None:
            x = x.view(-1, self.merge_size**2 * x.shape[1]).index_select(0, plan.order_U).view(x.shape)
        head_dim = x.shape[1] // self.num_heads
        blocks = max(spans.num_blocks for spans in (plan.images, plan.windows) if spans is not None)
        shape = page_shape(blocks, self.num_heads, self._block_size, head_dim, device=self.device)
        pages = x.new_empty(shape), x.new_empty(shape)
        levels = []
        for index, block in enumerate(self.visual.blocks):
            in_windows = plan.windows is not None and index not in self.whole_layers
            x = self._attend(block, x, plan, plan.windows if in_windows and plan.windows else plan.images, pages)
            x = self.mlp(block, x)
            level = self.level(index, x)
            if level is not None:
                levels.append(level)
        return self.features(x, levels, plan)

    def embed(self, patches: Tensor, plan: TowerPlan) -> Tensor:
        """[T, C]. A patch with one copy of its pixels meets the sum of the weights that all copies would meet."""
        embedding = self.visual.patch_embed.proj
        weight = embedding.weight.detach()  # [C, colours, temporal, rows, columns]
        if patches.shape[1] * weight.shape[2] == weight[0].numel():
            weight = weight.sum(2)
        elif patches.shape[1] != weight[0].numel():
            raise ValueError(
                f"patches hold {patches.shape[1]} values; this tower takes {weight[0].numel()}, or "
                f"{weight[0].numel() // weight.shape[2]} of an image that is given once"
            )
        return linear(patches, weight.flatten(1), None if embedding.bias is None else embedding.bias.detach())

    def _attend(self, block: Any, x: Tensor, plan: TowerPlan, spans: Spans, pages: tuple[Tensor, Tensor]) -> Tensor:
        """x + attention(norm1(x)), within the spans."""
        qkv = project(block.attn.qkv, self.normed(block.norm1, x)).view(len(x), 3, self.num_heads, -1)
        q, k, v = qkv.unbind(1)
        mrope_append(q, k, v, plan.cos_TR, plan.sin_TR, *pages, spans.slots_T)
        attended = paged_attention(
            q, *pages, spans.block_table_SB, spans.lengths_S, spans.cu_seqlens, scale=q.shape[2] ** -0.5, causal=False
        )
        return project(block.attn.proj, attended.flatten(1), add=x)

    def _plan(self, grids: Grids) -> TowerPlan:
        plan = self._plans.get(grids)
        if plan is None:
            plan = make_tower_plan(
                grids,
                merge=self.merge_size,
                inv_freq=self.visual.rotary_pos_emb.inv_freq.float(),
                window=self.window,
                positions_side=self.positions_side,
                block_size=self._block_size,
                device=self.device,
            )
            if len(self._plans) >= _MAX_PLANS:
                self._plans.pop(next(iter(self._plans)))
            self._plans[grids] = plan
        return plan
