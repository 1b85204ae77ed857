"""The pages of a batch that transformers drives: B sequences of one length, as `generate()` knows them.

`begin` plans one run of the model, every layer writes and attends by that plan, `finish` makes it count. If a run dies
half-way, the next `begin` forgets it. Positions are absolute and belong to the batch, not to the model: after its first
run a batch knows its next positions itself, so conversations that take turns on one model cannot disturb each other.

B sequences, n new tokens per sequence, T = B n rows, H query heads, G key heads, D head_dim.
"""

from __future__ import annotations

import gc
import weakref
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..engine import BlockTable, OutOfPages, PagePool
from ..kernels.mrope_append import mrope_append
from ..kernels.paged_attention import paged_attention
from ..models import Ragged


@dataclass(frozen=True)
class RunPlan:
    """One run of the model over the batch. Padding has slot -1 and no query.

    Attributes:
        slots_T: int64 [T], where keys and values go.
        rows: int64, the rows that are no padding; None if all are tokens.
    """

    pool: PagePool
    ragged: Ragged
    slots_T: Tensor
    rows: Tensor | None

    def write(self, layer: int, k_BGnD: Tensor, v_BGnD: Tensor) -> None:
        """Write keys, which the model has rotated already, and values to their pages."""
        k, v = (x.transpose(1, 2).flatten(0, 1) for x in (k_BGnD, v_BGnD))
        k_pages, v_pages = self.pool.k_pages[layer], self.pool.v_pages[layer]
        mrope_append(None, k, v, None, None, k_pages, v_pages, self.slots_T)

    def attend(self, layer: int, q_BHnD: Tensor, scale: float) -> Tensor:
        """Causal attention of the new queries over their sequences: [B, n, H, D], 0 for padding."""
        q = q_BHnD.transpose(1, 2).flatten(0, 1)
        at = self.ragged
        out = paged_attention(
            q if self.rows is None else q.index_select(0, self.rows),
            self.pool.k_pages[layer],
            self.pool.v_pages[layer],
            at.block_table_SB,
            at.kv_lens_S,
            at.cu_seqlens_q,
            scale=scale,
        )
        if self.rows is not None:
            out = torch.zeros_like(q, memory_format=torch.contiguous_format).index_copy_(0, self.rows, out)
        return out.unflatten(0, (len(q_BHnD), -1))


