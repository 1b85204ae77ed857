"""Logits -> tokens. One row per session, each with its own settings and its own random stream.

The distribution is that of transformers' logits processors, in their order: banned ids, repetition penalty,
temperature, top-k, top-p (over what top-k left), min-p (over what top-p left). `tests/test_sampler.py` compares the two.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..config import Sampling


def choose(
    logits_SV: Tensor,
    banned: Tensor,
    samplings: Sequence[Sampling],
    generators: Sequence[torch.Generator],
    histories: Sequence[Sequence[int]] | None = None,
) -> tuple[list[int], list[float]]:
    """Sample one token per row.

    Args:
        logits_SV: [S, V], any float dtype.
        banned: int64 ids that are never chosen (visual control tokens: a sampled one would be a placeholder without an
            image).
        samplings: the settings of each row; temperature 0 takes the largest logit after the repetition penalty.
        generators: the random stream of each row; one number is drawn per sampled token.
        histories: the ids of each row so far, prompt and answer. Needed where a row has a repetition penalty.

    Returns:
        S tokens and S log-probabilities. A log-probability is that of softmax(logits / temperature) without the banned
        ids, before the penalty, top-k, top-p and min-p; temperature counts as 1 for greedy rows. It is NaN where the
        row's logits hold NaN or infinity: that row's token means nothing.
    """
    logits_SV = logits_SV.float().index_fill(1, banned, float("-inf"))
    scale_S = logits_SV.new_tensor([s.temperature or 1.0 for s in samplings])
    logprobs_SV = torch.log_softmax(logits_SV / scale_S[:, None], dim=-1)
    penalised_SV = _penalised(logits_SV, samplings, histories)
    tokens_S = penalised_SV.argmax(-1)
    sampled = [row for row, s in enumerate(samplings) if s.temperature > 0]
    if sampled:
        rows = slice(None) if len(sampled) == len(samplings) else sampled
        drawn_R = _draw(
            _filtered(penalised_SV[rows] / scale_S[rows, None], [samplings[row] for row in sampled]),
            [generators[row] for row in sampled],
        )
        tokens_S = drawn_R if rows == slice(None) else tokens_S.index_copy(0, tokens_S.new_tensor(sampled), drawn_R)
    chosen_S = logprobs_SV.gather(1, tokens_S[:, None])[:, 0]
    # One transfer for both: a session needs its token on the host to know whether its turn is over.
    pair = torch.stack([tokens_S.double(), chosen_S.double()]).tolist()
    return [int(t) for t in pair[0]], pair[1]


def probabilities(
    logits_SV: Tensor, banned: Tensor, samplings: Sequence[Sampling], histories: Sequence[Sequence[int]] | None = None
) -> Tensor:
    """What `choose` draws from, float32 [S, V]; each row sums to 1. All temperatures must be above 0."""
    logits_SV = _penalised(logits_SV.float().index_fill(1, banned, float("-inf")), samplings, histories)
    scale_S = logits_SV.new_tensor([s.temperature for s in samplings])
    return _filtered(logits_SV / scale_S[:, None], samplings).softmax(-1)


def _penalised(logits_SV: Tensor, samplings: Sequence[Sampling], histories: Sequence[Sequence[int]] | None) -> Tensor:
    """Logits of ids in the row's history divided by its repetition penalty, multiplied if they are below 0 (CTRL, arXiv
    1909.05858)."""
    rows = [row for row, s in enumerate(samplings) if s.repetition_penalty != 1]
    if not rows:
        return logits_SV
    assert histories is not None, "a repetition penalty needs the ids so far"
    logits_SV = logits_SV.clone()
    for row in rows:
        ids = torch.from_numpy(np.unique(np.asarray(histories[row], np.int64))).to(logits_SV.device)
        seen = logits_SV[row, ids]
        penalty = samplings[row].repetition_penalty
        logits_SV[row, ids] = torch.where(seen < 0, seen * penalty, seen / penalty)
    return logits_SV


def _filtered(scores_SV: Tensor, samplings: Sequence[Sampling]) -> Tensor:
    """Scores with -inf for what top-k, then top-p, then min-p leaves out. Rows that use none of them are unchanged."""
    nothing = float("-inf")
    top_ks = [min(s.top_k or scores_SV.shape[1], scores_SV.shape[1]) for s in samplings]
    if min(top_ks) < scores_SV.shape[1]:
        largest = max(k for k in top_ks if k < scores_SV.shape[1])
        top_SK = scores_SV.topk(largest).values
        last_S = scores_SV.new_tensor([min(k, largest) - 1 for k in top_ks], dtype=torch.int64)
        least_S1 = top_SK.gather(1, last_S[:, None])
        is_whole_S1 = torch.tensor([[k == scores_SV.shape[1]] for k in top_ks], device=scores_SV.device)
        scores_SV = scores_SV.masked_fill((scores_SV < least_S1) & ~is_whole_S1, nothing)
    if any(s.top_p < 1 for s in samplings):
        ordered_SV, index_SV = scores_SV.sort()
        # From the least likely up: what together has at most 1 - top_p goes, the most likely one never. Rows without
        # top-p have a spare mass below 0, so that nothing goes.
        spare_S = scores_SV.new_tensor([1 - s.top_p if s.top_p < 1 else -1.0 for s in samplings])
        is_spare_SV = ordered_SV.softmax(-1).cumsum(-1) <= spare_S[:, None]
        is_spare_SV[:, -1] = False
        scores_SV = scores_SV.masked_fill(is_spare_SV.scatter(1, index_SV, is_spare_SV), nothing)
    if any(s.min_p > 0 for s in samplings):
        probs_SV = scores_SV.softmax(-1)
        least_S = scores_SV.new_tensor([s.min_p for s in samplings]) * probs_SV.amax(-1)
        scores_SV = scores_SV.masked_fill(probs_SV < least_S[:, None], nothing)
    return scores_SV


def _draw(scores_SV: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """One token per row by inversion: the first at which the cumulated probability exceeds a uniform number."""
    cumulated_SV = scores_SV.double().softmax(-1).cumsum(-1)
    uniform_S = torch.stack([torch.rand((), dtype=torch.float64, generator=g, device=g.device) for g in generators])
    # The sum may fall short of 1 by rounding, so it is the measure; `right` passes over tokens of probability 0.
    goal_S1 = (uniform_S * cumulated_SV[:, -1])[:, None]
    return torch.searchsorted(cumulated_SV, goal_S1, right=True)[:, 0].clamp(max=scores_SV.shape[1] - 1)
