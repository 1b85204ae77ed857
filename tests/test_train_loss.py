from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vzoom.train.groups import ClipBounds
from vzoom.train.loss import LossConfig, grpo_loss, k3, token_stats

PLAIN = LossConfig(kl_weight=0.0, entropy_weight=0.0)


def logs(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64).log().float()


def one(ratio: float, advantage: float, config: LossConfig = PLAIN) -> tuple[float, float]:
    """Loss of one token of this probability ratio, and d loss / d logp."""
    logp = logs([0.1 * ratio]).requires_grad_()
    loss = grpo_loss(logp, logs([0.1]), torch.tensor([advantage]), torch.tensor([[True]]), config=config)
    (gradient,) = torch.autograd.grad(loss.total, logp)
    return loss.total.item(), gradient.item()


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient"),
    [
        (1.0, 2.0, -2.0, -2.0),
        (1.2, 2.0, -2.4, -2.4),
        (1.26, 2.0, -2.52, -2.52),  # above 1 + low: only clip-higher leaves it its gradient
        (1.5, 2.0, -2.54, 0.0),  # held at 1.27
        (0.5, 2.0, -1.0, -1.0),  # a good token that became rare is raised
        (0.5, -2.0, 1.6, 0.0),  # held at 0.8
        (0.9, -2.0, 1.8, 1.8),
        (1.5, -2.0, 3.0, 3.0),  # a bad token that became frequent is lowered
    ],
)
def test_clip_higher_by_hand(ratio: float, advantage: float, loss: float, gradient: float) -> None:
    assert one(ratio, advantage) == pytest.approx((loss, gradient), rel=1e-5, abs=1e-6)


def test_only_what_a_bound_really_holds_counts_as_clipped() -> None:
    for ratio, advantage, low, high in ((1.5, 1.0, 0, 1), (1.5, -1.0, 0, 0), (0.5, -1.0, 1, 0), (0.5, 1.0, 0, 0)):
        loss = grpo_loss(
            logs([0.1 * ratio]), logs([0.1]), torch.tensor([advantage]), torch.tensor([[True]]), config=PLAIN
        )
        assert (loss.clipped_low.item(), loss.clipped_high.item()) == (low, high)


def test_other_bounds() -> None:
    config = replace(PLAIN, clip=ClipBounds(0.1, 0.1))
    assert one(1.2, 1.0, config) == pytest.approx((-1.1, 0.0), abs=1e-6)
    assert one(0.8, -1.0, config) == pytest.approx((0.9, 0.0), abs=1e-6)


def test_a_whole_batch_by_hand() -> None:
    # Rollout 0 (A = 1): ratios 1.5 and 1; rollout 1 (A = −0.5): ratio 0.5; its second place is a tool turn.
    logp = logs([0.3, 0.4], [0.1, 0.9]).requires_grad_()
    old = logs([0.2, 0.4], [0.2, 0.1])
    sampler = logs([0.4, 0.1], [0.2, 0.7])  # weights 0.5, 4 cut to 2, 1
    ref = logs([0.6, 0.4], [0.2, 0.2])  # ref / policy: 2, 1, 2
    entropy = torch.tensor([[0.3, 0.6], [0.9, 100.0]])
    mask = torch.tensor([[True, True], [True, False]])
    config = LossConfig(kl_weight=0.1, entropy_weight=0.2)

    loss = grpo_loss(
        logp, old, torch.tensor([1.0, -0.5]), mask, config=config, ref_BT=ref, sampler_BT=sampler, entropy_BT=entropy
    )
    # policy terms: −1.27, −1, and −min(0.5 · −0.5, 0.8 · −0.5) = 0.4
    two = 1 - math.log(2)  # k3 of a ratio of 2
    tokens = [
        0.5 * -1.27 + 0.1 * two - 0.2 * 0.3,
        2.0 * -1.0 + 0.1 * 0.0 - 0.2 * 0.6,
        1.0 * 0.4 + 0.1 * two - 0.2 * 0.9,
    ]
    assert loss.total.item() == pytest.approx(sum(tokens) / 3, rel=1e-5)
    assert loss.policy.item() == pytest.approx((-1.27 - 1 + 0.4) / 3, rel=1e-5)
    assert loss.kl.item() == pytest.approx(two * 2 / 3, rel=1e-5)
    assert loss.entropy.item() == pytest.approx(0.6, rel=1e-5)
    assert loss.clipped_high.item() == pytest.approx(1 / 3)
    assert loss.clipped_low.item() == pytest.approx(1 / 3)
    assert loss.sampler_weight.item() == pytest.approx((0.5 + 2 + 1) / 3, rel=1e-5)
    assert loss.sampler_capped.item() == pytest.approx(1 / 3)
    assert loss.sampler_gap.item() == pytest.approx((math.log(2) + math.log(4)) / 3, rel=1e-5)
    by_rollout = grpo_loss(
        logp,
        old,
        torch.tensor([1.0, -0.5]),
        mask,
        config=replace(config, mean="sequence"),
        ref_BT=ref,
        sampler_BT=sampler,
        entropy_BT=entropy,
    )
    assert by_rollout.total.item() == pytest.approx(((tokens[0] + tokens[1]) / 2 + tokens[2]) / 2, rel=1e-5)

    (gradient,) = torch.autograd.grad(loss.total, logp)
    # d policy / d logp is −ratio · A where it is not held; d k3 / d logp = 1 − ref / policy.
    expected = [[0.0 + 0.1 * (1 - 2), 2.0 * -1.0], [0.0 + 0.1 * (1 - 2), 0.0]]
    assert torch.allclose(gradient, torch.tensor(expected) / 3, atol=1e-6)


