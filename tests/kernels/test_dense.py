"""linear, rms_norm and silu_mul: every instruction set against float64, and the ops as torch sees them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from vzoom.kernels.linear import many_rows
from vzoom.kernels.linear.op import FEW_ROWS, linear
from vzoom.kernels.linear.reference import linear as linear_reference
from vzoom.kernels.registry import CPU_OPS, chosen, resolve
from vzoom.kernels.rms_norm.op import rms_norm
from vzoom.kernels.rms_norm.reference import rms_norm as rms_norm_reference
from vzoom.kernels.silu_mul.op import silu_mul
from vzoom.kernels.silu_mul.reference import silu_mul as silu_mul_reference
from vzoom.kernels.suite.cases import poisoned, random, shifted
from vzoom.kernels.suite.compare import same_bits, within_house_rule

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def cases() -> Iterator[Any]:
    """rows, inputs, outputs, what there is beside x and weight."""
    for rows in (0, 1, 2, 3, 7, 8, 15, 16, 17, 37):
        yield pytest.param(rows, 96, 70, "bga", id=f"{rows} rows")
    for inputs, outputs in ((1, 1), (31, 5), (33, 64), (130, 129), (1400, 34), (3000, 3)):
        for rows in (1, 9):
            yield pytest.param(rows, inputs, outputs, "bg", id=f"{rows} rows {inputs} to {outputs}")
    for given in ("", "b", "g", "a", "ba"):
        yield pytest.param(2, 64, 40, given, id=f"with {given or 'nothing'}")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("rows", "inputs", "outputs", "given"), list(cases()))
def test_linear(isa: str, rows: int, inputs: int, outputs: int, given: str, dtype: torch.dtype) -> None:
    """Strided rows, unaligned weights, and no element outside of the output is written."""
    x = random(rows, inputs + 3, dtype=dtype, seed=1)[:, :inputs]
    gain = inputs**-0.5
    weight, gate = (shifted(random(outputs, inputs, dtype=torch.float32, seed=s).mul(gain).to(dtype)) for s in (2, 3))
    bias, gate_bias, add = (random(*shape, dtype=dtype, seed=4) for shape in ((outputs,), (outputs,), (rows, outputs)))
    rest = [
        bias if "b" in given else None,
        gate if "g" in given else None,
        gate_bias if "g" in given and "b" in given else None,
        add if "a" in given else None,
    ]
    truth = linear_reference(*(None if t is None else t.double() for t in (x, weight, *rest)))  # type: ignore[arg-type]
    guarded = poisoned(rows, outputs + 2, dtype=dtype)
    torch.ops.vzoom.linear(x, weight, *rest, guarded[:, 1:-1], "cpu")
    within_house_rule("out", guarded[:, 1:-1], linear_reference(x, weight, *rest), truth)
    assert guarded[:, [0, -1]].isnan().all(), "written outside of the output"


def test_linear_of_many_rows_and_few_agree() -> None:
    """Either side of the switch, by oneDNN and where torch was built without it."""
    x, weight, gate = (random(n, 64, dtype=torch.float32, seed=n) for n in (FEW_ROWS + 1, 48, 49))
    gate, add = gate[:48], random(FEW_ROWS + 1, 48, dtype=torch.float32, seed=5)
    few = [linear(p, weight, gate_NK=gate, add_TN=a) for p, a in zip(x.split(9), add.split(9), strict=True)]
    torch.testing.assert_close(linear(x, weight, gate_NK=gate, add_TN=add), torch.cat(few), atol=2e-4, rtol=1e-5)
    torch.testing.assert_close(linear(x, weight, add_TN=add), x @ weight.T + add, atol=2e-5, rtol=1e-5)


def test_linear_without_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, add = (random(20, 64, dtype=torch.float32, seed=s) for s in (1, 2, 3))
    with_onednn = linear(x, weight, add_TN=add[:, :20])
    monkeypatch.setattr(many_rows, "_onednn", lambda: None)
    torch.testing.assert_close(linear(x, weight, add_TN=add[:, :20]), with_onednn)


def test_linear_on_threads_equals_one() -> None:
    x, weight = random(3, 512, dtype=torch.bfloat16, seed=1), random(1000, 512, dtype=torch.bfloat16, seed=2)
    one = linear(x, weight)
    torch.set_num_threads(4)
    try:
        many = linear(x, weight)
    finally:
        torch.set_num_threads(1)
    same_bits("out", many, one)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [1, 16, 17, 80, 128, 515])
def test_rms_norm(isa: str, size: int, dtype: torch.dtype) -> None:
    fused = random(5, 7, size, dtype=dtype, seed=size) * 3
    x, weight = fused[:, 1:4], random(size, dtype=dtype, seed=2)
    truth = rms_norm_reference(x.double(), weight.double(), 1e-6)
    guarded = poisoned(5, 5, size, dtype=dtype)
    torch.ops.vzoom.rms_norm(x, weight, 1e-6, guarded[:, 1:4], "cpu")
    within_house_rule("out", guarded[:, 1:4], rms_norm_reference(x, weight, 1e-6), truth)
    assert guarded[:, [0, 4]].isnan().all(), "written outside of the output"
    assert rms_norm(fused[:, 0], weight, 1e-6).shape == (5, size)
    assert rms_norm(fused[:0], weight, 1e-6).shape == (0, 7, size)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [1, 16, 33])
def test_silu_mul(isa: str, size: int, dtype: torch.dtype) -> None:
    """Far from 0 too, where exp leaves the range of float32; what lies between the rows stays."""
    wide = random(4, size + 2, dtype=dtype, seed=1) * 40
    wide[0, 1], wide[1, 1] = -200, 200
    up = random(4, size, dtype=dtype, seed=2)

    def by_reference(exact: torch.dtype) -> Tensor:
        gate = wide[:, 1:-1].to(exact, copy=True)
        silu_mul_reference(gate, up.to(exact))
        return gate

    truth, by_torch, before = by_reference(torch.float64), by_reference(dtype), wide.clone()
    assert silu_mul(wide[:, 1:-1], up, impl="cpu").data_ptr() == wide[:, 1:].data_ptr()
    within_house_rule("gate", wide[:, 1:-1], by_torch, truth)
    same_bits("beside the gate", wide[:, [0, -1]], before[:, [0, -1]])


def arguments(op: str, device: str) -> tuple[Any, ...]:
    def floats(*shape: int) -> Tensor:
        return torch.randn(shape, device=device)

    return {
        "linear": (
            floats(3, 8), floats(5, 8), floats(5), floats(5, 8), floats(5), floats(3, 5), floats(3, 5), "auto",
        ),
        "rms_norm": (floats(3, 2, 8), floats(8), 1e-6, floats(3, 2, 8), "auto"),
        "silu_mul": (floats(3, 8), floats(3, 8), "auto"),
    }[op]  # fmt: skip


def overload(op: str) -> Any:
    return getattr(torch.ops.vzoom, op).default


@pytest.mark.parametrize("op", CPU_OPS)
def test_opcheck(op: str) -> None:
    torch.library.opcheck(overload(op), arguments(op, "cpu"), test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize("op", CPU_OPS)
def test_fake_cuda(op: str) -> None:
    """No value is read; a tensor on another device is named."""
    with FakeTensorMode():
        overload(op)(*arguments(op, "cuda"))
        on_gpu, on_cpu = arguments(op, "cuda"), arguments(op, "cpu")
        for i in (i for i, x in enumerate(on_gpu) if isinstance(x, Tensor) and i):
            with pytest.raises(ValueError, match="move one of them"):
                overload(op)(*on_gpu[:i], on_cpu[i], *on_gpu[i + 1 :])


def test_a_gpu_takes_torchs_own_kernels() -> None:
    assert {op: impl for op, (impl, _) in chosen("cuda").items() if op in CPU_OPS} == dict.fromkeys(
        CPU_OPS, "reference"
    )
    with pytest.raises(RuntimeError, match="torch's own kernel is the right one"):
        resolve("linear", "triton", "cuda")


@pytest.mark.parametrize("impl", ["cpu", "reference"])
def test_what_does_not_fit_is_refused(impl: str) -> None:
    x, weight, vector = torch.zeros(2, 8), torch.zeros(4, 8), torch.zeros(4)
    with pytest.raises(ValueError, match="K = "):
        linear(x, torch.zeros(4, 7), impl=impl)
    with pytest.raises(ValueError, match=r"bias has N = 5|N = 5"):
        linear(x, weight, torch.zeros(5), impl=impl)
    with pytest.raises(ValueError, match="gate_bias is given, but no gate"):
        linear(x, weight, gate_bias_N=vector, impl=impl)
    with pytest.raises(ValueError, match="weight"):
        linear(x, weight.double(), impl=impl)
    with pytest.raises(ValueError, match="contiguous"):
        linear(torch.zeros(2, 16)[:, ::2], weight, impl=impl)
    with pytest.raises(ValueError, match="D = "):
        rms_norm(x, vector, 1e-6, impl=impl)
    with pytest.raises(ValueError, match="F = "):
        silu_mul(x, torch.zeros(2, 7), impl=impl)
