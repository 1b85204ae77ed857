"""The references against plain formulas, written out another way than the references are."""

from __future__ import annotations

import math

import pytest
import torch
from kernel_cases import paged, poisoned
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import rotate_half

from vzoom.kernels.mrope_append import mrope_append
from vzoom.kernels.paged_attention import paged_attention


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rotation_is_transformers_arithmetic(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(5, 4, 16).to(dtype), torch.randn(5, 2, 16).to(dtype), torch.randn(5, 2, 16).to(dtype)
    angle = torch.randn(5, 8)
    cos, sin = angle.cos().to(dtype), angle.sin().to(dtype)
    pages = [poisoned(4, 2, 2, 16, dtype=dtype) for _ in range(2)]
    slots = torch.tensor([7, 0, -1, 3, 4])
    cos2, sin2 = torch.cat((cos, cos), -1)[:, None], torch.cat((sin, sin), -1)[:, None]
    want_q, want_k = q * cos2 + rotate_half(q) * sin2, k * cos2 + rotate_half(k) * sin2
    mrope_append(q, k, v, cos, sin, *pages, slots, impl="reference")
    assert q.equal(want_q)
    for t, slot in enumerate(slots.tolist()):
        if slot >= 0:
            assert pages[0][slot // 2, :, slot % 2].equal(want_k[t])
            assert pages[1][slot // 2, :, slot % 2].equal(v[t])
    assert pages[0].isnan().sum() == pages[0].numel() - 4 * 2 * 16  # no other slot was written


@pytest.mark.parametrize("causal", [True, False])
def test_attention_is_the_formula(causal: bool) -> None:
    case = paged([(3, 9), (1, 5), (0, 4), (4, 4)], heads=4, kv_heads=2, dim=8, block_size=4).as_float64()
    lse = case.q.new_empty(8, 4)
    out = paged_attention(*case.args, scale=0.3, causal=causal, lse=lse, impl="reference")
    token = 0
    for s, (queries, keys) in enumerate([(3, 9), (1, 5), (0, 4), (4, 4)]):
        for i in range(queries):
            seen = keys - queries + i + 1 if causal else keys
            for h in range(4):
                weights, value = [], torch.zeros(8, dtype=torch.float64)
                for j in range(seen):
                    block = int(case.block_table[s, j // 4])
                    score = float(case.q[token, h] @ case.k_pages[block, h // 2, j % 4]) * 0.3
                    weights.append(math.exp(score))
                    value += weights[-1] * case.v_pages[block, h // 2, j % 4]
                torch.testing.assert_close(out[token, h], value / sum(weights))
                assert float(lse[token, h]) == pytest.approx(math.log(sum(weights)))
            token += 1
    assert token == 8


def test_query_without_keys_is_zero() -> None:
    case = paged([(3, 2)], dim=8, block_size=4)
    lse = torch.empty(3, 4)
    out = paged_attention(*case.args, scale=1.0, lse=lse, impl="reference")
    assert out[0].eq(0).all()
    assert lse[0].eq(-torch.inf).all()
    assert out[1:].isfinite().all()


def test_shared_page_is_read_by_both() -> None:
    case = paged([(1, 6), (1, 7)], dim=8, block_size=4, share_first_block=True)
    assert case.block_table[0, 0] == case.block_table[1, 0]
    assert paged_attention(*case.args, scale=1.0, impl="reference").isfinite().all()


def test_misfits_name_the_argument() -> None:
    case = paged([(1, 6)], dim=8, block_size=4)
    with pytest.raises(ValueError, match="kv_lens must be int32"):
        paged_attention(*case.args[:4], case.kv_lens.long(), case.cu_seqlens_q, scale=1.0, impl="reference")
    with pytest.raises(ValueError, match="cu_seqlens_q must hold S \\+ 1 = 2"):
        paged_attention(*case.args[:5], case.cu_seqlens_q[:1], scale=1.0, impl="reference")
    x = torch.zeros(1, 2, 8)
    with pytest.raises(ValueError, match="slots must be int64"):
        mrope_append(x, x, x, x[:, 0, :4], x[:, 0, :4], *case.args[1:3], torch.zeros(1).int(), impl="reference")
    with pytest.raises(RuntimeError, match="impl='cuda' is not there"):
        paged_attention(*case.args, scale=1.0, impl="cuda")
