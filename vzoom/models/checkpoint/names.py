"""Which stored tensor belongs to which tensor of the model, and the one error about those that do not fit.

Checkpoints of these families are published under two layouts of names: `model.layers.…` and `visual.…` (Qwen2-VL and
Qwen2.5-VL on the hub, "flat"), and `model.language_model.layers.…` and `model.visual.…` (Qwen3-VL, later fine-tunes,
"nested"). transformers' modules have the nested names; its conversion mapping renames in the same way.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from .stored import StoredTensor, listed

_FLAT_VISION = re.compile(r"visual\.")
_FLAT_TEXT = re.compile(r"model\.(?!language_model\.|visual\.)")


def model_name(key: str) -> str:
    """The name that a module of transformers' model has for a key of either layout."""
    if _FLAT_VISION.match(key):
        return f"model.{key}"
    return _FLAT_TEXT.sub("model.language_model.", key, count=1) if _FLAT_TEXT.match(key) else key


def flat_name(own: str) -> str:
    """The key of the flat layout for a name that a module of transformers' model has."""
    if own.startswith("model.visual."):
        return own.removeprefix("model.")
    return own.replace("model.language_model.", "model.", 1)


def match(stored: Mapping[str, StoredTensor], hf: Any, name: str) -> dict[str, StoredTensor]:
    """Find the stored tensor of every tensor of the model.

    Args:
        stored: by key, in either layout.
        hf: transformers' model, on any device, the meta device among them.
        name: the checkpoint's, for errors.

    Returns:
        A stored tensor for each name of hf.state_dict(). Tied names have the same.

    Raises:
        ValueError: tensors are missing, left over, of another shape, or not floating point. The message names them.
    """
    wanted: dict[str, Tensor] = hf.state_dict(keep_vars=True)
    computed = {key for key, _ in hf.named_buffers()} - wanted.keys()  # old checkpoints hold those, too
    found: dict[str, StoredTensor] = {}
    keys: dict[str, str] = {}
    unexpected, twice = [], []
    for key, tensor in stored.items():
        own = model_name(key)
        if own in keys:
            twice.append(key)
        elif own in wanted:
            found[own], keys[own] = tensor, key
        elif own not in computed:
            unexpected.append(key)

    ties: dict[int, list[str]] = {}
    for own, one in wanted.items():
        ties.setdefault(id(one), []).append(own)
    missing = [names[0] for names in ties.values() if not found.keys() & names]
    odd = [
        f"{keys[own]} is {list(tensor.shape)} in the files, {list(wanted[own].shape)} by config.json"
        for own, tensor in found.items()
        if tuple(tensor.shape) != tuple(wanted[own].shape)
    ]
    whole = [f"{keys[own]} is {tensor.dtype}" for own, tensor in found.items() if not tensor.dtype.is_floating_point]
    _refuse(
        name,
        {
            "missing": _as_in_files(missing, stored),
            "not the model's": unexpected,
            "stored under two names": twice,
            "of another shape": odd,
            "not floating point": whole,
        },
        num_wanted=len(wanted),
    )
    for names in ties.values():
        held = [own for own in names if own in found]
        for other in held[1:]:
            _check_tied(name, keys[held[0]], found[held[0]], keys[other], found[other])
        found |= dict.fromkeys(names, found[held[0]])
    return found


def _refuse(name: str, faults: Mapping[str, list[str]], *, num_wanted: int) -> None:
    """One ValueError about all faults, if there are any."""
    said = [
        f"{listed(names, 'tensor')} {'is' if len(names) == 1 else 'are'} {what}"
        for what, names in faults.items()
        if names
    ]
    if said:
        raise ValueError(
            f"the weight files of {name} are not those of its config.json, which describes {num_wanted} tensors: "
            f"{'; '.join(said)}. Download the files again, or take the config.json that belongs to them"
        )


def _as_in_files(missing: list[str], stored: Iterable[str]) -> list[str]:
    """The model's names as the files would spell them: a user looks for them there."""
    is_flat = any(key != model_name(key) for key in stored)
    return [flat_name(own) for own in missing] if is_flat else missing


def _check_tied(name: str, key: str, one: StoredTensor, other_key: str, other: StoredTensor) -> None:
    if not one.read().equal(other.read()):
        raise ValueError(
            f"{name}: by its config.json {key} and {other_key} are one tensor, and its files hold two that differ: "
            f"set tie_word_embeddings to false if both are meant, or remove {other_key}"
        )
