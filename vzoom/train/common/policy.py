"""The model in training: a stock transformers model, what is frozen in it, its adapters, and its log-probabilities."""

from __future__ import annotations

import functools
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from packaging.version import Version
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ...config import missing_extra
from ...models import FeatureCache, load_patch_spec, load_vocabulary, never_sampled
from ...protocol import Vocabulary
from ...video import ClipCache, PatchSpec
from ..recipes.recipe import GRPORecipe, Lora, SFTRecipe
from .collate import IGNORED, CollatedBatch, Targets, collate
from .features import FrozenFeatures, Pixels, Tower, Visuals, version_of
from .samples import Sample

# Logits of so many numbers at a time; more are computed part by part, and again in the backward pass.
_LOGITS_TOGETHER = 1 << 26
LORA_MODULES = r".*language_model\..*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"

# Known to be right from this version of transformers on, and wrong in 5.0 (features of several levels, DeepStack).
DEEPSTACK_SINCE = Version("5.23")


class CachedTower(nn.Module):
    """Takes the place of the vision tower and passes on what is given as pixel_values: features, made before.

    So the tower is out of the reach of optimizers, wrappers and state dicts; `FrozenFeatures` encodes with it.
    """

    def __init__(self, tower: Any) -> None:
        super().__init__()
        self.spatial_merge_size: int = tower.spatial_merge_size
        self.dtype: torch.dtype = next(tower.parameters()).dtype

    def forward(self, features: Tensor, grid_thw: Tensor | None = None, **kwargs: Any) -> Any:
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        return BaseModelOutputWithPooling(last_hidden_state=features, pooler_output=features)


@dataclass(frozen=True)
class PolicyModel:
    """The model in training: transformers' own, or a PeftModel around it. `collate` makes its batches."""

    base: str
    model: Any
    tokenizer: Any
    vocabulary: Vocabulary
    patch_spec: PatchSpec
    visuals: Visuals
    pad_id: int

    def collate(self, samples: Sequence[Sample], *, targets: Targets = "learned") -> CollatedBatch:
        """A batch for `model`. See `collate.collate`."""
        return collate(
            samples,
            self.visuals,
            pad_id=self.pad_id,
            vocabulary=self.vocabulary,
            targets=targets,
        )


def load_policy(
    base: str,
    part: SFTRecipe | GRPORecipe,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    clip_cache: ClipCache | None = None,
    feature_cache: FeatureCache | None = None,
    feature_file: Path | None = None,
) -> PolicyModel:
    """Load a checkpoint as a part of a recipe trains it.

    Args:
        base: a folder or hub id.
        part: says what is frozen, cached and adapted.
        device: of the weights.
        dtype: of the weights; accelerate sees to mixed precision.
        seed: of the adapters' initial values.
        clip_cache, feature_cache, feature_file: see `FrozenFeatures`.

    Raises:
        ImportError: LoRA is asked for and peft is not installed.
        ValueError: features of this family cannot be cached, or this transformers trains it wrongly.
    """
    import transformers
    from transformers import AutoModelForImageTextToText, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base, trust_remote_code=False)
    vocabulary = load_vocabulary(base, tokenizer=tokenizer)
    patch_spec = load_patch_spec(base)
    model = AutoModelForImageTextToText.from_pretrained(base, dtype=dtype).to(device)
    model.config.use_cache = model.config.text_config.use_cache = False
    visual = model.model.visual
    if getattr(visual, "deepstack_visual_indexes", None) and Version(transformers.__version__) < DEEPSTACK_SINCE:
        raise ValueError(
            f"{base} is trained with transformers {DEEPSTACK_SINCE} or newer: under {transformers.__version__} its own "
            "forward gives other log-probabilities than the engine"
        )
    visuals: Visuals
    if part.freeze_vision:
        visual.requires_grad_(False)
    if part.cache_features:
        if getattr(visual, "deepstack_visual_indexes", None):
            raise ValueError(
                f"{base} hands features of several levels to its language model (DeepStack), which cannot be cached "
                "yet: set cache_features=False in the recipe"
            )
        visuals = FrozenFeatures(
            Tower(model),
            patch_spec,
            clip_cache=clip_cache,
            feature_cache=feature_cache,
            file=feature_file,
            version="" if feature_file is None else version_of(visual),
        )
        model.model.visual = CachedTower(visual)
    else:
        visuals = Pixels(patch_spec, clip_cache=clip_cache)
    _add_scores(model, never_sampled(tokenizer, model.lm_head.out_features, base))
    if part.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    # A trainer's checkpoint must have this model's own names: under the hub's names its load finds nothing, silently.
    model.save_pretrained = functools.partial(model.save_pretrained, save_original_format=False)
    if part.lora is not None:
        model = _with_lora(model, part.lora, seed)
    pad_id = vocabulary.codec.encode("<|endoftext|>")[0]
    return PolicyModel(base, model, tokenizer, vocabulary, patch_spec, visuals, pad_id)


