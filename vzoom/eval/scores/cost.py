"""What a conversation costs on paper: operations and bytes of keys and values, from the model's shape.

Counted as if it were held alone and nothing were cached between conversations, so that the figures compare policies
and not the order of a batch. A multiplication and an addition are two operations; norms, rotations and softmax, all
below one per cent, are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...types import Trajectory

if TYPE_CHECKING:
    from ...models import VisionLanguageModel


@dataclass(frozen=True)
class ModelShape:
    """The numbers of a model that its cost follows from.

    Args:
        num_layers: of the language model; so are num_heads, num_kv_heads and head_dim.
        layer_weights: of all its layers.
        head_weights: of the map from hidden state to vocabulary.
        vision_weights: of the tower's layers and its patch embedding.
        merger_weights: of what makes one visual token of `merge_patches` patches.
        vision_layers: of the tower.
        vision_whole_layers: those that attend to the whole image; the others attend to a window of it.
        vision_window_patches: patches of a window; 0 without windows.
        vision_hidden: width of the tower.
        value_bytes: of one key or value.
    """

    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    layer_weights: int
    head_weights: int
    vision_weights: int
    merger_weights: int
    merge_patches: int
    vision_layers: int
    vision_whole_layers: int
    vision_window_patches: int
    vision_hidden: int
    value_bytes: int

    @classmethod
    def of(cls, model: VisionLanguageModel) -> ModelShape:
        """The shape of a loaded model."""
        vision = model.hf.config.vision_config
        depth, window = int(vision.depth), model.tower.window
        tower = {name: p.numel() for name, p in model.visual.named_parameters() if not name.startswith("pos_embed")}
        merger = sum(n for name, n in tower.items() if "merger" in name)
        return cls(
            num_layers=model.num_layers,
            num_heads=model.num_heads,
            num_kv_heads=model.num_kv_heads,
            head_dim=model.head_dim,
            layer_weights=sum(p.numel() for p in model.language.layers.parameters()),
            head_weights=model.hf.lm_head.weight.numel(),
            vision_weights=sum(tower.values()) - merger,
            merger_weights=merger,
            merge_patches=model.merge**2,
            vision_layers=depth,
            vision_whole_layers=depth if window is None else len(model.tower.whole_layers),
            vision_window_patches=0 if window is None else (window * model.merge) ** 2,
            # Qwen2-VL calls the width of its tower embed_dim; its hidden_size is the language model's.
            vision_hidden=int(getattr(vision, "embed_dim", None) or vision.hidden_size),
            value_bytes=model.dtype.itemsize,
        )


@dataclass(frozen=True)
class Cost:
    """flops: an estimate. kv_bytes: of the keys and values at the end of the conversation, when there are most."""

    flops: float
    kv_bytes: int


def cost_of(trajectory: Trajectory, shape: ModelShape) -> Cost:
    """What a conversation costs a model of this shape, held alone."""
    fed = max(0, len(trajectory.ids) - 1)  # the last sampled token was never fed: it has neither keys nor values
    sampled = sum(trajectory.sampled)
    attended = fed * (fed + 1) // 2  # pairs of a query and a key that it may see
    language = 2 * shape.layer_weights * fed + 2 * shape.head_weights * sampled
    language += 4 * shape.num_layers * shape.num_heads * shape.head_dim * attended
    vision = 0.0
    for visual in trajectory.visuals:
        together, height, width = visual.grid_thw
        patches = height * width  # each temporal patch is seen by itself
        seen = min(patches, shape.vision_window_patches or patches)
        whole = shape.vision_whole_layers * patches + (shape.vision_layers - shape.vision_whole_layers) * seen
        own = 2 * (shape.vision_weights * patches + shape.merger_weights * patches / shape.merge_patches)
        vision += together * (own + 4 * shape.vision_hidden * whole * patches)
    kv_bytes = 2 * fed * shape.num_layers * shape.num_kv_heads * shape.head_dim * shape.value_bytes
    return Cost(float(language + vision), kv_bytes)
