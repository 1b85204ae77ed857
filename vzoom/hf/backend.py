"""Drop-in for transformers: `vzoom.enable(model)` gives an unmodified `generate()` our pages and our attention.

It uses transformers' extension points: a registered attention and mask function, forward hooks, and a `Cache` (see
`zoom_cache.py`). No modelling file is changed. Before the language model runs, a hook plans the run on the pages of its
cache; the layers then write and attend by that plan.

Without a cache (training, `use_cache=False`) attention is transformers' SDPA, with its masks and gradients.

B sequences, n new tokens, H query heads, G key heads, D head_dim.
"""

from __future__ import annotations

import inspect
import weakref
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ..config import ZoomConfig
from ..engine import PagePool
from ..models import FAMILIES, check_no_adapters
from ..protocol import RopeRule, VideoTokens
from .paged_batch import PagedBatch
from .zoom_cache import PAGED_MODELS, PagedModel, ZoomCache, plan_of

NAME = "vzoom"

_ENABLED: weakref.WeakKeyDictionary[Any, Enabled] = weakref.WeakKeyDictionary()


class Enabled:
    """What `vzoom.enable` switched on. `disable()`, or the end of a `with`, switches it off again.

    Attributes:
        pool_tokens: what all caches of the model together may hold.
        pool: the pages of those caches.
    """

    def __init__(self, model: Any, pool_tokens: int) -> None:
        self.pool_tokens = pool_tokens
        self.pool = _pool(model, pool_tokens)
        self._model = weakref.ref(model)
        self._previous: str = model.config.text_config._attn_implementation
        config = model.config
        paged_model = PagedModel(
            self._model,
            self.pool,
            config.text_config.num_hidden_layers,
            config.image_token_id,
            config.vision_config.spatial_merge_size,
            _video_tokens(config),
            _rope_rule(model),
        )
        model.set_attn_implementation({"text_config": NAME})
        PAGED_MODELS[model] = paged_model
        hooks = _Hooks(paged_model)
        self._handles = [
            model.model.register_forward_pre_hook(hooks.before_model, with_kwargs=True),
            model.model.register_forward_hook(hooks.after_model, with_kwargs=True),
            model.model.language_model.register_forward_pre_hook(hooks.before_text, with_kwargs=True),
        ]

    def disable(self) -> None:
        """Give the model back the attention that it had. Caches made in between raise when they are used again."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        model = self._model()
        if model is not None and _ENABLED.pop(model, None) is not None:
            del PAGED_MODELS[model]
            model.set_attn_implementation({"text_config": self._previous})

    def __enter__(self) -> Enabled:
        return self

    def __exit__(self, *error: object) -> None:
        self.disable()


def enable(model: Any, *, pool_tokens: int | None = None) -> Enabled:
    """Give a transformers Qwen2-VL, Qwen2.5-VL or Qwen3-VL model vzoom's paged cache and attention in `generate()`.

    Args:
        model: as `AutoModelForImageTextToText` loads it.
        pool_tokens: what all its caches together may hold; ZoomConfig's max_total_tokens if not given. CUDA memory for
            them is taken at once.

    Returns:
        A handle that switches it off again. A second call returns the same handle.

    Raises:
        ValueError: the model is of another family, uses sliding windows, is spread over devices, or is enabled with
            another pool_tokens; or it has adapters of PEFT that are not merged.
    """
    known = _ENABLED.get(model)
    if known is not None:
        if pool_tokens not in (None, known.pool_tokens):
            raise ValueError(f"this model is enabled with pool_tokens={known.pool_tokens}: disable() it first")
        return known
    _check(model)
    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, _mask)
    _ENABLED[model] = Enabled(model, ZoomConfig.max_total_tokens if pool_tokens is None else pool_tokens)
    return _ENABLED[model]


def _check(model: Any) -> None:
    if isinstance(model, nn.Module):
        check_no_adapters(model)
    config = getattr(model, "config", None)
    known = [t for family in FAMILIES for t in family.model_types]
    if getattr(config, "model_type", None) not in known or not hasattr(model, "lm_head"):
        raise ValueError(
            f"vzoom.enable takes a {', '.join(known)} model of AutoModelForImageTextToText, got {type(model).__name__}"
        )
    text = model.config.text_config
    windows = {text.sliding_window for kind in getattr(text, "layer_types", None) or () if kind != "full_attention"}
    if windows:
        raise ValueError(f"this model uses sliding-window attention ({windows}), which vzoom does not run")
    devices = {str(weight.device) for weight in model.model.language_model.parameters()}
    if len(devices) != 1:
        raise ValueError(f"the language model is on {', '.join(sorted(devices))}: vzoom.enable needs one device")


def _video_tokens(config: Any) -> VideoTokens:
    family = next(family for family in FAMILIES if config.model_type in family.model_types)
    per_second = family.positions_per_second
    return VideoTokens(
        config.video_token_id,
        config.vision_config.temporal_patch_size,
        family.times_videos,
        None if per_second is None else float(config.vision_config.tokens_per_second),
    )


def _rope_rule(model: Any) -> RopeRule:
    """Where this transformers places text after a video: asked of a video that is longer than it is wide and high."""
    config, merge = model.config, model.config.vision_config.spatial_merge_size
    ids = torch.tensor([[config.vision_start_token_id, *[config.video_token_id] * 3, config.vision_end_token_id]])
    inputs: dict[str, Any] = {"video_grid_thw": torch.tensor([[3, merge, merge]])}
    if "mm_token_type_ids" in inspect.signature(model.model.get_rope_index).parameters:
        inputs["mm_token_type_ids"] = 2 * (ids == config.video_token_id).int()
    if _video_tokens(config).timed:
        return "max"  # each temporal patch is a block of its own, after which both rules agree
    if _video_tokens(config).positions_per_second is not None:
        inputs["second_per_grid_ts"] = torch.tensor([1.0])
    positions, _ = model.model.get_rope_index(ids, **inputs)
    return "max" if int(positions[0, 0, -1]) > int(positions[0, 0, -2]) else "hf523"


def _pool(model: Any, pool_tokens: int) -> PagePool:
    if pool_tokens < 1:
        raise ValueError(f"pool_tokens must be 1 or more, got {pool_tokens}")
    text, weight = model.config.text_config, model.get_input_embeddings().weight
    block_size = 32 if weight.device.type == "cpu" else 256
    return PagePool(
        num_layers=text.num_hidden_layers,
        num_kv_heads=text.num_key_value_heads,
        head_dim=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
        num_blocks=-(-pool_tokens // block_size),
        block_size=block_size,
        dtype=weight.dtype,
        device=weight.device,
    )


# ---------------------------------------------------------------- what transformers calls


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, Tensor | None]:
    """query [B, H, n, D], key and value of the new tokens [B, G, n, D] -> [B, n, H, D]."""
    planned = plan_of(key)
    if planned is None:
        return ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, attention_mask, **kwargs)
    plan, layer = planned
    return plan.attend(layer, query, kwargs["scaling"]), None


def _mask(*args: Any, kv_length: int, **kwargs: Any) -> Any:
    """None if the keys are in pages (a ZoomLayer says that there are 0 others); else what SDPA needs."""
    return None if kv_length == 0 else ALL_MASK_ATTENTION_FUNCTIONS["sdpa"](*args, kv_length=kv_length, **kwargs)


class _Hooks:
    """What happens around a run of an enabled model. It holds no reference to the model, whose hooks hold it."""

    def __init__(self, paged_model: PagedModel) -> None:
        self.paged_model = paged_model

    def before_model(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Refuse frames for a filled cache that do not come from `append`: their positions would be silently wrong."""
        cache = kwargs.get("past_key_values")
        if not isinstance(cache, ZoomCache) or cache.pages.length == 0 or cache.pages.given_positions is not None:
            return
        media = [kwargs.get("pixel_values"), kwargs.get("pixel_values_videos")]
        media += (kwargs.get("mm_encoder_outputs") or {}).values()
        ids = kwargs.get("input_ids", args[0] if args else None)
        known = self.paged_model
        visual = torch.tensor([known.image_token_id, known.video.token_id], device=known.pool.k_pages.device)
        # One token is a decode step: generate() samples it, and looking at it would wait for the device.
        placed = ids is not None and ids.shape[1] > 1 and bool(torch.isin(ids, visual).any())
        if placed or any(item is not None for item in media):
            raise ValueError(
                "images and videos cannot be passed to a model whose cache already holds a conversation: splice them "
                "with ids = cache.append(ids, turn) and call generate(ids, past_key_values=cache)"
            )

    def before_text(
        self, text: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Plan the run on the pages of its cache. The plan replaces the mask; the cache gives the positions."""
        cache = kwargs.get("past_key_values")
        if cache is None and kwargs.get("use_cache") and not torch.is_grad_enabled():
            cache = ZoomCache.__new__(ZoomCache).set_up(self.paged_model, PagedBatch(self.paged_model.pool))
        if cache is None:
            return None
        pages = self._pages(cache)
        if kwargs.get("output_attentions") or text.config.output_attentions:  # type: ignore[union-attr]
            raise ValueError("paged attention has no weights to return: drop output_attentions, or disable() vzoom")
        embeds = kwargs.get("inputs_embeds")
        tokens: Any = embeds if embeds is not None else kwargs.get("input_ids", args[0] if args else None)
        batch, count = tokens.shape[:2]
        positions = pages.begin(
            batch, count, mask_BL=kwargs.get("attention_mask"), positions=kwargs.get("position_ids")
        )
        return args, kwargs | {"past_key_values": cache, "position_ids": positions, "attention_mask": None}

    def after_model(self, model: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """Leave no conversation's offset on the model: the next may have another batch size, which transformers up
        to 5.0 refuses."""
        held = output if isinstance(output, tuple) else output.values()
        if any(isinstance(item, ZoomCache) for item in held):
            model.rope_deltas = torch.zeros(1, 1, dtype=torch.int64, device=self.paged_model.pool.k_pages.device)

    def _pages(self, cache: Any) -> PagedBatch:
        """The cache's pages. An empty DynamicCache that generate() or a user made becomes a ZoomCache itself, so that
        whoever holds it can continue with it."""
        if not isinstance(cache, ZoomCache):
            if type(cache) is not DynamicCache or cache.offloading or cache.get_seq_length():
                raise ValueError(
                    f"this model is enabled for vzoom, and a {type(cache).__name__} of {cache.get_seq_length()} tokens "
                    "was given: pass vzoom.ZoomCache(model) or no cache, and no cache_implementation"
                )
            cache.__class__ = ZoomCache
            cache.set_up(self.paged_model, PagedBatch(self.paged_model.pool))
        if cache.pages.pool is not self.paged_model.pool:
            raise ValueError("this ZoomCache was made for another model: make one with vzoom.ZoomCache(model)")
        return cache.pages
