"""One signature for what every layer does with the cache: rotate, append to the pages, attend.

T tokens of S sequences are packed without padding; sequence s owns rows cu_seqlens_q[s] to cu_seqlens_q[s + 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from ..kernels.mrope_append import mrope_append
from ..kernels.paged_attention import paged_attention


class Pages(Protocol):
    """The pages of all layers: [L, *pages] each. `engine.kv_cache.PagePool` is one."""

    k_pages: torch.Tensor
    v_pages: torch.Tensor


class BlockTableLike(Protocol):
    """The blocks that hold a sequence, and how many tokens are in them. `engine.kv_cache.BlockTable` is one."""

    blocks: list[int]
    length: int


@dataclass(frozen=True)
class Ragged:
    """Where the rows of a packed batch belong. Everything is on the model's device."""

    positions_3T: torch.Tensor  # int64 [3, T]
    slots_T: torch.Tensor  # int64 [T]
    block_table_SB: torch.Tensor  # int32 [S, B], rows padded with 0
    kv_lens_S: torch.Tensor  # int32 [S], appended tokens included
    cu_seqlens_q: torch.Tensor  # int32 [S + 1]
    last_rows_S: torch.Tensor  # int64 [S], the row after which each sequence samples

    @classmethod
    def pack(
        cls,
        tables: Sequence[BlockTableLike],
        slots: Sequence[np.ndarray],
        positions: Sequence[np.ndarray],
        device: torch.device,
    ) -> Ragged:
        """tables[s] already holds the tokens whose `slots[s]` and int64 [3, n] `positions[s]` are given."""
        counts = [len(s) for s in slots]
        ends = np.cumsum([0, *counts])
        width = max(len(t.blocks) for t in tables)
        block_table = np.zeros((len(tables), width), dtype=np.int32)
        for row, table in zip(block_table, tables, strict=True):
            row[: len(table.blocks)] = table.blocks

        def tensor(array: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(device=device, dtype=dtype, non_blocking=True)

        return cls(
            positions_3T=tensor(np.concatenate(positions, axis=1), torch.int64),
            slots_T=tensor(np.concatenate(slots), torch.int64),
            block_table_SB=tensor(block_table, torch.int32),
            kv_lens_S=tensor(np.array([t.length for t in tables]), torch.int32),
            cu_seqlens_q=tensor(ends, torch.int32),
            last_rows_S=tensor(ends[1:] - 1, torch.int64),
        )


def append_and_attend(
    q_THD: torch.Tensor,
    k_TGD: torch.Tensor,
    v_TGD: torch.Tensor,
    cos_TR: torch.Tensor,
    sin_TR: torch.Tensor,
    *,
    pages: Pages,
    layer: int,
    batch: Ragged,
    scale: float,
    only_last: bool = False,
) -> torch.Tensor:
    """Write the rotated k and v of one layer to their slots, and attend to everything up to each row.

    H query heads, G key heads, D head_dim, R = D / 2.

    Args:
        q_THD: queries before rotation. Rotated in place.
        k_TGD: keys before rotation.
        v_TGD: values.
        cos_TR: of each token's angles.
        sin_TR: of each token's angles.
        pages: where keys and values are kept.
        layer: which of the pages' layers.
        batch: where the rows belong.
        scale: what the scores are multiplied by.
        only_last: attend from the last row of each sequence alone.

    Returns:
        [T, H, D], or [S, H, D] with only_last.
    """
    k_pages, v_pages = pages.k_pages[layer], pages.v_pages[layer]
    mrope_append(q_THD, k_TGD, v_TGD, cos_TR, sin_TR, k_pages, v_pages, batch.slots_T)
    cu_seqlens_q, num_sequences = batch.cu_seqlens_q, len(batch.last_rows_S)
    if only_last and len(q_THD) > num_sequences:
        q_THD = q_THD.index_select(0, batch.last_rows_S)
        cu_seqlens_q = torch.arange(num_sequences + 1, dtype=torch.int32, device=q_THD.device)
    return paged_attention(q_THD, k_pages, v_pages, batch.block_table_SB, batch.kv_lens_S, cu_seqlens_q, scale=scale)
