"""What is fed in one run of the model: the runs of several sessions, packed without padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from .active import Active
from .attention import Ragged
from .cache import PagePool
from .kernels.splice_move.op import splice_move
from .models.base import Features, VisionLanguageModel
from .reuse import Move
from .session import Feed


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


def run_model(model: VisionLanguageModel, pool: PagePool, batch: Sequence[Fed]) -> torch.Tensor:
    """Logits [S, V] behind each run. Keys and values of all runs are in their slots then."""
    ids: list[int] = []
    features: list[Features] = []
    tables, slots, positions, last = [], [], [], []
    for fed in batch:
        begin = len(ids)
        for piece in fed.pieces():
            ids += fed.ids[piece]
            slots.append(fed.slots[piece])
            positions.append(fed.positions[:, piece])
            tables.append(fed.active.table.upto(fed.length + piece.stop))
        last.append(len(tables) - 1)
        if fed.active.encoding:
            num_visual = ids[begin:].count(model.image_token_id)
            features.append(Features.cat(fed.active.encoding.features()).first(num_visual))
        if fed.move is not None:
            _splice(model, pool, fed.move, fed.slots)
    rows = [i for i, token in enumerate(ids) if token == model.image_token_id] if features else []
    images = Features.cat(features) if rows else None
    if images is not None and len(rows) != len(images.embeds):
        raise AssertionError(f"{len(rows)} image tokens, {len(images.embeds)} visual features")
    logits = model.forward(
        torch.tensor(ids, device=model.device),
        Ragged.pack(tables, slots, positions, model.device),
        pool,
        torch.tensor(rows, device=model.device) if images is not None else None,
        images,
    )
    return logits if len(last) == len(tables) else logits[last]


def _splice(model: VisionLanguageModel, pool: PagePool, move: Move, slots: np.ndarray) -> None:
    cos, sin = model.rotation(move.delta)
    targets = slots[move.first : move.end]
    sources, moved = (torch.from_numpy(a).to(model.device) for a in (move.sources, targets))
    splice_move(pool.k_pages, pool.v_pages, sources, moved, cos, sin)
