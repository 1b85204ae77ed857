"""The tiny model's shape: the real Qwen2.5-VL classes, some 1.3 million parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast, Qwen2_5_VLForConditionalGeneration

_OFFSETS = (1, 2, 3, 6)  # per head: the word before, …, a frame's time before its pixels, the frame before
_FAST = 4  # the time axis' share of the frequencies, and the fastest
_STRENGTH = 6.0


@dataclass(frozen=True)
class BaseShape:
    """Widths and layers of the small model.

    Args:
        width: of the language model. It has four heads, and half a head must hold the three axes of M-RoPE: a multiple
            of 32, or 96.
        layers: of the language model.
        vision_width: of the vision tower.
        vision_layers: of the vision tower.
    """

    width: int = 128
    layers: int = 4
    vision_width: int = 96
    vision_layers: int = 2


def build_model(
    tokenizer: PreTrainedTokenizerFast, shape: BaseShape | None = None, *, seed: int = 0
) -> Qwen2_5_VLForConditionalGeneration:
    """A new model for a tokenizer.

    Args:
        tokenizer: of `build_tokenizer`.
        shape: widths and layers.
        seed: of the weights.

    Returns:
        The model in float32, on the CPU.
    """
    import torch
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    number = tokenizer.convert_tokens_to_ids
    shape = shape or BaseShape()
    half_head = shape.width // 8
    space = (half_head - _FAST) // 2
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": shape.width,
            "intermediate_size": 3 * shape.width,
            "num_hidden_layers": shape.layers,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 4096,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [half_head - 2 * space, space, space],
            },
            "rms_norm_eps": 1e-6,
            "bos_token_id": number("<|endoftext|>"),
            "eos_token_id": number("<|im_end|>"),
            "pad_token_id": number("<|endoftext|>"),
            "tie_word_embeddings": False,
        },
        vision_config={
            "depth": shape.vision_layers,
            "hidden_size": shape.vision_width,
            "intermediate_size": 2 * shape.vision_width,
            "num_heads": 3,
            "out_hidden_size": shape.width,
            "fullatt_block_indexes": [shape.vision_layers - 1],
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 112,
            "tokens_per_second": 2,
        },
        image_token_id=number("<|image_pad|>"),
        video_token_id=number("<|video_pad|>"),
        vision_start_token_id=number("<|vision_start|>"),
        vision_end_token_id=number("<|vision_end|>"),
        tie_word_embeddings=False,
    )
    torch.manual_seed(seed)
    model = Qwen2_5_VLForConditionalGeneration(config).float()
    with torch.no_grad():
        # Words must differ from the first step on; otherwise nothing learns to look the same word up again.
        model.model.language_model.embed_tokens.weight.normal_()
        _look_back(model.model.language_model)
    return model


def _look_back(language: Any) -> None:
    """Let each head of the first layer begin by attending a fixed number of positions back.

    A look-up needs a layer that brings to each word what is just before it. Training alone needs most of the run to
    find that. The score of a query bias q and a key bias k at distance d is a sum of cos(w (d - offset)) over
    the fastest frequencies w, largest at d = offset. All of it is trained further.
    """
    import torch

    attention, dim = language.layers[0].self_attn, language.layers[0].self_attn.head_dim
    speed_w = language.rotary_emb.inv_freq[:_FAST]
    key = torch.zeros(dim)
    key[:_FAST] = _STRENGTH
    attention.k_proj.bias.copy_(key.repeat(attention.k_proj.out_features // dim))
    queries = []
    for offset in _OFFSETS:
        query = torch.zeros(dim)
        query[:_FAST] = _STRENGTH * torch.cos(speed_w * offset)
        query[dim // 2 : dim // 2 + _FAST] = -_STRENGTH * torch.sin(speed_w * offset)
        queries.append(query)
    attention.q_proj.bias.copy_(torch.cat(queries))
