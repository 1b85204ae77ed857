"""The policy's log-probabilities are the engine's; what is frozen, cached and adapted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from checkpoints import FAMILIES, make_checkpoint
from packaging.version import Version
from training import PLAIN, played, policy_of, roomy, sample_of, small_video

from vzoom.config import Sampling
from vzoom.data.record import VideoRef
from vzoom.models import Checkpoint, load_checkpoint
from vzoom.train.common import policy as policy_module
from vzoom.train.common.policy import DEEPSTACK_SINCE, CachedTower, token_logprobs
from vzoom.train.common.samples import Sample
from vzoom.train.recipes.recipe import Lora, SFTRecipe
from vzoom.zoomer import Zoomer, embedded_path

PIXELS = replace(PLAIN, cache_features=False)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> VideoRef:
    return small_video(tmp_path_factory.mktemp("video"))


@pytest.fixture(scope="module")
def embedded() -> Checkpoint:
    return roomy(load_checkpoint(str(embedded_path()), device="cpu"))


def conversations(
    checkpoint: Checkpoint, video: VideoRef, zooms: tuple[int, ...]
) -> tuple[list[Sample], list[torch.Tensor]]:
    """Scripted ones, and the engine's log-probabilities of what was sampled in each."""
    made = [played(checkpoint, video, n) for n in zooms]
    samples = [
        sample_of(trajectory, checkpoint, video, num_zooms=n, id=f"{n} zooms")
        for n, (trajectory, _) in zip(zooms, made, strict=True)
    ]
    return samples, [logprobs for _, logprobs in made]


@pytest.mark.parametrize("family", ["embedded", *FAMILIES])
def test_logprobs_are_the_engines(family: str, video: VideoRef, embedded: Checkpoint, tmp_path: Path) -> None:
    """Over 0 to 3 zooms, in one padded batch: tokens, positions, frames, shift and banned ids all at once."""
    if family == "embedded":
        checkpoint = embedded
    else:
        checkpoint = roomy(load_checkpoint(str(make_checkpoint(family, tmp_path)), device="cpu"))
    samples, want = conversations(checkpoint, video, (0, 1, 2, 3))
    assert [len(s.frames) for s in samples] == [4, 8, 12, 16]
    for part in (PLAIN, PIXELS):
        if family == "qwen3_vl" and Version(transformers.__version__) < DEEPSTACK_SINCE:
            with pytest.raises(ValueError, match="or newer"):
                policy_of(checkpoint, part)
            continue
        if part is PLAIN and family == "qwen3_vl":
            with pytest.raises(ValueError, match=r"DeepStack.*cache_features=False"):
                policy_of(checkpoint, part)
            continue
        policy = policy_of(checkpoint, part)
        with torch.no_grad():
            made, _ = token_logprobs(policy.model, policy.collate(samples, targets="sampled").to("cpu"))
        for row, sample, logprobs in zip(made, samples, want, strict=True):
            got = row[: len(sample)][torch.from_numpy(sample.sampled)]
            assert logprobs.abs().mean() > 0.5  # a scripted conversation is no certainty to the model
            torch.testing.assert_close(got, logprobs, atol=1e-4, rtol=0)


def test_what_an_older_transformers_trains_wrongly_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = load_checkpoint(str(make_checkpoint("qwen3_vl", tmp_path)), device="cpu")
    monkeypatch.setattr(policy_module, "DEEPSTACK_SINCE", Version("999"))
    with pytest.raises(ValueError, match="trained with transformers 999 or newer"):
        policy_of(checkpoint, PIXELS)


def test_a_sampled_rollout_has_the_logprobs_that_the_engine_gave(video: VideoRef, embedded: Checkpoint) -> None:
    zoomer = Zoomer(embedded)
    policy = policy_of(embedded)
    warm = Sampling(temperature=0.7, seed=3)
    results = zoomer.rollouts(video.path, "Which shape appears?", 3, sampling=warm, max_zooms=2)
    samples = [sample_of(r.trajectory, embedded, video, num_zooms=2) for r in results]
    with torch.no_grad():
        made, _ = token_logprobs(policy.model, policy.collate(samples, targets="sampled").to("cpu"), temperature=0.7)
    for row, sample in zip(made, samples, strict=True):
        assert sample.logprobs is not None
        torch.testing.assert_close(row[: len(sample)], torch.from_numpy(sample.logprobs), atol=1e-4, rtol=0)


