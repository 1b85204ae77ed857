"""The ops as torch sees them: fakes, declared mutation, torch.compile, and CUDA tensors that no machine here has."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from vzoom.kernels.copy_blocks import copy_blocks
from vzoom.kernels.frames_to_patches import frames_to_patches
from vzoom.kernels.layout import page_shape
from vzoom.kernels.merge_states import merge_states
from vzoom.kernels.mrope_append import mrope_append
from vzoom.kernels.paged_attention import paged_attention
from vzoom.kernels.registry import OPS, chosen, resolve
from vzoom.kernels.splice_move import splice_move
from vzoom.kernels.suite import example

HEADS, KV_HEADS, DIM, BLOCK, BLOCKS, TOKENS = 4, 2, 16, 4, 6, 5


def arguments(op: str, device: str) -> tuple[Any, ...]:
    """Arguments of the op `vzoom::<op>` on a device, implementation last."""
    torch.manual_seed(0)
    return (*example(op, torch.device(device)), "auto")


def overload(op: str) -> Any:
    return getattr(torch.ops.vzoom, op).default


@pytest.mark.parametrize("op", OPS)
def test_opcheck(op: str) -> None:
    """Schema (what is mutated), fake, and registration agree with what the C++ does."""
    torch.library.opcheck(overload(op), arguments(op, "cpu"), test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize("op", OPS)
def test_runs_on_fake_cuda_without_looking_at_values(op: str) -> None:
    """A fake that read a value, or an op that waited for the GPU, would raise here."""
    with FakeTensorMode():
        overload(op)(*arguments(op, "cuda"))


@pytest.mark.parametrize("op", OPS)
def test_mixed_devices_raise(op: str) -> None:
    with FakeTensorMode():
        on_gpu, on_cpu = arguments(op, "cuda"), arguments(op, "cpu")
        tensors = [i for i, x in enumerate(on_gpu) if isinstance(x, Tensor)]
        for i in tensors[1:]:
            mixed = [*on_gpu[:i], on_cpu[i], *on_gpu[i + 1 :]]
            with pytest.raises(ValueError, match="move one of them"):
                overload(op)(*mixed)


@pytest.mark.parametrize("op", ["mrope_append", "paged_attention"])
def test_cpu_layout_is_refused_on_fake_cuda(op: str) -> None:
    """Pages are read by the device's layout: the CPU's order of dimensions does not pass for the GPU's."""
    with FakeTensorMode():
        swapped = [x.transpose(1, 2) if isinstance(x, Tensor) and x.ndim == 4 else x for x in arguments(op, "cuda")]
        if op == "paged_attention":  # 4 heads would be a multiple of the 4 tokens of a page read as heads
            for i in (0, 6, 7):
                swapped[i] = swapped[i].narrow(1, 0, 3)
        with pytest.raises(ValueError, match="heads"):
            overload(op)(*swapped)


