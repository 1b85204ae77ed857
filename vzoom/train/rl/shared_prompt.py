"""Rollouts of one question in one row: the prompt that they share, then what each goes on with.

A question's rollouts share their prompt and glance, most of their tokens. Side by side, each of them would run these
again; packed, they are run once, and a mask lets every branch see the prompt and itself. The last token of the prompt
opens each branch, as it predicts the branch's first token.

    prompt  t0 … tp−2 | tp−1 branch 1 | tp−1 branch 2 | …
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from ...protocol import Vocabulary
from ..common.collate import pad_rows
from ..common.samples import Sample

_PROMPT = 0


def pack(samples: Sequence[Sample], vocabulary: Vocabulary) -> tuple[list[Sample], Tensor, Tensor]:
    """Pack neighbours that share their prompt.

    Args:
        samples: B rollouts.
        vocabulary: of their checkpoint.

    Returns:
        The rows, which are read like samples but are no conversations that could be held. Where the sampled tokens of
        each sample are in the flattened [rows, T] tensor of them, T the longest row's length: int64 [B, N], padded with
        0. Which token sees which, bool [rows, 1, T, T].
    """
    rows: list[Sample] = []
    branches: list[np.ndarray] = []
    where: list[list[np.ndarray]] = []
    for _, same in groupby(samples, key=_prompt):
        row, branch_T, at = _pack_group(list(same), vocabulary)
        rows.append(row)
        branches.append(branch_T)
        where.append(at)
    width = max(map(len, rows))
    flat = [number * width + at for number, own in enumerate(where) for at in own]
    branch_BT = pad_rows(branches, _PROMPT)
    is_seen = (branch_BT[:, None, :] == _PROMPT) | (branch_BT[:, None, :] == branch_BT[:, :, None])
    mask = is_seen & torch.ones(width, width, dtype=torch.bool).tril()
    return rows, pad_rows(flat, 0), mask[:, None]


def _prompt(sample: Sample) -> tuple[str, bytes]:
    return sample.video.path, sample.ids[: _length(sample)].tobytes()


def _length(sample: Sample) -> int:
    """Tokens before the first that was sampled."""
    return int(sample.sampled.argmax())


def _pack_group(samples: list[Sample], vocabulary: Vocabulary) -> tuple[Sample, np.ndarray, list[np.ndarray]]:
    first, cut = samples[0], _length(samples[0]) - 1
    num_frames = _frames_before(first, cut, vocabulary)
    parts = [slice(0, cut)] + [slice(cut, None)] * len(samples)
    owners = [first, *samples]
    starts = np.cumsum([0, *(len(owner.ids[part]) for owner, part in zip(owners, parts, strict=True))])

    def joined(name: str) -> np.ndarray:
        pieces = [getattr(owner, name)[..., part] for owner, part in zip(owners, parts, strict=True)]
        return np.concatenate(pieces, axis=-1)

    row = replace(
        first,
        id=f"{first.id} and {len(samples) - 1} more",
        ids=joined("ids"),
        positions=joined("positions"),
        sampled=joined("sampled"),
        learned=joined("learned"),
        frames=first.frames[:num_frames] + tuple(f for s in samples for f in s.frames[num_frames:]),
        logprobs=None,
    )
    branch_T = np.repeat(np.arange(len(owners)), np.diff(starts))
    at = [np.flatnonzero(s.sampled) - cut + start for s, start in zip(samples, starts[1:-1], strict=True)]
    return row, branch_T, at


def _frames_before(sample: Sample, cut: int, vocabulary: Vocabulary) -> int:
    """How many of its frames are before token `cut`."""
    left = int(np.isin(sample.ids[:cut], list(vocabulary.visual_token_ids)).sum())
    for number, frame in enumerate(sample.frames):
        if left <= 0:
            return number
        left -= (frame.grid_hw[0] // vocabulary.merge) * (frame.grid_hw[1] // vocabulary.merge)
    return len(sample.frames)
