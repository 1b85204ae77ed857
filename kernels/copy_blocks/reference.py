"""copy_blocks in torch: gather, then scatter."""

from __future__ import annotations

from torch import Tensor


def copy_blocks(k_pages: Tensor, v_pages: Tensor, sources_N: Tensor, targets_N: Tensor) -> None:
    keep = ((sources_N >= 0) & (targets_N >= 0)).nonzero(as_tuple=True)[0]
    sources, targets = sources_N[keep], targets_N[keep]
    for pages in (k_pages, v_pages):
        pages[:, targets] = pages[:, sources]
