from __future__ import annotations

import math
import random
from collections import Counter
from types import SimpleNamespace

import pytest
import torch

from vzoom.config import Sampling
from vzoom.engine.sampler import choose, probabilities

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


def stock_probabilities(
    logits_SV: torch.Tensor, banned: torch.Tensor, sampling: Sampling, ids: list[int]
) -> torch.Tensor:
    """What transformers draws the next token from under the same settings, by its own list of processors."""
    from transformers import GenerationConfig, GenerationMixin

    config = GenerationConfig(
        do_sample=True,
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        min_p=sampling.min_p or None,
        repetition_penalty=sampling.repetition_penalty,
        suppress_tokens=banned.tolist() or None,
    )
    config._pad_token_tensor = config._eos_token_tensor = None
    mixin = GenerationMixin.__new__(
        type("Model", (GenerationMixin,), {"config": SimpleNamespace(is_encoder_decoder=False)})
    )
    processors = mixin._get_logits_processor(config, input_ids_seq_length=len(ids), device="cpu", model_kwargs={})
    return processors(torch.tensor([ids]), logits_SV.float()).softmax(-1)


def test_the_distribution_is_that_of_transformers() -> None:
    rng, torch_rng = random.Random(0), torch.Generator().manual_seed(0)
    size = 500
    rows = []
    for _ in range(200):
        sampling = Sampling(
            temperature=rng.choice([0.3, 0.7, 1.0, 1.5, 3.0]),
            top_k=rng.choice([0, 1, 5, 20, 50, size, 2 * size]),
            top_p=rng.choice([1.0, 0.99, 0.9, 0.5, 0.05]),
            min_p=rng.choice([0.0, 0.0, 0.01, 0.2, 1.0]),
            repetition_penalty=rng.choice([1.0, 1.0, 1.05, 2.0, 0.8]),
        )
        logits = torch.randn(size, generator=torch_rng) * rng.choice([0.5, 3.0, 10.0])
        rows.append((sampling, logits, [rng.randrange(size) for _ in range(rng.choice([1, 30, 2000]))]))
    banned = torch.tensor([3, 17, 499])
    samplings, logits, histories = (list(part) for part in zip(*rows, strict=True))
    ours = probabilities(torch.stack(logits), banned, samplings, histories)
    for sampling, row, ids, own in zip(samplings, logits, histories, ours, strict=True):
        stock = stock_probabilities(row[None], banned, sampling, ids)[0]
        assert 0.5 * (own - stock).abs().sum() <= 1e-6, sampling


def test_draws_follow_what_the_filters_left() -> None:
    count, sampling = 20_000, Sampling(temperature=1.3, top_k=4, top_p=0.95, min_p=0.02, repetition_penalty=1.2)
    ids = [3, 1]
    want = probabilities(LOGITS[None], NONE, [sampling], [ids])[0].tolist()
    generators = [torch.Generator().manual_seed(0)] * count
    seen = Counter(choose(LOGITS.expand(count, -1), NONE, [sampling] * count, generators, [ids] * count)[0])
    assert min(want) == 0
    for token, p in enumerate(want):
        assert abs(seen[token] / count - p) <= 4 * math.sqrt(p / count)


def test_a_repetition_penalty_holds_for_greedy_decoding() -> None:
    sampling = Sampling(repetition_penalty=4.0)
    assert choose(LOGITS[None], NONE, [sampling], [torch.Generator()], [[3]])[0] == [1]
    assert choose(-LOGITS[None] - 1, NONE, [sampling], [torch.Generator()], [[4]])[0] == [0]  # below 0 it is multiplied


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_no_numbers_are_told_and_harm_no_other_row(bad: float, temperature: float) -> None:
    logits = LOGITS.repeat(3, 1)
    logits[1, 2] = bad
    samplings = [Sampling(temperature=temperature, top_p=0.9, top_k=3, min_p=0.1, seed=7)] * 3
    generators = [torch.Generator().manual_seed(7) for _ in range(3)]
    tokens, logprobs = choose(logits, NONE, samplings, generators)
    assert math.isnan(logprobs[1])
    assert tokens[0] == tokens[2]
    assert logprobs[0] == logprobs[2] < 0
