"""Logits -> tokens. One row per session, each with its own settings and its own random stream.

S sessions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..config import Sampling


def choose(
    logits_SV: torch.Tensor,
    banned: torch.Tensor,
    samplings: Sequence[Sampling],
    generators: Sequence[torch.Generator],
) -> tuple[list[int], list[float]]:
    """Choose the next token of each session.

    Args:
        logits_SV: [S, V], any float dtype.
        banned: int64 ids that are never chosen (visual control tokens: a sampled one would be a placeholder without an
            image).
        samplings: S settings.
        generators: S random streams, on the device of the logits.

    Returns:
        S tokens and their S natural log-probabilities: those of softmax(logits / temperature) without the banned ids,
        before top-k and top-p. For greedy rows the temperature counts as 1.
    """
    logits = logits_SV.float().index_fill(1, banned, float("-inf"))
    scale = logits.new_tensor([s.temperature or 1.0 for s in samplings])
    logprobs = torch.log_softmax(logits / scale[:, None], dim=-1)
    greedy = logprobs.argmax(-1)
    picks = [
        greedy[i] if s.temperature == 0 else _draw(logprobs[i], s, g)
        for i, (s, g) in enumerate(zip(samplings, generators, strict=True))
    ]
    tokens = torch.stack(picks)
    chosen = logprobs.gather(1, tokens[:, None])[:, 0]
    # One transfer for both: a session needs its token on the host to know whether its turn is over.
    pair = torch.stack([tokens.double(), chosen.double()]).tolist()
    return [int(t) for t in pair[0]], pair[1]


def _draw(logprobs: torch.Tensor, sampling: Sampling, generator: torch.Generator) -> torch.Tensor:
    ordered, index = logprobs.sort(descending=True)
    probs = ordered.exp()
    if sampling.top_k:
        probs[sampling.top_k :] = 0
    if sampling.top_p < 1:
        before = probs.cumsum(0) - probs  # mass before each token: the first one always stays
        probs[before >= sampling.top_p] = 0
    return index[torch.multinomial(probs, 1, generator=generator)[0]]
