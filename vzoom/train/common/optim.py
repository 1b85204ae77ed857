"""Muon for the matrices, AdamW for embeddings, the head, norms, biases and the patch kernel.

And `check_finite`: no optimizer may go on from a number that is none."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..recipes.recipe import Optimisation

_BETAS = (0.9, 0.98)  # of AdamW beside Muon; alone it has torch's own


def is_matrix(name: str, parameter: Tensor) -> bool:
    """Whether Muon takes it: a product's matrix, not a table of rows and not the head."""
    return parameter.ndim == 2 and "embed_tokens" not in name and "lm_head" not in name


class MuonWithAdamW(torch.optim.Optimizer):
    """Muon for some groups of parameters, AdamW for the others: one optimizer for schedulers, trainers and checkpoints.

    Not for sharded matrices: Muon orthogonalises whole ones.

    Args:
        groups: torch's, each with its "kind", "muon" or "adamw", its "lr" and "weight_decay"; some of both kinds.
    """

    def __init__(self, groups: Sequence[dict[str, Any]]) -> None:
        self._muon = torch.optim.Muon([group for group in groups if group["kind"] == "muon"])
        self._adamw = torch.optim.AdamW([group for group in groups if group["kind"] == "adamw"], betas=_BETAS)
        super().__init__(groups, {})  # the halves have put their defaults into them
        self._join()

    def _join(self) -> None:
        """Both halves work on the groups and the state of this optimizer."""
        for half, kind in ((self._muon, "muon"), (self._adamw, "adamw")):
            half.param_groups = [group for group in self.param_groups if group["kind"] == kind]
            half.state = self.state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._join()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._muon.step()
        self._adamw.step()
        return loss


def make_optimizer(model: nn.Module, settings: Optimisation) -> torch.optim.Optimizer:
    """An optimizer of the parameters in training: AdamW, or Muon for the matrices among them and AdamW for the rest.

    Args:
        model: has the parameters.
        settings: Muon is used if they have a muon_learning_rate. Rates are peaks: a scheduler moves them.

    Raises:
        ValueError: with Muon, if there are only matrices or only others.
    """
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    decay = settings.weight_decay
    if settings.muon_learning_rate is None:
        return torch.optim.AdamW([p for _, p in named], lr=settings.learning_rate, weight_decay=decay)
    matrices = [p for n, p in named if is_matrix(n, p)]
    others = [p for n, p in named if not is_matrix(n, p)]
    if not matrices or not others:
        raise ValueError(
            f"{len(matrices)} matrices for Muon and {len(others)} other tensors for AdamW are in training: with "
            "only one kind set muon_learning_rate=None"
        )
    return MuonWithAdamW(
        [
            {"params": matrices, "kind": "muon", "lr": settings.muon_learning_rate, "weight_decay": decay},
            {"params": others, "kind": "adamw", "lr": settings.learning_rate, "weight_decay": decay},
        ]
    )


class NotFinite(ValueError):
    """A loss, a gradient or a weight is NaN or infinite: the training cannot go on from here."""


def check_finite(tensors: Iterable[tuple[str, Tensor]], *, where: str, mend: str) -> None:
    """Check that tensors hold numbers, with one transfer for all of them.

    Args:
        tensors: by name. Of sharded ones (DTensor) this process checks its part.
        where: begins the message, as "update 12: the gradient of".
        mend: what the user can do.

    Raises:
        NotFinite: one holds NaN or infinity. The message names it.
    """
    named = [(name, _local(tensor)) for name, tensor in tensors]
    named = [(name, tensor) for name, tensor in named if tensor.is_floating_point() and tensor.numel()]
    if not named:
        return
    # The largest magnitude: NaN passes through it, and it takes no memory.
    largest = [torch.linalg.vector_norm(tensor.detach(), ord=math.inf).float() for _, tensor in named]
    is_number = torch.stack(largest).isfinite().tolist()
    if bad := [name for (name, _), fine in zip(named, is_number, strict=True) if not fine]:
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        raise NotFinite(f"{where} {', '.join(bad[:3])}{more} is NaN or infinite, of {len(named)} tensors: {mend}")


def named_state(optimizer: torch.optim.Optimizer, names: Mapping[Tensor, str]) -> Iterable[tuple[str, Tensor]]:
    """The tensors that an optimizer keeps for each parameter.

    Args:
        optimizer: has parameters that `names` knows.
        names: of parameters.
    """
    for parameter, held in optimizer.state.items():
        for what, value in held.items():
            if isinstance(value, Tensor):
                yield f"{what} of {names.get(parameter, 'a parameter')}", value


def _local(tensor: Tensor) -> Tensor:
    to_local = getattr(tensor, "to_local", None)
    return tensor if to_local is None else to_local()
