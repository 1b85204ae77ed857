"""The weights in training -> the model that the engine samples with, in place.

The engine has a model of its own (`models.load_checkpoint` of the folder that training began from), so that rollouts
run on our kernels in their own dtype while the trainer's model may be sharded, wrapped or adapted. What may be in
training: a plain transformers model, one under peft (W + B·A·scale is formed on the way, the policy stays as it is),
and either of them under DDP, FSDP2 (DTensor) or DeepSpeed ZeRO-3.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ...models import Checkpoint, FeatureCache

# What wrappers put into a parameter's name, checkpointing and compilation among them.
_WRAPPERS = ("_orig_mod.", "_checkpoint_wrapped_module.", "_fsdp_wrapped_module.", "base_layer.")
_PEFT_PREFIX = "base_model.model."


@torch.no_grad()
def sync_weights(
    policy: nn.Module,
    checkpoint: Checkpoint,
    *,
    feature_cache: FeatureCache | None = None,
    only_trained: bool = False,
) -> int:
    """Copy the policy's weights into the checkpoint's model. All processes must call it: sharded weights are gathered.

    Args:
        policy: the model in training. One without a tower (features in place of pixels) leaves the engine's alone.
        checkpoint: the engine's.
        feature_cache: the engine's; cleared if the vision tower is in training.
        only_trained: leave out what is frozen and not adapted, which the engine has already.

    Returns:
        The number of tensors that were written.

    Raises:
        ValueError: the two are not the same model.
    """
    sources = _sources(unwrapped(policy))
    targets = dict(checkpoint.model.hf.named_parameters(remove_duplicate=False))
    has_tower = any(map(_is_vision, sources))
    wanted = {name for name in targets if has_tower or not _is_vision(name)}
    if odd := sorted(wanted ^ sources.keys()):
        raise ValueError(
            f"the policy and {checkpoint.name} are not the same model: {len(odd)} weights are in one of them only, "
            f"the first is {odd[0]}"
        )
    chosen = [name for name in targets if name in wanted and (not only_trained or sources[name].is_trained)]
    for name in chosen:
        source, target = sources[name], targets[name]
        with _gathered(source.parameters):
            value = source.value()
            if value.shape != target.shape:
                raise ValueError(
                    f"the policy and {checkpoint.name} are not the same model: {name} is {list(value.shape)} in one, "
                    f"{list(target.shape)} in the other"
                )
            target.copy_(value)
    if feature_cache is not None and any(_is_vision(name) and s.is_trained for name, s in sources.items()):
        feature_cache.clear()
    return len(chosen)


def unwrapped(policy: nn.Module) -> nn.Module:
    """The model inside DDP, DeepSpeed's engine or a compiled module."""
    while True:
        inner = getattr(policy, "_orig_mod", None) or getattr(policy, "module", None)
        if not isinstance(inner, nn.Module):
            return policy
        policy = inner


@dataclass
class _Source:
    """What one weight of the engine's model is made of: a parameter, and low-rank terms (A, B, scale, transposed)."""

    base: nn.Parameter
    terms: list[tuple[nn.Parameter, nn.Parameter, float, bool]] = field(default_factory=list)

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [self.base, *(p for a, b, _, _ in self.terms for p in (a, b))]

    @property
    def is_trained(self) -> bool:
        return any(p.requires_grad for p in self.parameters)

    def value(self) -> Tensor:
        value = _full(self.base)
        for a, b, scale, is_transposed in self.terms:
            delta = _full(b).float() @ _full(a).float() * scale
            value = value.float() + (delta.T if is_transposed else delta)
        return value


def _sources(model: nn.Module) -> dict[str, _Source]:
    """By the names that a plain transformers model gives its parameters."""
    sources: dict[str, _Source] = {}
    adapted: list[tuple[str, Any]] = []
    for name, module in model.named_modules(remove_duplicate=False):
        if hasattr(module, "lora_A") and hasattr(module, "base_layer"):
            adapted.append((name, module))
        for own, parameter in module.named_parameters(recurse=False):
            plain = _plain(f"{name}.{own}" if name else own)
            if plain is not None:
                sources[plain] = _Source(parameter)
    for name, module in adapted:
        if getattr(module, "use_dora", None) and any(module.use_dora.values()):
            raise ValueError(f"{name} uses DoRA, which vzoom cannot merge on the way to the engine: set use_dora=False")
        weight = _plain(f"{name}.weight")
        if weight not in sources or not len(module.lora_A) == len(module.lora_B) > 0:
            raise ValueError(f"{name} has an adapter on something that is no matrix: only linear layers can be adapted")
        for adapter in module.active_adapters:
            if adapter in module.lora_A and adapter not in module.merged_adapters:
                a, b = module.lora_A[adapter].weight, module.lora_B[adapter].weight
                sources[weight].terms.append((a, b, module.scaling[adapter], bool(module.fan_in_fan_out)))
    return sources


def _plain(name: str) -> str | None:
    """A parameter's name in a plain model; None for one that has none there, as an adapter's own."""
    parts = name.split(".")
    if any(part.startswith("lora_") or part == "original_module" for part in parts):
        return None
    if "modules_to_save" in parts:  # peft's trained copy of a whole module: "x.modules_to_save.default.weight"
        at = parts.index("modules_to_save")
        name = ".".join(parts[:at] + parts[at + 2 :])
    name = name.removeprefix(_PEFT_PREFIX)
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def _is_vision(name: str) -> bool:
    return ".visual." in name or name.startswith("visual.")


def _gathered(parameters: Sequence[nn.Parameter]) -> AbstractContextManager[Any]:
    """ZeRO-3 keeps a part of each parameter in each process; inside, they are whole."""
    if not any(hasattr(p, "ds_id") for p in parameters):
        return nullcontext()
    import deepspeed  # type: ignore[import-not-found, unused-ignore]

    gathered: AbstractContextManager[Any] = deepspeed.zero.GatheredParameters(list(parameters))
    return gathered


def _full(parameter: Tensor) -> Tensor:
    """The whole tensor; FSDP2's parameters are DTensors, of which every process holds a part."""
    full = getattr(parameter, "full_tensor", None)
    return parameter.detach() if full is None else full().detach()
