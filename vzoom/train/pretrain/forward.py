"""One training forward: unique frames through the vision tower once, packed rows through the language model.

A test holds it equal to the model's own forward. It is faster: all frames have one size, so that their vision attention
is one batched call instead of a Python loop over frames.
Legend: F unique frames, P patches per frame, K values per patch, B rows, T tokens, D width, V vocabulary, S learned
tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ...protocol import span_positions
from ...video import PatchSpec
from .example import MERGE, Example
from .frame_store import FrameStore

SPEC = PatchSpec()  # of Qwen2VLImageProcessor
PATCH = SPEC.patch_size


@dataclass(frozen=True)
class Batch:
    """Rows padded on the right. The logits at flat positions at_S of [B, T] predict the learned tokens targets_S."""

    ids_BT: torch.Tensor
    positions_3BT: torch.Tensor
    frames_F: np.ndarray
    visual_at: torch.Tensor  # flat positions of visual tokens
    visual_from: torch.Tensor  # which row of the [F * tokens] features goes there
    at_S: torch.Tensor
    targets_S: torch.Tensor
    turn_S: torch.Tensor  # number of the turn that each learned token belongs to


def collate(examples: Sequence[Example], store: FrameStore, *, pad_token: int) -> Batch:
    """Examples as one batch; each distinct frame comes once."""
    width = max(len(e.span.ids) for e in examples)
    ids = torch.full((len(examples), width), pad_token)
    positions = torch.zeros((3, len(examples), width), dtype=torch.long)
    unique = {ref: i for i, ref in enumerate(dict.fromkeys(ref for e in examples for ref in e.frames))}
    visual_at: list[int] = []
    visual_from: list[int] = []
    at: list[int] = []
    targets: list[int] = []
    turns: list[int] = []
    num_turns = 0
    for row, example in enumerate(examples):
        span, base = example.span, row * width
        ids[row, : len(span.ids)] = torch.tensor(span.ids)
        positions[:, row, : len(span.ids)] = torch.from_numpy(span_positions(0, span, MERGE)[0].copy())
        for block in span.blocks:
            tokens = block.num_tokens(MERGE)
            visual_at += range(base + block.offset, base + block.offset + tokens)
            first = unique[example.frames[block.first_frame]] * tokens
            visual_from += range(first, first + tokens)
        ends = iter(example.turn_ends)
        end = next(ends, None)
        for i, (token, learned) in enumerate(zip(span.ids, example.learned, strict=True)):
            if end is not None and i >= end:
                num_turns, end = num_turns + 1, next(ends, None)
            if learned:
                at.append(base + i - 1)  # the position before predicts it
                targets.append(token)
                turns.append(num_turns)
        num_turns += 1
    return Batch(
        ids,
        positions,
        store.gather(list(unique)),
        *(torch.tensor(x, dtype=torch.long) for x in (visual_at, visual_from, at, targets, turns)),
    )


def augment(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What encoding and shrinking do to colours: a shift per frame and a little noise. uint8 in, uint8 out."""
    shift = rng.normal(0, 2.5, size=(len(frames), 1, 1, 3))
    noise = rng.normal(0, 2.0, size=frames.shape).astype(np.float32)
    return np.clip(np.rint(frames + shift + noise), 0, 255).astype(np.uint8)


def frames_to_pixels(frames: np.ndarray) -> torch.Tensor:
    """uint8 [F, side, side, 3] of the processor's final size -> normalised patches [F, P, 3 * 14 * 14], merge order."""
    x = (torch.from_numpy(frames).float() / 255 - torch.tensor(SPEC.mean)) / torch.tensor(SPEC.std)
    n, height, width, _ = x.shape
    gh, gw = height // PATCH // MERGE, width // PATCH // MERGE
    x = x.view(n, gh, MERGE, PATCH, gw, MERGE, PATCH, 3).permute(0, 1, 4, 2, 5, 7, 3, 6)
    return x.reshape(n, gh * gw * MERGE * MERGE, 3 * PATCH * PATCH)


def encode_frames(vision: Any, pixels_FPK: torch.Tensor, grid_hw: tuple[int, int]) -> torch.Tensor:
    """Visual tokens of frames of one size.

    Args:
        vision: the tower.
        pixels_FPK: of `frames_to_pixels`.
        grid_hw: rows and columns of patches in a frame.

    Returns:
        [F * P / 4, D].

    Raises:
        ValueError: a frame is larger than an attention window of the tower.
    """
    num_frames, num_patches, _ = pixels_FPK.shape
    if max(grid_hw) * PATCH > vision.window_size:
        raise ValueError(f"a frame of {grid_hw} patches does not fit in one window of {vision.window_size} pixels")
    # An image is repeated along the temporal patch, so the two halves of the kernel add up.
    weight = vision.patch_embed.proj.weight.sum(2).flatten(1)
    x = pixels_FPK @ weight.T
    cos, sin = _rotation(vision, grid_hw)
    for block in vision.blocks:
        attention = block.attn
        qkv = attention.qkv(block.norm1(x)).view(num_frames, num_patches, 3, attention.num_heads, -1)
        q, k, v = qkv.unbind(2)
        q, k = _rotated(q, cos, sin), _rotated(k, cos, sin)
        mixed = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        x = x + attention.proj(mixed.transpose(1, 2).reshape(num_frames, num_patches, -1))
        x = x + block.mlp(block.norm2(x))
    return vision.merger(x)


def _rotated(x_FPHd: torch.Tensor, cos_Pd: torch.Tensor, sin_Pd: torch.Tensor) -> torch.Tensor:
    """Queries or keys turned by the rotary embedding, all heads alike."""
    first, second = x_FPHd.chunk(2, dim=-1)
    turned = torch.cat([-second, first], dim=-1)
    return x_FPHd * cos_Pd[:, None] + turned * sin_Pd[:, None]


def _rotation(vision: Any, grid_hw: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin [P, head_dim] of the tower's rotary embedding: rows, then columns, then both again."""
    angles = (_patch_coordinates(grid_hw)[..., None] * vision.rotary_pos_emb.inv_freq).flatten(1)
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def _patch_coordinates(grid_hw: tuple[int, int]) -> torch.Tensor:
    """Row and column of each patch in merge order, [P, 2]."""
    h, w = grid_hw
    rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    both = torch.stack([rows, columns], -1).view(h // MERGE, MERGE, w // MERGE, MERGE, 2)
    return both.transpose(1, 2).reshape(-1, 2)


def learned_logits(model: Any, batch: Batch, frames: np.ndarray) -> torch.Tensor:
    """Logits [S, V] of the learned tokens."""
    language = model.model.language_model
    embeddings = language.embed_tokens(batch.ids_BT)
    width = embeddings.shape[-1]
    flat = embeddings.reshape(-1, width)
    if len(frames):
        grid = (frames.shape[1] // PATCH, frames.shape[2] // PATCH)
        features = encode_frames(model.model.visual, frames_to_pixels(frames), grid)
        flat = flat.index_copy(0, batch.visual_at, features[batch.visual_from])
    hidden = language(
        inputs_embeds=flat.view_as(embeddings), position_ids=batch.positions_3BT, attention_mask=None, use_cache=False
    ).last_hidden_state
    return model.lm_head(hidden.reshape(-1, width)[batch.at_S])
