"""Logits -> tokens. One row per session, each with its own settings and its own random stream.

The distribution is that of transformers' logits processors, in their order: banned ids, repetition penalty,
temperature, top-k, top-p (over what top-k left), min-p (over what top-p left). `tests/test_sampler.py` compares them.
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
    """Choose the next token of each row.

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
    settings_5S = _settings(logits_SV, samplings)
    logprobs_SV = torch.log_softmax(logits_SV / settings_5S[0, :, None], dim=-1)
    penalised_SV = _penalised(logits_SV, samplings, histories)
    sampled = [row for row, s in enumerate(samplings) if s.temperature > 0]
    if len(sampled) == len(samplings):
        tokens_S = _draw(_filtered(penalised_SV, settings_5S, samplings), generators)
    else:
        tokens_S = penalised_SV.argmax(-1)
        if sampled:
            rows = tokens_S.new_tensor(sampled)
            scores_RV = _filtered(penalised_SV[rows], settings_5S[:, rows], [samplings[row] for row in sampled])
            tokens_S = tokens_S.index_copy(0, rows, _draw(scores_RV, [generators[row] for row in sampled]))
    chosen_S = logprobs_SV.gather(1, tokens_S[:, None])[:, 0]
    # One transfer for both: a session needs its token on the host to know whether its turn is over.
    pair = torch.stack([tokens_S.double(), chosen_S.double()]).tolist()
    return [int(t) for t in pair[0]], pair[1]


def probabilities(
    logits_SV: Tensor, banned: Tensor, samplings: Sequence[Sampling], histories: Sequence[Sequence[int]] | None = None
) -> Tensor:
    """What `choose` draws from, float32 [S, V]; each row sums to 1. All temperatures must be above 0."""
    logits_SV = logits_SV.float().index_fill(1, banned, float("-inf"))
    scores_SV = _filtered(_penalised(logits_SV, samplings, histories), _settings(logits_SV, samplings), samplings)
    return scores_SV.softmax(-1)


def _settings(logits_SV: Tensor, samplings: Sequence[Sampling]) -> Tensor:
    """What the rows' filters need, in one transfer to the device: float32 [5, S].

    Rows: the temperature, 1 for greedy; the place of the last token that top-k keeps, 0 if it is off; what is added to
    that token's score, -inf if top-k is off; the mass that top-p leaves out, below 0 if it is off; min-p.
    """
    size = logits_SV.shape[1]
    return logits_SV.new_tensor(
        [
            [s.temperature or 1.0 for s in samplings],
            [s.top_k - 1 if 0 < s.top_k < size else 0 for s in samplings],
            [0.0 if 0 < s.top_k < size else float("-inf") for s in samplings],
            [1 - s.top_p if s.top_p < 1 else -1.0 for s in samplings],
            [s.min_p for s in samplings],
        ]
    )


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


def _filtered(logits_SV: Tensor, settings_5S: Tensor, samplings: Sequence[Sampling]) -> Tensor:
    """Logits over temperature, with -inf for what top-k, then top-p, then min-p leaves out."""
    scale_S, last_S, floor_S, spare_S, min_p_S = settings_5S
    scores_SV = logits_SV / scale_S[:, None]
    nothing, size = float("-inf"), logits_SV.shape[1]
    largest = max((s.top_k for s in samplings if 0 < s.top_k < size), default=0)
    if largest:
        least_S1 = scores_SV.topk(largest).values.gather(1, last_S[:, None].long()) + floor_S[:, None]
        scores_SV = scores_SV.masked_fill(scores_SV < least_S1, nothing)
    if any(s.top_p < 1 for s in samplings):
        # From the least likely up: what together has at most 1 - top_p goes, the most likely one never.
        ordered_SV, index_SV = scores_SV.sort()
        is_spare_SV = ordered_SV.softmax(-1).cumsum(-1) <= spare_S[:, None]
        is_spare_SV[:, -1] = False
        scores_SV = scores_SV.masked_fill(is_spare_SV.scatter(1, index_SV, is_spare_SV), nothing)
    if any(s.min_p > 0 for s in samplings):
        probs_SV = scores_SV.softmax(-1)
        scores_SV = scores_SV.masked_fill(probs_SV < (min_p_S * probs_SV.amax(-1))[:, None], nothing)
    return scores_SV


def _draw(scores_SV: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """One token per row by inversion: the first at which the cumulated probability exceeds a uniform number."""
    cumulated_SV = scores_SV.double().softmax(-1).cumsum(-1)
    uniform_S = torch.stack(
        [torch.rand((), dtype=torch.float64, generator=g, device=scores_SV.device) for g in generators]
    )
    # The sum may fall short of 1 by rounding, so it is the measure; `right` passes over tokens of probability 0.
    goal_S1 = (uniform_S * cumulated_SV[:, -1])[:, None]
    return torch.searchsorted(cumulated_SV, goal_S1, right=True)[:, 0].clamp(max=scores_SV.shape[1] - 1)
