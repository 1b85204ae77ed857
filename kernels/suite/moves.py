"""Checks of the ops that move or blend cached tokens: mrope_append, copy_blocks, splice_move, merge_states."""

from __future__ import annotations

import torch

from ..copy_blocks.reference import copy_blocks as copy_reference
from ..merge_states.reference import merge_states as merge_reference
from ..mrope_append.reference import mrope_append as mrope_reference
from ..splice_move.reference import splice_move as splice_reference
from .cases import at_slots, copied, new_pages, poisoned, random, shifted
from .compare import same_bits, within_house_rule
from .runner import Runner


def check_mrope_append(
    runner: Runner,
    *,
    dim: int,
    dtype: torch.dtype,
    heads: int,
    groups: int,
    tokens: int = 5,
    block_size: int = 4,
    angle_dtype: torch.dtype = torch.float32,
    unaligned: bool = False,
) -> None:
    """q, k, v are slices of one fused projection; one token is padding; no other slot may change by a bit."""
    fused = random(tokens, heads + 2 * groups, dim, dtype=dtype, seed=dim)
    angles = random(tokens, dim // 2, dtype=torch.float32, seed=1) * 3
    cos, sin = angles.cos().to(angle_dtype), angles.sin().to(angle_dtype)
    pages = new_pages(4, groups=groups, block_size=block_size, dim=dim, dtype=dtype)
    slots = torch.randperm(4 * block_size, generator=torch.Generator().manual_seed(2))[:tokens]
    if tokens > 2:
        slots[2] = -1

    def by_reference(exact: torch.dtype) -> list[torch.Tensor]:
        q, k, v = fused.to(exact, copy=True).split([heads, groups, groups], dim=1)
        k_pages, v_pages = copied(pages.to(exact)), copied(pages.to(exact))
        mrope_reference(q, k, v, cos.to(exact), sin.to(exact), k_pages, v_pages, slots)
        return [q, k_pages, v_pages]

    truth_q, truth_k, _ = by_reference(torch.float64)
    torch_q, torch_k, _ = by_reference(dtype)
    on_device = runner.put(shifted(fused) if unaligned else fused)
    q, k, v = on_device.split([heads, groups, groups], dim=1)
    k_pages, v_pages = runner.put_pages(pages), runner.put_pages(pages)
    runner.run("mrope_append", q, k, v, runner.put(cos), runner.put(sin), k_pages, v_pages, runner.put(slots))

    within_house_rule("q", q, torch_q, truth_q)
    same_bits("k and v of the projection", on_device[:, heads:], fused[:, heads:])
    got_k, got_v = runner.heads_first(k_pages), runner.heads_first(v_pages)
    written = slots[slots >= 0]
    within_house_rule("k", at_slots(got_k, written), at_slots(torch_k, written), at_slots(truth_k, written))
    same_bits("v", at_slots(got_v, written), fused[slots >= 0, heads + groups :])
    others = torch.ones(4 * block_size, dtype=torch.bool)
    others[written] = False
    for name, got in (("k", got_k), ("v", got_v)):
        same_bits(
            f"other slots of {name}", at_slots(got, others.nonzero()[:, 0]), at_slots(pages, others.nonzero()[:, 0])
        )


def check_copy_blocks(
    runner: Runner,
    *,
    dim: int,
    dtype: torch.dtype,
    block_size: int = 16,
    groups: int = 3,
    pairs: int = 3,
    unaligned: bool = False,
) -> None:
    """Bitwise, NaNs too; one pair is padding."""
    layers, blocks = 2, 7
    start = random(2, layers, blocks, block_size, groups, dim, dtype=dtype, seed=3)
    start[:, :, 1, 0] = torch.nan
    start = shifted(start) if unaligned else start
    k, v = (x.transpose(-3, -2) for x in start)
    sources, targets = torch.tensor([[1, 4, 4], [6, 0, -1]])[:, :pairs]
    wanted_k, wanted_v = copied(k), copied(v)
    copy_reference(wanted_k, wanted_v, sources, targets)
    k_pages, v_pages = runner.put_pages(k), runner.put_pages(v)
    runner.run("copy_blocks", k_pages, v_pages, runner.put(sources), runner.put(targets))
    same_bits("k", runner.heads_first(k_pages), wanted_k)
    same_bits("v", runner.heads_first(v_pages), wanted_v)
    assert pairs == 0 or not wanted_k.equal(k), "the check copied nothing"


def check_splice_move(
    runner: Runner,
    *,
    dim: int,
    dtype: torch.dtype,
    rotated: bool = True,
    in_place: bool = False,
    tokens: int = 6,
    groups: int = 2,
    block_size: int = 4,
    unaligned_angles: bool = False,
) -> None:
    """K by the tolerance of the house where it is rotated; V, unmoved slots and unrotated K bitwise."""
    layers, blocks = 3, 6
    start = random(2, layers, blocks, block_size, groups, dim, dtype=dtype, seed=4)
    k, v = (x.transpose(-3, -2) for x in start)
    order = torch.randperm(blocks * block_size, generator=torch.Generator().manual_seed(5))
    sources = order[:tokens].clone()
    targets = sources.clone() if in_place else order[tokens : 2 * tokens].clone()
    if tokens > 1:
        targets[1] = -1
    angles = random(dim // 2, dtype=torch.float64, seed=6) * 5
    cos, sin = (angles.cos().float(), angles.sin().float()) if rotated else (None, None)
    if unaligned_angles and cos is not None and sin is not None:
        cos, sin = shifted(cos), shifted(sin)

    def by_reference(exact: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        pages = copied(k.to(exact)), copied(v.to(exact))
        splice_reference(*pages, sources, targets, cos, sin)
        return pages

    truth_k, _ = by_reference(torch.float64)
    torch_k, torch_v = by_reference(dtype)
    k_pages, v_pages = runner.put_pages(k), runner.put_pages(v)
    turn = [runner.put(x) if x is not None else None for x in (cos, sin)]
    runner.run("splice_move", k_pages, v_pages, runner.put(sources), runner.put(targets), *turn)
    got_k = runner.heads_first(k_pages)
    same_bits("v", runner.heads_first(v_pages), torch_v)
    if not rotated:
        same_bits("k", got_k, torch_k)
        return
    written = targets[targets >= 0]
    others = torch.ones(blocks * block_size, dtype=torch.bool)
    others[written] = False
    kept = others.nonzero()[:, 0]
    same_bits("other slots of k", at_slots(got_k, kept), at_slots(k, kept))
    within_house_rule("k", at_slots(got_k, written), at_slots(torch_k, written), at_slots(truth_k, written))


def check_merge_states(
    runner: Runner,
    *,
    dim: int,
    dtype: torch.dtype,
    tokens: int = 5,
    heads: int = 3,
    with_lse: bool = True,
    padding: int = 0,
) -> None:
    """Sides without keys hold NaN, which must not come through; tensors are slices of wider ones."""
    wide = random(2, tokens, heads + 1, dim + padding, dtype=dtype, seed=7)
    both = wide[..., :dim]
    lses = random(2, tokens, heads, dtype=torch.float32, seed=8) * 4
    if tokens > 2:
        lses[0, 0, 0] = lses[1, 1, 1] = lses[:, 2, 2] = -torch.inf
        both[:, :, :heads][lses == -torch.inf] = torch.nan
        lses[0, 3, 0] = 200.0  # exp would overflow
    a, b = both[0, :, :heads], both[1, :, :heads]

    def by_reference(exact: torch.dtype, lse_dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        out, lse = torch.empty_like(a, dtype=exact), torch.empty_like(lses[0], dtype=lse_dtype)
        merge_reference(a.to(exact), lses[0].to(lse_dtype), b.to(exact), lses[1].to(lse_dtype), out, lse)
        return out, lse

    truth, truth_lse = by_reference(torch.float64, torch.float64)
    torch_got, torch_lse = by_reference(dtype, torch.float32)
    padded = runner.put(poisoned(tokens, heads, dim + padding, dtype=dtype))
    out = padded[..., :dim]
    lse = runner.put(poisoned(tokens, heads, dtype=torch.float32)) if with_lse else None
    tensors = [runner.put(x) for x in (both[0], lses[0], both[1], lses[1])]
    runner.run("merge_states", tensors[0][:, :heads], tensors[1], tensors[2][:, :heads], tensors[3], out=out, lse=lse)
    within_house_rule("out", out, torch_got, truth)
    assert padded[..., dim:].isnan().all(), "written behind head_dim"
    if lse is not None:
        within_house_rule("lse", lse, torch_lse, truth_lse)