def _with_lora(model: Any, lora: Lora, seed: int) -> Any:
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise missing_extra("peft", "train") from error
    config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=LORA_MODULES)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return get_peft_model(model, config)


# ---------------------------------------------------------------- log-probabilities


def token_logprobs(
    model: Any, batch: Mapping[str, Tensor], *, temperature: float = 1.0, num_together: int | None = None
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the batch's labels, as the engine reports them, and entropies.

    They are of softmax(logits / temperature) without the ids that no model may write.

    Args:
        model: a policy's, wrapped by accelerate or not.
        batch: what `CollatedBatch.to` gives.
        temperature: that of sampling, above 0.
        num_together: logits are made for this many labelled positions at a time.

    Returns:
        Log-probabilities and entropies in nats, both float32 [B, T], 0 at positions without a label.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}: a greedy token has no probability to train")
    made: tuple[Tensor, Tensor] = model(**batch, score_temperature=temperature, score_together=num_together)
    return made


def _add_scores(model: Any, banned_ids: Sequence[int]) -> None:
    """Let `model(..., labels=…, score_temperature=…)` return what `token_logprobs` does.

    It is part of forward so that DDP, FSDP and DeepSpeed, which prepare weights there, work as for any forward.
    """
    original = model.forward
    banned = torch.tensor(banned_ids, dtype=torch.int64)

    @functools.wraps(type(model).forward)
    def forward(
        self: Any,
        *args: Any,
        score_temperature: float | None = None,
        score_together: int | None = None,
        **kwargs: Any,
    ) -> Any:
        if score_temperature is None:
            return original(*args, **kwargs)
        labels_BT = kwargs.pop("labels")
        hidden_BTC = self.model(*args, use_cache=False, **kwargs).last_hidden_state
        is_target_BT = labels_BT[:, 1:] != IGNORED
        hidden_NC, targets_N = hidden_BTC[:, :-1][is_target_BT], labels_BT[:, 1:][is_target_BT]
        out = banned.to(hidden_NC.device)
        together = score_together or max(1, _LOGITS_TOGETHER // self.lm_head.out_features)

        def part(hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
            return _scores(self.lm_head(hidden), targets, out, score_temperature)

        if len(targets_N) <= together:
            pieces = [part(hidden_NC, targets_N)]
        else:
            pieces = [
                checkpoint(part, h, t, use_reentrant=False)
                for h, t in zip(hidden_NC.split(together), targets_N.split(together), strict=True)
            ]
        zeros_BT = hidden_NC.new_zeros(labels_BT.shape, dtype=torch.float32)
        at_BT = nn.functional.pad(is_target_BT, (1, 0))
        logp_N, entropy_N = (torch.cat(same) for same in zip(*pieces, strict=True))
        return zeros_BT.masked_scatter(at_BT, logp_N), zeros_BT.masked_scatter(at_BT, entropy_N)

    model.forward = types.MethodType(forward, model)


def _scores(logits_NV: Tensor, targets_N: Tensor, banned: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the targets and entropies, float32 [N]."""
    # Not −inf: a probability of 0 times it must be 0 in the entropy. A target that is banned is then impossible, too.
    scaled_NV = (logits_NV.float() / temperature).index_fill(1, banned, -1e30)
    logp_NV = scaled_NV.log_softmax(1)
    return logp_NV.gather(1, targets_N[:, None])[:, 0], -(logp_NV.exp() * logp_NV).sum(1)
