"""One run of the model: the scheduled runs of several sessions, packed without padding.

S sequences, V vocabulary.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..kernels.splice_move import splice_move
from ..models import Features, Ragged, VisionLanguageModel
from .clip_reuse import Move
from .kv_cache import BlockTable, PagePool
from .scheduler import ScheduledRun

_CPU_COLUMN_BYTES = 2048  # so many tokens at a time that a column of them takes this much: 1024 in bf16


@dataclass(frozen=True)
class Chunk:
    """Consecutive tokens of one sequence in one pass through the layers. `table` ends with them."""

    ids: list[int]
    slots: np.ndarray
    positions: np.ndarray
    table: BlockTable
    features: Features | None


def run_model(model: VisionLanguageModel, pool: PagePool, runs: Sequence[ScheduledRun]) -> torch.Tensor:
    """Feed `runs` and write their keys and values to their slots.

    On the CPU long runs go through the layers in chunks: what a layer hands to the next takes that much less memory.

    Returns:
        Logits [S, V] of the last token of each run.
    """
    limit = _CPU_COLUMN_BYTES // model.dtype.itemsize if model.device.type == "cpu" else sys.maxsize
    passes: list[list[Chunk]] = [[]]
    last: list[tuple[int, int]] = []  # by run: the pass and the chunk in it that a token is sampled after
    room = limit
    for run in runs:
        pending = run.running.pending_features
        visual = Features.cat(pending.features()) if pending else None
        seen = 0
        for piece in run.pieces():
            at = piece.start
            while at < piece.stop:
                if room == 0:
                    passes.append([])
                    room = limit
                end = min(piece.stop, at + room)
                ids = run.ids[at:end]
                num_visual = sum(map(ids.count, model.visual_token_ids))
                features = visual.part(seen, seen + num_visual) if visual is not None and num_visual else None
                table = run.running.table.upto(run.num_cached + end)
                passes[-1].append(Chunk(ids, run.slots[at:end], run.positions[:, at:end], table, features))
                seen += num_visual
                room -= end - at
                at = end
        last.append((len(passes) - 1, len(passes[-1]) - 1))
        if run.move is not None:
            _splice(model, pool, run.move, run.slots)
        elif visual is not None and seen != len(visual.embeds):
            raise AssertionError(f"{seen} visual tokens, {len(visual.embeds)} visual features")
    logits = [_forward(model, pool, chunks) for chunks in passes]
    if len(passes) == 1 and len(last) == len(passes[0]):
        return logits[0]
    return torch.stack([logits[number][chunk] for number, chunk in last])


def _forward(model: VisionLanguageModel, pool: PagePool, chunks: Sequence[Chunk]) -> torch.Tensor:
    ids = [i for chunk in chunks for i in chunk.ids]
    features = [chunk.features for chunk in chunks if chunk.features is not None]
    rows = [i for i, token in enumerate(ids) if token in model.visual_token_ids] if features else []
    return model.forward(
        torch.tensor(ids, device=model.device),
        Ragged.pack(
            [chunk.table for chunk in chunks],
            [chunk.slots for chunk in chunks],
            [chunk.positions for chunk in chunks],
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
