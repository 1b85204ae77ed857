"""Are a loaded model's weights those of its files? What `vzoom verify` asks before it replays a conversation."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .load import Checkpoint


@dataclass(frozen=True)
class WeightComparison:
    """What `compare_weights` found.

    Attributes:
        num_tensors: how many were compared, tied ones once.
        differing: names of those whose values are not the files', cast to the dtype of the model.
        not_finite: names of those that hold NaN or infinity.
    """

    num_tensors: int
    differing: tuple[str, ...]
    not_finite: tuple[str, ...]


def compare_weights(checkpoint: Checkpoint) -> WeightComparison:
    """Hold every tensor of a checkpoint's model to what its files hold for it.

    Args:
        checkpoint: as it was loaded. What was trained since then differs.

    Returns:
        The names of tensors that differ, bit for bit, and of those that are not finite.
    """
    differing, not_finite = [], []
    named = {id(one): (name, one) for name, one in checkpoint.model.hf.state_dict(keep_vars=True).items()}
    for name, one in named.values():
        loaded = one.detach()
        wanted = torch.empty_like(loaded, memory_format=torch.contiguous_format)
        checkpoint.stored[name].write_to(wanted)
        if not _same_bits(loaded, wanted):
            differing.append(name)
        if not bool(torch.isfinite(loaded).all()):
            not_finite.append(name)
    return WeightComparison(len(named), tuple(differing), tuple(not_finite))


def _same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """NaN equals itself here."""
    integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}[a.element_size()]
    return bool(a.contiguous().view(integers).equal(b.view(integers)))
