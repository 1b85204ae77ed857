"""What is fed in one run of the model: the runs of several sessions, packed without padding."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from .active import Active
from .attention import Ragged
from .cache import BlockTable, PagePool
from .kernels.splice_move import splice_move
from .models.base import Features, VisionLanguageModel
from .reuse import Move
from .session import Feed

_CPU_COLUMN_BYTES = 2048  # so many tokens at a time that a column of them takes this much: 1024 in bf16


@dataclass(frozen=True)
class Fed:
    """One session's run: its slots, how long the table was before, and the part that is not fed but moved there."""

    active: Active
    feed: Feed
    ids: list[int]
    positions: np.ndarray  # int64 [3, len(ids)]
    slots: np.ndarray  # int64 [len(ids)]
    length: int
    move: Move | None

    def pieces(self) -> list[slice]:
        """What is fed of the run. Behind a clip that was moved it goes on as a sequence of its own."""
        if self.move is None:
            return [slice(0, len(self.ids))]
        return [slice(0, self.move.first), slice(self.move.end, len(self.ids))]

    def let_go(self) -> None:
        """The pages that the clip was moved from."""
        if self.move is not None:
            self.active.table.pool.release(self.move.blocks)

    def undo(self) -> None:
        """As if it had never been fed."""
        self.active.table.truncate(self.length)


@dataclass(frozen=True)
class _Part:
    """Consecutive tokens of one sequence in one run of the layers. `table` ends with them."""

    ids: list[int]
    slots: np.ndarray
    positions: np.ndarray
    table: BlockTable
    features: Features | None


def run_model(model: VisionLanguageModel, pool: PagePool, batch: Sequence[Fed]) -> torch.Tensor:
    """Logits [S, V] behind each run. Keys and values of all runs are in their slots then.

    On the CPU long runs go through the layers in parts: what a layer hands to the next takes that much less memory.
    """
    limit = _CPU_COLUMN_BYTES // model.dtype.itemsize if model.device.type == "cpu" else sys.maxsize
    groups: list[list[_Part]] = [[]]
    last: list[tuple[int, int]] = []  # the group and the part in it behind which a token is sampled
    room = limit
    for fed in batch:
        visual = Features.cat(fed.active.encoding.features()) if fed.active.encoding else None
        seen = 0
        for piece in fed.pieces():
            at = piece.start
            while at < piece.stop:
                if room == 0:
                    groups.append([])
                    room = limit
                end = min(piece.stop, at + room)
                ids = fed.ids[at:end]
                num_visual = ids.count(model.image_token_id)
                features = visual.part(seen, seen + num_visual) if visual is not None and num_visual else None
                table = fed.active.table.upto(fed.length + end)
                groups[-1].append(_Part(ids, fed.slots[at:end], fed.positions[:, at:end], table, features))
                seen += num_visual
                room -= end - at
                at = end
        last.append((len(groups) - 1, len(groups[-1]) - 1))
        if fed.move is not None:
            _splice(model, pool, fed.move, fed.slots)
        elif visual is not None and seen != len(visual.embeds):
            raise AssertionError(f"{seen} image tokens, {len(visual.embeds)} visual features")
    logits = [_forward(model, pool, group) for group in groups]
    if len(groups) == 1 and len(last) == len(groups[0]):
        return logits[0]
    return torch.stack([logits[group][part] for group, part in last])


def _forward(model: VisionLanguageModel, pool: PagePool, group: Sequence[_Part]) -> torch.Tensor:
    ids = [i for part in group for i in part.ids]
    features = [part.features for part in group if part.features is not None]
    rows = [i for i, token in enumerate(ids) if token == model.image_token_id] if features else []
    return model.forward(
        torch.tensor(ids, device=model.device),
        Ragged.pack(
            [part.table for part in group],
            [part.slots for part in group],
            [part.positions for part in group],
            model.device,
        ),
        pool,
        torch.tensor(rows, device=model.device) if features else None,
        Features.cat(features) if features else None,
    )


def _splice(model: VisionLanguageModel, pool: PagePool, move: Move, slots: np.ndarray) -> None:
    cos, sin = model.rotation(move.delta)
    targets = slots[move.first : move.end]
    sources, moved = (torch.from_numpy(a).to(model.device) for a in (move.sources, targets))
    splice_move(pool.k_pages, pool.v_pages, sources, moved, cos, sin)
