from __future__ import annotations

import math
from collections import Counter

import pytest
import torch

from vzoom.config import Sampling
from vzoom.engine.sampler import choose

LOGITS = torch.tensor([1.0, 3.0, 2.0, 5.0, 0.0])
NONE = torch.tensor([], dtype=torch.int64)


def draw(sampling: Sampling, count: int, banned: torch.Tensor = NONE) -> Counter[int]:
    generators = [torch.Generator().manual_seed(sampling.seed)] * count
    tokens, _ = choose(LOGITS.expand(count, -1), banned, [sampling] * count, generators)
    return Counter(tokens)


def test_greedy_takes_the_largest_that_is_allowed() -> None:
    assert draw(Sampling(), 1) == {3: 1}
    assert draw(Sampling(), 1, torch.tensor([3])) == {1: 1}


def test_sampling_follows_the_distribution() -> None:
    count = 4000
    seen = draw(Sampling(temperature=2.0), count)
    for token, p in enumerate(torch.softmax(LOGITS / 2.0, 0).tolist()):
        assert abs(seen[token] / count - p) < 4 * math.sqrt(p / count) + 1e-3


def test_banned_ids_are_never_drawn() -> None:
    assert not set(draw(Sampling(temperature=5.0), 2000, torch.tensor([3, 4]))) & {3, 4}


def test_top_k_and_top_p_cut_the_tail() -> None:
    assert set(draw(Sampling(temperature=5.0, top_k=2), 500)) == {3, 1}
    assert set(draw(Sampling(temperature=1.0, top_p=0.5), 200)) == {3}
    assert set(draw(Sampling(temperature=5.0, top_p=0.5), 500)) == {3, 1}


def test_log_probabilities_are_of_the_tempered_distribution() -> None:
    g = torch.Generator().manual_seed(1)
    (token,), (logprob,) = choose(LOGITS[None], torch.tensor([0]), [Sampling(temperature=2.0, top_k=3)], [g])
    want = torch.log_softmax(LOGITS.index_fill(0, torch.tensor([0]), -math.inf) / 2.0, 0)[token]
    assert logprob == pytest.approx(float(want), abs=1e-6)


def test_rows_keep_their_own_settings_and_seeds() -> None:
    logits = torch.zeros(3, 1000)
    samplings = [Sampling(temperature=1.0, seed=s) for s in (1, 2, 1)]
    tokens, _ = choose(logits, NONE, samplings, [torch.Generator().manual_seed(s.seed) for s in samplings])
    assert tokens[0] == tokens[2] != tokens[1]


@pytest.mark.parametrize("bad", [{"temperature": -1}, {"temperature": math.nan}, {"top_p": 0}, {"top_k": -1}])
def test_settings_out_of_range_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        Sampling(**bad)  # type: ignore[arg-type]
