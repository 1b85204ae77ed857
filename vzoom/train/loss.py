"""The GRPO loss of sampled tokens: pure functions of log-probabilities, no model, no batch format.

Shapes: B rollouts, T tokens, V words. mask_BT is True where the model sampled the token; tool turns, visual tokens
and padding are False there, and whatever stands in them, NaN included, reaches neither the loss nor a gradient.

    ratio   = exp(logp − old)                                              PPO, arXiv 1707.06347
    policy  = −min(ratio · A, clip(ratio, 1 − low, 1 + high) · A)          clip-higher, DAPO, arXiv 2503.14476, eq. 8
    weight  = min(exp(old − sampler), cap), a constant                     truncated importance sampling: the sampler's
                                                                           probabilities are not quite the trainer's
    kl      = exp(ref − logp) − (ref − logp) − 1                           k3, DeepSeekMath, arXiv 2402.03300, eq. 4
    loss    = mean(weight · policy + kl_weight · kl − entropy_weight · entropy)

The defaults are VideoZoomer's (arXiv 2512.22315). `old` is the policy that the ratio is measured from: the trainer's
own log-probabilities before the first update on these rollouts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from .groups import ClipBounds

Mean = Literal["token", "sequence"]


@dataclass(frozen=True)
class LossConfig:
    """mean: over all sampled tokens ("token", VideoZoomer's code, DAPO), or over each rollout's tokens and then over
    rollouts ("sequence", GRPO's paper). sampler_cap: of the weight exp(old − sampler)."""

    clip: ClipBounds = field(default_factory=ClipBounds)
    kl_weight: float = 0.001
    entropy_weight: float = 0.001
    sampler_cap: float = 2.0
    mean: Mean = "token"

    def __post_init__(self) -> None:
        for name in ("kl_weight", "entropy_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")
        if not self.sampler_cap >= 1:
            raise ValueError(f"sampler_cap must be 1 or more, got {self.sampler_cap}: exact samples weigh 1")
        if self.mean not in ("token", "sequence"):
            raise ValueError(f"mean must be token or sequence, got {self.mean!r}")


@dataclass(frozen=True)
class Loss:
    """total carries the gradient; the others are means over sampled tokens, detached scalars to be logged."""

    total: Tensor
    policy: Tensor
    kl: Tensor
    entropy: Tensor
    clipped_low: Tensor  # fraction of tokens that the lower bound holds
    clipped_high: Tensor
    sampler_weight: Tensor
    sampler_capped: Tensor  # fraction of tokens whose weight was cut to sampler_cap
    sampler_gap: Tensor  # mean |old − sampler|: how far the sampler is from the trainer


def grpo_loss(
    logp_BT: Tensor,
    old_BT: Tensor,
    advantages_B: Tensor,
    mask_BT: Tensor,
    *,
    config: LossConfig,
    ref_BT: Tensor | None = None,
    sampler_BT: Tensor | None = None,
    entropy_BT: Tensor | None = None,
    count: int | None = None,
) -> Loss:
    """The loss of a batch, or of a part of one.

    logp (with gradient), old, ref, sampler: log-probabilities of the sampled tokens by the policy in training, by it
    before this step, by the reference, by the engine that sampled. ref is needed where kl_weight is above 0, entropy
    (`token_stats`) where entropy_weight is; without sampler every weight is 1.
    count: sampled tokens (mean "token") or rollouts ("sequence") of the whole batch, where these are only a part of
    it: the parts' losses and gradients then add up to the whole batch's. ValueError on shapes, and where no token was
    sampled.
    """
    _check(logp_BT, advantages_B, mask_BT, old=old_BT, ref=ref_BT, sampler=sampler_BT, entropy=entropy_BT)
    for name, given, weight in (
        ("ref_BT", ref_BT, config.kl_weight),
        ("entropy_BT", entropy_BT, config.entropy_weight),
    ):
        if weight and given is None:
            raise ValueError(f"{name} is missing, but its weight is {weight}: give it or set the weight to 0")

    def at_mask(x_BT: Tensor | None) -> Tensor:
        return torch.zeros_like(logp_N) if x_BT is None else x_BT[mask_BT].to(logp_N.dtype)

    logp_N = logp_BT[mask_BT].float()
    old_N, entropy_N = at_mask(old_BT).detach(), at_mask(entropy_BT)
    advantage_N = advantages_B.to(logp_N)[:, None].expand_as(mask_BT)[mask_BT]

    ratio_N = (logp_N - old_N).exp()
    clipped_N = ratio_N.clamp(1 - config.clip.low, 1 + config.clip.high)
    policy_N = -torch.minimum(ratio_N * advantage_N, clipped_N * advantage_N)

    sampler_N = old_N if sampler_BT is None else at_mask(sampler_BT).detach()
    raw_N = (old_N - sampler_N).exp()
    weight_N = raw_N.clamp(max=config.sampler_cap)

    kl_N = torch.zeros_like(logp_N) if ref_BT is None else k3(logp_N, at_mask(ref_BT).detach())
    loss_N = weight_N * policy_N + config.kl_weight * kl_N - config.entropy_weight * entropy_N

    def share(x_N: Tensor) -> Tensor:
        return x_N.detach().float().mean()

    return Loss(
        total=_mean(loss_N, mask_BT, config.mean, count),
        policy=share(policy_N),
        kl=share(kl_N),
        entropy=share(entropy_N),
        clipped_low=share((ratio_N < 1 - config.clip.low) & (advantage_N < 0)),
        clipped_high=share((ratio_N > 1 + config.clip.high) & (advantage_N > 0)),
        sampler_weight=share(weight_N),
        sampler_capped=share(raw_N > config.sampler_cap),
        sampler_gap=share((old_N - sampler_N).abs()),
    )


def k3(logp: Tensor, ref: Tensor) -> Tensor:
    """An estimate of KL(policy ‖ reference) from tokens of the policy: unbiased, of low variance, never negative."""
    gap = ref - logp
    return torch.expm1(gap) - gap  # exp(gap) − 1 loses all its digits where the policies are close


def token_stats(logits_BTV: Tensor, targets_BT: Tensor, *, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """Log-probabilities of `targets` and entropies in nats, both fp32 [B, T], by softmax(logits / temperature).

    logits_BTV[:, t] must be those that predict targets_BT[:, t]: shift before. It makes a few fp32 copies of the
    logits, so a long sequence with a large vocabulary is given in slices of T.
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be above 0, got {temperature}: a greedy token has no probability to train")
    if logits_BTV.shape[:-1] != targets_BT.shape:
        raise ValueError(f"logits {list(logits_BTV.shape)} do not fit targets {list(targets_BT.shape)}")
    logp_BTV = torch.log_softmax(logits_BTV.float() / temperature, dim=-1)
    chosen_BT = logp_BTV.gather(-1, targets_BT[..., None])[..., 0]
    # A forbidden word has log-probability −inf and adds 0, not 0 · −inf; filled before the product for the gradient.
    return chosen_BT, -(logp_BTV.exp() * logp_BTV.masked_fill(logp_BTV.isneginf(), 0.0)).sum(-1)


def _mean(x_N: Tensor, mask_BT: Tensor, mean: Mean, count: int | None) -> Tensor:
    tokens_B = mask_BT.sum(1)
    here = len(x_N) if mean == "token" else int((tokens_B > 0).sum())
    if count is not None and count < here:
        raise ValueError(f"count {count} is below the {here} of this part: it must be the whole batch's")
    if mean == "sequence":
        row_N = torch.arange(len(mask_BT), device=x_N.device)[:, None].expand_as(mask_BT)[mask_BT]
        x_N = x_N / tokens_B[row_N]
    return x_N.sum() / (here if count is None else count)


def _check(logp_BT: Tensor, advantages_B: Tensor, mask_BT: Tensor, **others: Tensor | None) -> None:
    shape = list(logp_BT.shape)
    if mask_BT.dtype != torch.bool:
        raise ValueError(f"mask_BT must be bool, got {mask_BT.dtype}")
    for name, given in {"mask": mask_BT, **others}.items():
        if given is not None and list(given.shape) != shape:
            raise ValueError(f"{name}_BT is {list(given.shape)}, but logp_BT is {shape}")
    if len(shape) != 2 or list(advantages_B.shape) != shape[:1]:
        raise ValueError(f"logp_BT {shape} and advantages_B {list(advantages_B.shape)} must be [B, T] and [B]")
    if not mask_BT.any():
        raise ValueError("mask_BT holds no sampled token: there is nothing to learn from")