class PagedBatch:
    """Block tables of B sequences over one pool, and the next position of each.

    Attributes:
        length: columns that the batch holds, padding on the left included; the same for all, as `generate()` wants it.
        plan: of the run that was begun and not finished.
        given_positions: of the next run, if the batch cannot know them because there are images in it.
    """

    def __init__(self, pool: PagePool) -> None:
        self.pool = pool
        self.length = 0
        self.plan: RunPlan | None = None
        self.given_positions: Tensor | None = None
        self._tables: list[BlockTable] = []
        self._after_BL = torch.empty(0, 0, dtype=torch.int64)  # [b, i]: position of what follows column i
        self._fresh_Bn = self._after_BL  # the same for the columns of `plan`
        weakref.finalize(self, _give_back, self._tables).atexit = False

    def __len__(self) -> int:
        return len(self._tables)

    @property
    def num_blocks(self) -> int:
        """Pages that the batch holds; one that several sequences share counts once."""
        return len({block for table in self._tables for block in table.blocks})

    @property
    def next_positions_B(self) -> Tensor:
        """int64 [B]: the position that the next token gets on all three axes."""
        return self._after_BL[:, self.length - 1]

    # ------------------------------------------------------------ a run

    def begin(self, batch: int, count: int, *, mask_BL: Tensor | None, positions: Tensor | None) -> Tensor:
        """Take pages for `count` more columns of `batch` sequences.

        Args:
            batch: B.
            count: n.
            mask_BL: 0 for padding, of all columns so far or of the new ones.
            positions: what transformers worked out; used for the first run only.

        Returns:
            The positions of the new columns, int64 [3, B, n].

        Raises:
            ValueError: padding is not on the left of the first run, or the batch size is another one.
            OutOfPages: too few pages are free. The batch is then as it was.
        """
        device = self.pool.k_pages.device
        self._forget_unfinished()
        pads = _left_pads(mask_BL, batch, count, first=self.length == 0)
        if self.length == 0:
            self._tables[:] = [BlockTable(self.pool) for _ in range(batch)]
            positions_3Bn = _three_axes(positions, batch, count, device)
        elif batch != len(self):
            raise ValueError(
                f"the cache holds {len(self)} sequences and this run has {batch}: "
                "cache.batch_repeat_interleave(n) makes n copies of each, which share their pages"
            )
        elif self.given_positions is not None:
            positions_3Bn = self.given_positions
        else:
            ahead = torch.arange(count, device=device)
            positions_3Bn = (self.next_positions_B[:, None] + ahead).expand(3, batch, count)
        self._fresh_Bn = positions_3Bn.amax(0) + 1  # the last token of an image also has its largest position
        self.plan = self._make_plan(pads, count)
        return positions_3Bn

    def finish(self) -> None:
        """All layers have written: the run counts."""
        assert self.plan is not None
        end = self.length + self._fresh_Bn.shape[1]
        if self.length == 0 or self._after_BL.shape[1] < end:
            with torch.inference_mode(False):  # a buffer made in inference mode could not be written outside of it
                grown = torch.zeros(len(self), max(2 * end, 256), dtype=torch.int64, device=self._fresh_Bn.device)
            if self.length:
                grown[:, : self.length] = self._after_BL[:, : self.length]
            self._after_BL = grown
        self._after_BL[:, self.length : end] = self._fresh_Bn
        self.length, self.plan = end, None

    def _make_plan(self, pads: list[int], count: int) -> RunPlan:
        pool, device = self.pool, self.pool.k_pages.device
        self._check_room(pads, count)
        slots = [table.extend(count - pad) for table, pad in zip(self._tables, pads, strict=True)]
        # transformers' layers rotate by themselves: nobody reads the positions in the plan.
        unused = [np.zeros((3, len(s)), dtype=np.int64) for s in slots]
        ragged = Ragged.pack(self._tables, slots, unused, device)
        slots_T, rows = ragged.slots_T, None
        if any(pads):
            columns = np.arange(count)
            rows = torch.from_numpy(np.flatnonzero(np.concatenate([columns >= pad for pad in pads]))).to(device)
            slots_T = torch.full((len(pads) * count,), -1, device=device).index_copy_(0, rows, slots_T)
        return RunPlan(pool, ragged, slots_T, rows)

    def _check_room(self, pads: list[int], count: int) -> None:
        def needed() -> int:
            return sum(t.blocks_for(count - pad) for t, pad in zip(self._tables, pads, strict=True))

        if needed() > self.pool.num_free:
            gc.collect()  # caches in a reference cycle still hold their pages
        if needed() > self.pool.num_free:
            size, total = self.pool.block_size, self.pool.num_blocks
            raise OutOfPages(
                f"this run needs {needed()} more pages of {size} tokens and {self.pool.num_free} of {total} are free: "
                "reset() or delete caches that are done, or vzoom.enable(model, pool_tokens=...) with more than "
                f"{total * size}"
            )

    def _forget_unfinished(self) -> None:
        """Give back the pages of a run that an exception ended."""
        if self.plan is not None:
            fresh = self._fresh_Bn.shape[1]
            for table in self._tables:
                table.truncate(max(0, table.length - fresh) if self.length else 0)
            self.plan = None

    # ------------------------------------------------------------ between runs

    def crop(self, count: int) -> None:
        """Forget the last `count` columns.

        Raises:
            ValueError: a sequence holds fewer tokens.
        """
        self._forget_unfinished()
        shortest = min((t.length for t in self._tables), default=0)
        if not 0 <= count <= shortest:
            raise ValueError(f"cannot remove {count} tokens: the shortest sequence of the cache holds {shortest}")
        for table in self._tables:
            table.truncate(table.length - count)
        self.length -= count

    def reset(self) -> None:
        """Forget everything and give back all pages."""
        _give_back(self._tables)
        self.length, self.plan = 0, None

    def select(self, indices: list[int]) -> None:
        """Sequence i becomes what sequence indices[i] was; copies share pages until they differ."""
        self._forget_unfinished()
        old, moved = list(self._tables), set()
        self._tables.clear()
        for index in indices:
            self._tables.append(old[index].fork() if index in moved else old[index])
            moved.add(index)
        _give_back([table for i, table in enumerate(old) if i not in moved])
        self._after_BL = self._after_BL.index_select(0, torch.tensor(indices, device=self._after_BL.device))

    def fork(self) -> PagedBatch:
        """The same batch again, on the same pages."""
        self._forget_unfinished()
        other = PagedBatch(self.pool)
        other._tables += [table.fork() for table in self._tables]
        other.length, other._after_BL = self.length, self._after_BL.clone()
        return other


def _give_back(tables: list[BlockTable]) -> None:
    for table in tables:
        table.truncate(0)
    tables.clear()


def _left_pads(mask_BL: Tensor | None, batch: int, count: int, *, first: bool) -> list[int]:
    """How many of the new columns are padding, by sequence. Only a first run may have some, on its left."""
    if mask_BL is None:
        return [0] * batch
    if not isinstance(mask_BL, Tensor) or mask_BL.ndim != 2:
        raise ValueError(
            f"attention_mask must be [batch, tokens] or None, got {getattr(mask_BL, 'shape', type(mask_BL).__name__)}: "
            "a custom mask between tokens needs stock attention (vzoom.enable(model).disable())"
        )
    mask = mask_BL[:, -count:].bool()
    if bool(mask.all()):
        return [0] * batch
    on_left = bool((mask == mask.cummax(1).values).all()) and bool(mask[:, -1].all())
    if not (first and on_left):
        raise ValueError(
            "attention_mask masks tokens after the first ones of a sequence: pad on the left "
            "(tokenizer.padding_side = 'left'), and only at the start of a conversation"
        )
    return (count - mask.sum(1)).tolist()


def _three_axes(positions: Tensor | None, batch: int, count: int, device: torch.device) -> Tensor:
    """Position ids as transformers gives them, [B, n] or [3 or 4, B, n] or None for text -> int64 [3, B, n]."""
    if positions is None:
        return torch.arange(count, device=device).expand(3, batch, count)
    axes = positions[None] if positions.ndim == 2 else positions[-3:]  # a fourth row, in front, counts text tokens
    return axes.expand(3, batch, count)