def test_the_weight_of_the_sampler_carries_no_gradient_and_without_it_is_one() -> None:
    old, sampler = logs([0.2]).requires_grad_(), logs([0.25]).requires_grad_()
    logp = logs([0.2]).requires_grad_()
    mask, ones = torch.tensor([[True]]), torch.tensor([1.0])
    loss = grpo_loss(logp, old, ones, mask, config=PLAIN, sampler_BT=sampler)
    assert loss.total.item() == pytest.approx(-0.8)
    found = torch.autograd.grad(loss.total, (logp, old, sampler), allow_unused=True)
    assert found[0].item() == pytest.approx(-0.8)
    assert found[1:] == (None, None)
    assert grpo_loss(logp, old, ones, mask, config=PLAIN).sampler_weight.item() == 1.0
    assert not loss.policy.requires_grad


def batch(seed: int, rows: int = 4, length: int = 7) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    found = {
        name: torch.rand(rows, length, generator=g).clamp(0.05).log()
        for name in ("logp_BT", "old_BT", "ref_BT", "sampler_BT")
    }
    found["entropy_BT"] = torch.rand(rows, length, generator=g)
    found["advantages_B"] = torch.randn(rows, generator=g)
    found["mask_BT"] = torch.rand(rows, length, generator=g) < 0.6
    found["mask_BT"][:, 0] = True
    return found


