"""linear, rms_norm and silu_mul: what the checks in their folders do not show."""

from __future__ import annotations

import pytest
import torch

from vzoom.kernels.linear import FEW_ROWS, linear, many_rows
from vzoom.kernels.registry import chosen, resolve
from vzoom.kernels.rms_norm import rms_norm
from vzoom.kernels.silu_mul import silu_mul
from vzoom.kernels.suite import random, same_bits


def test_linear_of_many_rows_and_few_agree() -> None:
    """Either side of the switch, by oneDNN and where torch was built without it."""
    x, weight, gate = (random(n, 64, dtype=torch.float32, seed=n) for n in (FEW_ROWS + 1, 48, 49))
    gate, add = gate[:48], random(FEW_ROWS + 1, 48, dtype=torch.float32, seed=5)
    few = [linear(p, weight, gate_OI=gate, add_TO=a) for p, a in zip(x.split(9), add.split(9), strict=True)]
    torch.testing.assert_close(linear(x, weight, gate_OI=gate, add_TO=add), torch.cat(few), atol=2e-4, rtol=1e-5)
    torch.testing.assert_close(linear(x, weight, add_TO=add), x @ weight.T + add, atol=2e-5, rtol=1e-5)


def test_linear_without_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, add = (random(20, 64, dtype=torch.float32, seed=s) for s in (1, 2, 3))
    with_onednn = linear(x, weight, add_TO=add[:, :20])
    monkeypatch.setattr(many_rows, "_onednn", lambda: None)
    torch.testing.assert_close(linear(x, weight, add_TO=add[:, :20]), with_onednn)


def test_linear_on_threads_equals_one() -> None:
    x, weight = random(3, 512, dtype=torch.bfloat16, seed=1), random(1000, 512, dtype=torch.bfloat16, seed=2)
    one = linear(x, weight)
    torch.set_num_threads(4)
    try:
        many = linear(x, weight)
    finally:
        torch.set_num_threads(1)
    same_bits("out", many, one)


def test_rms_norm_of_rows_and_of_heads() -> None:
    x, weight = random(5, 7, 16, dtype=torch.float32, seed=1), random(16, dtype=torch.float32, seed=2)
    whole = rms_norm(x, weight, 1e-6)
    assert rms_norm(x[:, 0], weight, 1e-6).equal(whole[:, 0])
    assert rms_norm(x[:0], weight, 1e-6).shape == (0, 7, 16)


def test_silu_mul_returns_the_gate() -> None:
    gate, up = random(2, 3, 8, dtype=torch.float32, seed=1)
    assert silu_mul(gate, up, impl="cpu").data_ptr() == gate.data_ptr()


def test_a_gpu_takes_torchs_own_kernels() -> None:
    table = chosen("cuda")
    assert [table[op][0] for op in ("linear", "rms_norm", "silu_mul")] == ["reference"] * 3
    with pytest.raises(RuntimeError, match="torch's own kernel is the right one"):
        resolve("linear", "triton", "cuda")


@pytest.mark.parametrize("impl", ["cpu", "reference"])
def test_what_does_not_fit_is_refused(impl: str) -> None:
    x, weight, vector = torch.zeros(2, 8), torch.zeros(4, 8), torch.zeros(4)
    with pytest.raises(ValueError, match="I = "):
        linear(x, torch.zeros(4, 7), impl=impl)
    with pytest.raises(ValueError, match=r"bias has O = 5|O = 5"):
        linear(x, weight, torch.zeros(5), impl=impl)
    with pytest.raises(ValueError, match="gate_bias is given, but no gate"):
        linear(x, weight, gate_bias_O=vector, impl=impl)
    with pytest.raises(ValueError, match="weight"):
        linear(x, weight.double(), impl=impl)
    with pytest.raises(ValueError, match="contiguous"):
        linear(torch.zeros(2, 16)[:, ::2], weight, impl=impl)
    with pytest.raises(ValueError, match="D = "):
        rms_norm(x, vector, 1e-6, impl=impl)
    with pytest.raises(ValueError, match="F = "):
        silu_mul(x, torch.zeros(2, 7), impl=impl)