def test_engine_step_compiles_whole() -> None:
    """Rotate, append, attend in one graph, without a break, with the same numbers."""

    def step(q: Tensor, k: Tensor, v: Tensor, angles: Tensor, k_pages: Tensor, v_pages: Tensor) -> Tensor:
        slots = torch.arange(4, 4 + TOKENS)
        mrope_append(q, k, v, angles.cos(), angles.sin(), k_pages, v_pages, slots)
        table = torch.tensor([[1, 2]], dtype=torch.int32)
        lengths, starts = torch.tensor([TOKENS], dtype=torch.int32), torch.tensor([0, TOKENS], dtype=torch.int32)
        return paged_attention(q, k_pages, v_pages, table, lengths, starts, scale=0.25) * 2

    def inputs() -> list[Tensor]:
        torch.manual_seed(1)
        shapes = [(TOKENS, HEADS, DIM), (TOKENS, KV_HEADS, DIM), (TOKENS, KV_HEADS, DIM), (TOKENS, DIM // 2)]
        pages = page_shape(BLOCKS, KV_HEADS, BLOCK, DIM, device=torch.device("cpu"))
        return [torch.randn(shape) for shape in (*shapes, pages, pages)]

    plain, compiled = inputs(), inputs()
    wanted = step(*plain)
    got = torch.compile(step, backend="aot_eager", fullgraph=True)(*compiled)
    assert got.equal(wanted)
    for name, a, b in zip(["q", "k", "v", "angles", "k_pages", "v_pages"], compiled, plain, strict=True):
        assert a.equal(b), f"{name} was mutated otherwise"


def two_pages() -> tuple[Tensor, Tensor]:
    return torch.zeros(2, 4, 4, 16), torch.zeros(2, 4, 4, 16)


def append(x: Tensor, *, q: Tensor | None = None, pairs: int = 8, slot: int = 1) -> None:
    angles = x[:, 0, :pairs]
    mrope_append(x.clone() if q is None else q, x, x, angles, angles, *two_pages(), torch.tensor([slot]))


def attend(x: Tensor, *, block: int = 1, length: int = 4, end: int = 1) -> None:
    numbers = [torch.tensor(values, dtype=torch.int32) for values in ([[block]], [length], [0, end])]
    paged_attention(x, *two_pages(), *numbers, scale=1.0)


def patchify(size: tuple[int, int]) -> None:
    frames, table = torch.zeros(1, *size, 3, dtype=torch.uint8), torch.zeros(3, 256)
    frames_to_patches(frames, table, steps=(), patch=14, merge=2, temporal=2)


STACKED = torch.zeros(2, 1, 3, 1, 2, 4)


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda x: append(x, slot=8), r"slots\[0\] = 8, but the pages have 8 slots"),
        (lambda x: append(x, q=torch.zeros(1, 4, 32)[..., ::2]), "last dimension of q must be contiguous"),
        (lambda x: append(x, pairs=7), "head_dim / 2 = 8 angles per token, got 7"),
        (lambda x: append(x, q=x.double()), "float32, bfloat16 or float16, got float64"),
        (lambda x: attend(x, block=2), r"block_table\[0, 0\] = 2, but there are 2"),
        (lambda x: attend(x, length=5), "does not fit the block table of 1 blocks"),
        (lambda x: attend(x, end=2), "must go from 0 to T = 1, got 0 to 2"),
        (lambda x: copy_blocks(*STACKED, torch.tensor([0]), torch.tensor([3])), "there are 3 blocks"),
        (lambda x: splice_move(*STACKED, torch.tensor([0]), torch.tensor([6])), "there are 6 slots"),
        (lambda x: merge_states(x, x[:, :, 0], x, x[:, :2, 0], impl="cpu"), "lse_b has H = 2 but out_a has H = 4"),
        (lambda x: patchify((30, 28)), "not whole patches of 14 merged by 2"),
    ],
)
def test_what_would_write_elsewhere_is_refused(call: Callable[[Tensor], object], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        call(torch.zeros(1, 4, 16))


def test_the_tensor_that_is_given_is_returned() -> None:
    x, scores = torch.randn(3, 4, 16), torch.randn(3, 4)
    out, lse = torch.full_like(x, torch.nan), torch.full_like(scores, torch.nan)
    assert merge_states(x, scores, x, scores, out=out, lse=lse) is out
    torch.testing.assert_close(out, x)
    torch.testing.assert_close(lse, scores + math.log(2))
    numbers = [torch.tensor(values, dtype=torch.int32) for values in ([[1, 0]], [5], [0, 3])]
    assert paged_attention(x, *two_pages(), *numbers, scale=1.0, out=out) is out
    assert out.eq(0).all()
    frames, table = torch.zeros(1, 28, 28, 3, dtype=torch.uint8), torch.ones(3, 256)
    patches = torch.zeros(4, 1176)
    assert frames_to_patches(frames, table, steps=(), patch=14, merge=2, temporal=2, out=patches) is patches
    assert patches.eq(1).all()


@pytest.mark.parametrize("impl", ["cpu", "reference"])
def test_angles_are_given_for_what_is_rotated(impl: str) -> None:
    x = torch.zeros(1, 4, 16)
    with pytest.raises(ValueError, match="q is given, but no cos and sin"):
        mrope_append(x.clone(), x, x, None, None, *two_pages(), torch.tensor([1]), impl=impl)
    with pytest.raises(ValueError, match="both be given or both be None"):
        mrope_append(None, x, x, x[:, 0, :8], None, *two_pages(), torch.tensor([1]), impl=impl)


def test_registry_says_what_runs() -> None:
    table = chosen("cpu")
    assert tuple(table) == OPS
    assert {impl for impl, _ in table.values()} == {"cpu"}
    assert resolve("mrope_append", "reference", "cpu") == "reference"
    with pytest.raises(RuntimeError, match="C\\+\\+ runs on CPU tensors"):
        resolve("mrope_append", "cpu", "cuda")
    with pytest.raises(ValueError, match="auto or one of"):
        resolve("mrope_append", "fast", "cpu")


def test_a_table_that_shares_pages_and_two_threads() -> None:
    """Two threads cut a long context into parts and join them; the numbers stay within float32's rounding."""
    torch.manual_seed(0)
    k, v = torch.randn(2, 200, KV_HEADS, 16, 64)
    table = torch.stack([torch.randperm(200)] * 2).int()
    table[1, 100:] = table[0, 100:].flip(0)
    lengths, starts = torch.tensor([3200, 3190]).int(), torch.tensor([0, 1, 4]).int()
    q, lse = torch.randn(4, HEADS, 64), torch.empty(2, 4, HEADS)
    one = paged_attention(q, k, v, table, lengths, starts, scale=0.125, lse=lse[0])
    torch.set_num_threads(8)  # more than tiles, so that keys are cut
    try:
        many = paged_attention(q, k, v, table, lengths, starts, scale=0.125, lse=lse[1])
    finally:
        torch.set_num_threads(1)
    torch.testing.assert_close(many, one, atol=2e-7, rtol=2e-6)
    torch.testing.assert_close(lse[1], lse[0])