@pytest.mark.parametrize("mean", ["token", "sequence"])
@given(seed=st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_what_is_masked_reaches_neither_loss_nor_gradient(mean: str, seed: int) -> None:
    config, clean = LossConfig(mean=mean), batch(seed)
    poisoned = {k: v.clone() for k, v in clean.items()}
    for name in ("logp_BT", "old_BT", "ref_BT", "sampler_BT", "entropy_BT"):
        poisoned[name][~clean["mask_BT"]] = torch.nan
    results = []
    for values in (clean, poisoned):
        values["logp_BT"].requires_grad_()
        loss = grpo_loss(**values, config=config)
        results.append((loss.total.item(), torch.autograd.grad(loss.total, values["logp_BT"])[0]))
    assert results[0][0] == results[1][0]
    assert torch.equal(results[0][1], results[1][1])
    assert (results[0][1][~clean["mask_BT"]] == 0).all()


@pytest.mark.parametrize("mean", ["token", "sequence"])
@given(seed=st.integers(0, 10**6), cut=st.integers(1, 3))
@settings(max_examples=25, deadline=None)
def test_parts_of_a_batch_add_up_to_it(mean: str, seed: int, cut: int) -> None:
    config, values = LossConfig(mean=mean), batch(seed)
    whole = grpo_loss(**values, config=config).total
    count = int(values["mask_BT"].sum()) if mean == "token" else len(values["mask_BT"])
    parts = [
        grpo_loss(**{k: v[s] for k, v in values.items()}, config=config, count=count).total
        for s in (slice(cut), slice(cut, None))
    ]
    assert sum(p.item() for p in parts) == pytest.approx(whole.item(), rel=1e-4, abs=1e-6)


def test_a_rollout_without_a_sampled_token_does_not_thin_the_mean() -> None:
    values = batch(0)
    values["mask_BT"][1] = False
    config = LossConfig(mean="sequence")
    rest = {k: v[[0, 2, 3]] for k, v in values.items()}
    assert grpo_loss(**values, config=config).total.item() == pytest.approx(
        grpo_loss(**rest, config=config).total.item(), rel=1e-6
    )


def test_on_policy_the_gradient_is_that_of_reinforce() -> None:
    logits = torch.randn(1, 3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float32).requires_grad_()
    targets, mask = torch.tensor([[1, 4, 2]]), torch.tensor([[True, False, True]])
    logp, _ = token_stats(logits, targets)
    loss = grpo_loss(logp, logp, torch.tensor([1.7]), mask, config=PLAIN)
    (found,) = torch.autograd.grad(loss.total, logits, retain_graph=True)
    (expected,) = torch.autograd.grad(-1.7 * (logp[0, 0] + logp[0, 2]) / 2, logits)
    assert torch.allclose(found, expected, atol=1e-7)


@given(st.floats(-8, 0), st.floats(-8, 0))
@settings(deadline=None)
def test_k3_is_never_negative_and_zero_only_where_both_agree(logp: float, ref: float) -> None:
    found = k3(torch.tensor(logp, dtype=torch.float64), torch.tensor(ref, dtype=torch.float64)).item()
    assert found >= -1e-15
    assert found == pytest.approx(math.exp(ref - logp) - (ref - logp) - 1, rel=1e-9, abs=1e-12)
    close = k3(torch.tensor(-1.0), torch.tensor(-1.0 + 2.0**-12)).item()
    assert close == pytest.approx(2.0**-25, rel=1e-3)  # d² / 2: exp(d) − 1 − d in fp32 is 0 here


def test_k3_estimates_the_divergence() -> None:
    policy, reference = torch.tensor([0.6, 0.3, 0.1]), torch.tensor([0.2, 0.5, 0.3])
    expected = (policy * (policy / reference).log()).sum()
    assert torch.isclose((policy * k3(policy.log(), reference.log())).sum(), expected, rtol=1e-5)


def test_token_stats_by_hand() -> None:
    logits = torch.tensor([[[0.0, math.log(3.0), -math.inf]]]).requires_grad_()  # probabilities 1/4, 3/4, 0
    logp, entropy = token_stats(logits, torch.tensor([[1]]))
    assert logp.item() == pytest.approx(math.log(0.75))
    assert entropy.item() == pytest.approx(-(0.25 * math.log(0.25) + 0.75 * math.log(0.75)))
    entropy.sum().backward()
    assert torch.isfinite(logits.grad).all()
    sharp, _ = token_stats(logits.detach(), torch.tensor([[1]]), temperature=0.5)  # 1 : 9
    assert sharp.item() == pytest.approx(math.log(0.9))
    even, most = token_stats(torch.zeros(1, 1, 8, dtype=torch.bfloat16), torch.tensor([[3]]))
    assert (even.item(), most.item()) == pytest.approx((-math.log(8), math.log(8)))
    assert even.dtype == torch.float32
    with pytest.raises(ValueError, match="temperature must be above 0"):
        token_stats(logits, torch.tensor([[1]]), temperature=0.0)
    with pytest.raises(ValueError, match="do not fit"):
        token_stats(logits, torch.tensor([[1, 2]]))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"old_BT": torch.zeros(4, 6)}, r"old_BT is \[4, 6\], but logp_BT is \[4, 7\]"),
        ({"mask_BT": torch.ones(4, 7)}, "must be bool"),
        ({"mask_BT": torch.zeros(4, 7, dtype=torch.bool)}, "no sampled token"),
        ({"advantages_B": torch.zeros(4, 7)}, "advantages_B"),
        ({"ref_BT": None}, "ref_BT is missing, but its weight is 0.001"),
        ({"entropy_BT": None}, "entropy_BT is missing"),
        ({"count": 1}, "count 1 is below"),
    ],
)
def test_what_does_not_fit_is_named(changes: dict[str, torch.Tensor | int | None], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        grpo_loss(**{**batch(0), **changes}, config=LossConfig())


@pytest.mark.parametrize(
    "changes",
    [{"kl_weight": -1.0}, {"entropy_weight": math.nan}, {"sampler_cap": 0.5}, {"mean": "words"}],
)
def test_the_settings_are_checked(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        replace(LossConfig(), **changes)