def test_entropies_parts_and_gradients(video: VideoRef, embedded: Checkpoint) -> None:
    """Against the plain way: all logits of the stock model, banned ids taken out."""
    policy = policy_of(embedded)
    samples, _ = conversations(embedded, video, (0, 2))
    batch = policy.collate(samples, targets="sampled").to("cpu")
    weight = policy.model.lm_head.weight

    logits = policy.model(**{k: v for k, v in batch.items() if k != "labels"}).logits[:, :-1] / 0.8
    logp = logits.index_fill(2, torch.tensor(embedded.banned_ids), -torch.inf).log_softmax(-1)
    is_target = batch["labels"][:, 1:] != -100
    want = logp.gather(2, batch["labels"][:, 1:].clamp(min=0)[..., None])[..., 0][is_target]
    entropy = -(logp.exp() * logp.clamp(min=-1e4)).sum(-1)[is_target]
    (want_gradient,) = torch.autograd.grad(want.sum() + 0.1 * entropy.sum(), weight)

    for together in (None, 7):
        made, entropies = token_logprobs(policy.model, batch, temperature=0.8, num_together=together)
        assert made.shape == batch["labels"].shape
        assert not made[:, 0].any()
        torch.testing.assert_close(made[:, 1:][is_target], want, atol=5e-5, rtol=0)
        torch.testing.assert_close(entropies[:, 1:][is_target], entropy, atol=5e-5, rtol=0)
        (gradient,) = torch.autograd.grad(made.sum() + 0.1 * entropies.sum(), weight)
        torch.testing.assert_close(gradient, want_gradient, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="temperature must be above 0"):
        token_logprobs(policy.model, batch, temperature=0.0)


def test_what_is_in_training(video: VideoRef, embedded: Checkpoint) -> None:
    def trained(part: SFTRecipe) -> set[str]:
        return {name for name, p in policy_of(embedded, part).model.named_parameters() if p.requires_grad}

    everything = trained(replace(PIXELS, freeze_vision=False))
    assert any(".visual." in name for name in everything)
    language = {name for name in everything if ".visual." not in name}
    assert trained(PIXELS) == trained(PLAIN) == language
    adapted = trained(replace(PLAIN, lora=Lora(rank=4, alpha=8)))
    assert len(adapted) == 2 * 7 * 4  # A and B of seven projections in four layers
    assert all(".language_model." in name and ".lora_" in name for name in adapted)


def test_adapters_begin_as_nothing_and_learn(video: VideoRef, embedded: Checkpoint) -> None:
    part = replace(PLAIN, lora=Lora(rank=4, alpha=8), gradient_checkpointing=True)
    policy = policy_of(embedded, part)
    policy.model.train()
    samples, want = conversations(embedded, video, (1,))
    made, _ = token_logprobs(policy.model, policy.collate(samples, targets="sampled").to("cpu"))
    got = made[0, : len(samples[0])][torch.from_numpy(samples[0].sampled)]
    torch.testing.assert_close(got, want[0], atol=1e-4, rtol=0)
    made.sum().backward()
    gradients = {name: p.grad for name, p in policy.model.named_parameters() if p.requires_grad}
    assert all(g is not None and g.abs().sum() > 0 for name, g in gradients.items() if "lora_B" in name)


def test_a_tower_whose_features_are_cached_is_no_part_of_the_model(embedded: Checkpoint) -> None:
    policy = policy_of(embedded)
    assert isinstance(policy.model.model.visual, CachedTower)
    assert not any("visual" in name for name, _ in policy.model.named_parameters())
    names = set(embedded.model.hf.state_dict())
    assert set(policy.model.state_dict()) == {name for name in names if ".visual." not in name} < names
