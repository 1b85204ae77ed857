"""copy_blocks in torch: gather, then scatter."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Arguments(NamedTuple):
    """What every implementation takes, in this order. `op.copy_blocks` says what they are."""

    k_pages: Tensor
    v_pages: Tensor
    sources_C: Tensor
    targets_C: Tensor


def copy_blocks(a: Arguments) -> None:
    """Copy by index."""
    keep = ((a.sources_C >= 0) & (a.targets_C >= 0)).nonzero(as_tuple=True)[0]
    sources, targets = a.sources_C[keep], a.targets_C[keep]
    for pages in (a.k_pages, a.v_pages):
        pages[:, targets] = pages[:, sources]
