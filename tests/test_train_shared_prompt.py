"""A question's rollouts in one row give what they give side by side."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from vzoom.config import ZoomConfig
from vzoom.data.store import read
from vzoom.models import load_checkpoint
from vzoom.synthetic.dataset import write_questions
from vzoom.synthetic.questions import config_for
from vzoom.train.common.collate import IGNORED
from vzoom.train.common.policy import PolicyModel, load_policy, token_logprobs
from vzoom.train.common.rollout_engine import RolloutEngine
from vzoom.train.common.samples import Sample, from_trajectory
from vzoom.train.recipes.recipe import GRPORecipe
from vzoom.train.rl.micro_batches import EMPTY, plan_micro_batches
from vzoom.train.rl.shared_prompt import pack
from vzoom.zoomer import embedded_path

BASE = str(embedded_path())
OWN = ZoomConfig.from_dict(
    json.loads((embedded_path() / "vzoom.json").read_text()), "the package"
)  # as the embedded model knows it: it zooms


@pytest.fixture(scope="module")
def policy() -> PolicyModel:
    return load_policy(BASE, GRPORecipe(gradient_checkpointing=False))


@pytest.fixture(scope="module")
def samples(policy: PolicyModel, tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    """Three rollouts of one question, two of another, with different numbers of zooms."""
    records = list(read(write_questions(tmp_path_factory.mktemp("world"), "which", 2, config_for("which"), zoom=OWN)))
    engine = RolloutEngine(load_checkpoint(BASE), OWN, max_sessions=8)
    groups = engine.roll_out(records, num_rollouts=3, temperature=1.7, seeds=[7, 11])
    made = [
        from_trajectory(t, OWN, policy.vocabulary, id=record.id, video=record.video)
        for record, group in zip(records, groups, strict=True)
        for t in group
    ][:5]
    assert len({len(sample) for sample in made}) > 2
    assert len({len(sample.frames) for sample in made}) > 1
    return made


def scores(policy: PolicyModel, samples: list[Sample], *, packed: bool) -> list[torch.Tensor]:
    """Log-probabilities of each sample's sampled tokens."""
    if not packed:
        logp_BT, _ = token_logprobs(policy.model, policy.collate(samples, targets="sampled").to("cpu"))
        return [row[np.flatnonzero(s.sampled)] for s, row in zip(samples, logp_BT, strict=True)]
    rows, index_BN, seen = pack(samples, policy.vocabulary)
    logp_BT, _ = token_logprobs(
        policy.model, {**policy.collate(rows, targets="sampled").to("cpu"), "attention_mask": seen}
    )
    flat = logp_BT.flatten()
    return [flat[own[: s.sampled.sum()]] for s, own in zip(samples, index_BN, strict=True)]


def test_log_probabilities_and_gradients_are_those_of_whole_conversations(
    policy: PolicyModel, samples: list[Sample]
) -> None:
    weight = policy.model.model.language_model.layers[0].self_attn.k_proj.weight
    found = []
    for packed in (False, True):
        policy.model.zero_grad()
        made = scores(policy, samples, packed=packed)
        torch.cat(made).sum().backward()
        found.append(([m.detach() for m in made], weight.grad.clone()))
    (apart, slope), (together, packed_slope) = found
    for a, b in zip(apart, together, strict=True):
        assert a.shape == b.shape
        assert (a - b).abs().max() < 2e-5
    assert torch.allclose(slope, packed_slope, rtol=1e-3, atol=1e-4 * float(slope.abs().max()))


def test_tokens_are_run_once(policy: PolicyModel, samples: list[Sample]) -> None:
    rows, index_BN, seen = pack(samples, policy.vocabulary)
    assert len(rows) == 2
    shared = [int(s.sampled.argmax()) for s in samples]
    assert len(rows[0]) == sum(len(s) for s in samples[:3]) - 2 * (shared[0] - 1)
    width = max(map(len, rows))
    assert seen.shape == (2, 1, width, width)
    batch = policy.collate(rows, targets="sampled").to("cpu")
    labels, ids = batch["labels"].flatten(), batch["input_ids"].flatten()
    for sample, at in zip(samples, index_BN, strict=True):
        assert ids[at[: sample.sampled.sum()]].tolist() == sample.ids[sample.sampled].tolist()
    assert int((labels != IGNORED).sum()) == sum(int(s.sampled.sum()) for s in samples)
    assert index_BN.shape == (5, max(s.sampled.sum() for s in samples))


def test_a_branch_sees_the_prompt_and_itself(policy: PolicyModel, samples: list[Sample]) -> None:
    (row,), index_BN, seen = pack(samples[:2], policy.vocabulary)
    cut = int(samples[0].sampled.argmax()) - 1
    end = cut + len(samples[0]) - cut  # of the first branch
    assert seen[0, 0, : cut + 1, : cut + 1].equal(torch.ones(cut + 1, cut + 1, dtype=torch.bool).tril())
    assert not seen[0, 0, end:, cut:end].any()
    assert seen[0, 0, len(row) - 1, :cut].all()
    assert seen[0, 0, len(row) - 1, end : len(row)].all()
    assert index_BN[1, : samples[1].sampled.sum()].min() > end


def test_blocks_stay_together() -> None:
    planned = plan_micro_batches(list(range(12)), num_places=16, num_updates=2, micro_batch_size=2, seed=(1,), block=4)
    for update in planned:
        rows = [row for micro in update for row in micro]
        assert len(rows) == 8
        for i in (0, 4):
            block = set(rows[i : i + 4])
            assert block == {EMPTY} or (len(block) == 4 and len({row // 4 for row in block}) == 1)
    with pytest.raises(ValueError, match="do not hold whole questions of 4"):
        plan_micro_batches(list(range(12)), num_places=12, num_updates=2, micro_batch_size=2, seed=(1,), block=4)
