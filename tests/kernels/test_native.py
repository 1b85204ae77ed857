"""No call from Python can crash the process, and none reads or writes outside of its arguments.

Each case here ended the process, wrote what it must not, or gave a wrong result before it was mended. What is random is
in `tests/fuzz/native.py`.
"""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fuzz import native as fuzzer
from torch import Tensor

from vzoom.kernels import extension
from vzoom.kernels.suite import random

NATIVE = extension.module
ONE_STEP = (
    np.zeros(4, np.int32),
    np.full((4, 1), 1 << 22, np.int32),
    np.zeros(3, np.int32),
    np.full((3, 1), 1 << 22, np.int32),
    False,
)


def attention(**changed: Any) -> None:
    """One query of one sequence against five keys in two blocks of four."""
    given: dict[str, Any] = {
        "q": torch.randn(1, 2, 8),
        "k_pages": torch.randn(3, 1, 4, 8),
        "v_pages": torch.randn(3, 1, 4, 8),
        "block_table": torch.tensor([[2, 0]], dtype=torch.int32),
        "kv_lens": torch.tensor([5], dtype=torch.int32),
        "cu_seqlens_q": torch.tensor([0, 1], dtype=torch.int32),
        "out": torch.empty(1, 2, 8),
        "lse": None,
        "scale": 0.3,
        "causal": True,
    }
    NATIVE.paged_attention(**(given | changed))


def linear(x: Any, weight: Any, out: Any, **more: Any) -> None:
    given = dict.fromkeys(("bias", "gate", "gate_bias", "add"))
    NATIVE.linear(x=x, weight=weight, out=out, **(given | more))


def append(**changed: Any) -> None:
    given: dict[str, Any] = {
        "q": torch.randn(2, 3, 8),
        "k": torch.randn(2, 1, 8),
        "v": torch.randn(2, 1, 8),
        "cos": torch.randn(2, 4),
        "sin": torch.randn(2, 4),
        "k_pages": torch.zeros(2, 1, 4, 8),
        "v_pages": torch.zeros(2, 1, 4, 8),
        "slots": torch.tensor([3, 5]),
    }
    NATIVE.mrope_append(**(given | changed))


def freed(*shape: int) -> Tensor:
    tensor = torch.zeros(shape)
    tensor.untyped_storage().resize_(0)
    return tensor


def read_only(*shape: int) -> np.ndarray:
    array = np.zeros(shape, np.float32)
    array.flags.writeable = False
    return array


def lent(tensor: Tensor, **changed: Any) -> fuzzer.Lender:
    lender = fuzzer.Lender(tensor.data_ptr(), list(tensor.shape), list(tensor.stride()), tensor.dtype)
    for name, value in changed.items():
        setattr(lender, name, value)
    lender.keeps = tensor  # type: ignore[attr-defined]
    return lender


# ---------------------------------------------------------------- the fuzzer, short


def test_fuzzer_finds_nothing() -> None:
    """2 000 calls of every function in a child process, right and wrong ones, between forbidden pages."""
    assert fuzzer.fuzz(fuzzer.SHORT_CALLS, seed=1, race_seconds=1) == []


def test_fuzzer_sees_a_crash(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A child that dies is told with the number of its call, and the run goes on after it."""
    script = tmp_path / "native.py"
    script.write_text(
        "import os, signal, sys\n"
        "seed, first, calls, seconds, note = sys.argv[2:]\n"
        "if int(first) <= 3 < int(first) + int(calls):\n"
        "    open(note, 'r+b').write((3).to_bytes(8, 'little'))\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    monkeypatch.setattr(fuzzer, "__file__", str(script))
    (found,) = fuzzer.fuzz(10, seed=5)
    assert found.startswith("status -9 at call 3: --seed 5 --only 3")


# ---------------------------------------------------------------- shapes and strides


@pytest.mark.parametrize("rows", [1, 2, 15])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_broadcast_weights(rows: int, dtype: torch.dtype, isa: str) -> None:
    """Their rows are no bytes apart: the division by those bytes ended the process."""
    x, weight = random(rows, 64, dtype=dtype, seed=1), random(1, 64, dtype=dtype, seed=2).expand(64, 64)
    out = torch.full((rows, 64), torch.nan, dtype=dtype)
    linear(x, weight, out)
    torch.testing.assert_close(out, (x.double() @ weight.double().T).to(dtype))


def test_backward_rows() -> None:
    x, weight, out = (
        np.ones((3, 8), np.float32),
        np.arange(40, dtype=np.float32).reshape(5, 8),
        np.zeros((3, 5), np.float32),
    )
    linear(x[::-1], weight[::-1], out[::-1])
    assert np.array_equal(out[0], weight[::-1].sum(1))


@pytest.mark.parametrize("rows", [1, 2, 17])
def test_no_inputs_give_zeros_and_the_bias(rows: int, isa: str) -> None:
    """Their sums were what the stack held."""
    out = torch.full((rows, 70), torch.nan)
    linear(torch.empty(rows, 0), torch.empty(70, 0), out)
    assert out.eq(0).all()


@pytest.mark.parametrize("size", [0, -1, 2**31 - 1, 65537])
def test_frames_without_pixels_or_with_too_many(size: int) -> None:
    with pytest.raises(ValueError, match="frames must have 1 to 65536 pixels a side"):
        NATIVE.FramePlan(4, size, [])


def broken_step(**changed: Any) -> tuple[Any, ...]:
    names = ("h_first", "h_weights", "v_first", "v_weights", "vertical_first")
    return tuple((dict(zip(names, ONE_STEP, strict=True)) | changed).values())


@pytest.mark.parametrize(
    ("step", "complaint"),
    [
        (
            broken_step(h_first=np.zeros(0, np.int32), h_weights=np.zeros((0, 1), np.int32)),
            "1 to 65536 outputs and taps",
        ),
        (
            broken_step(v_first=np.zeros(0, np.int32), v_weights=np.zeros((0, 1), np.int32)),
            "1 to 65536 outputs and taps",
        ),
        (broken_step(h_weights=np.zeros((4, 0), np.int32)), "1 to 65536 outputs and taps"),
        (broken_step(h_first=np.full(4, 2**31 - 1, np.int32)), "reads inputs 2147483647 to 2147483648 of 7"),
        (broken_step(v_first=np.full(3, -1, np.int32)), "reads inputs -1 to 0 of 6"),
        (broken_step(v_weights=np.full((3, 1), 1 << 24, np.int32)), "weights of output 0 are too large"),
    ],
)
def test_steps_that_read_elsewhere(step: tuple[Any, ...], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        NATIVE.FramePlan(6, 7, [step])


def test_steps_without_end() -> None:
    """Each is a recursion: a million of them would need more stack than there is."""
    with pytest.raises(ValueError, match="at most 8 steps"):
        NATIVE.FramePlan(1, 1, [(np.zeros(1, np.int32), np.full((1, 1), 1 << 22, np.int32)) * 2 + (False,)] * 9)


@pytest.mark.parametrize("step", [None, (1, 2), broken_step(vertical_first=3), "hello"])
def test_steps_that_are_none(step: Any) -> None:
    with pytest.raises(TypeError, match="a step is a tuple"):
        NATIVE.FramePlan(6, 7, [step])


def test_outputs_in_any_order(isa: str) -> None:
    """The first row of a band was taken for its least: rows before it were read from elsewhere."""
    first = np.array([5, 0, 3], np.int32)
    plan = NATIVE.FramePlan(6, 4, [(*ONE_STEP[:2], first, ONE_STEP[3], False)])
    frames = np.arange(6 * 4 * 3, dtype=np.uint8).reshape(1, 6, 4, 3)
    out = np.zeros((1, 3, 4, 3), np.uint8)
    NATIVE.resize_frames(plan, frames, out)
    assert np.array_equal(out, frames[:, first])


@pytest.mark.parametrize("order", [slice(None, None, -1), slice(None)])
def test_frames_backwards_are_not_read_beyond_their_ends(order: slice, isa: str) -> None:
    """Rows that nothing resizes were copied only if they ran forwards, and read beyond their ends else."""
    arena = fuzzer.Arena(3)
    frames = arena.bytes[-4 * 16 * 16 * 3 :].reshape(4, 16, 16, 3)
    frames[:] = np.arange(frames.size, dtype=np.uint32).astype(np.uint8).reshape(frames.shape)
    table = torch.arange(256, dtype=torch.float32).expand(3, 256).contiguous()
    out = torch.empty(4, 3 * 16 * 16)
    NATIVE.frames_to_patches(NATIVE.FramePlan(16, 16, []), frames[:, order], table, out, 16, 1, 1)
    assert np.array_equal(out.numpy().reshape(4, 3, 16, 16), frames[:, order].transpose(0, 3, 1, 2))


@pytest.mark.parametrize("sizes", [(65536, 65536, 1), (0, 1, 1), (1, 1, 2**31 - 1), (-1, 1, 1), (65537, 1, 1)])
def test_patches_of_no_size(sizes: tuple[int, int, int]) -> None:
    frames, table = torch.zeros(1, 4, 4, 3, dtype=torch.uint8), torch.zeros(3, 256)
    with pytest.raises(ValueError, match=r"must be 1 to 65536|are not whole patches"):
        NATIVE.frames_to_patches(NATIVE.FramePlan(4, 4, []), frames, table, torch.zeros(1, 48), *sizes)


def test_pages_without_tokens() -> None:
    with pytest.raises(ValueError, match="at least one token"):
        attention(k_pages=torch.zeros(3, 1, 0, 8), v_pages=torch.zeros(3, 1, 0, 8))


def test_broadcast_to_more_than_there_can_be() -> None:
    """It would overflow, or take days."""
    skipped, pages = torch.tensor([-1]), torch.zeros(1, 1, 1, 1, 2)
    for many, complaint in ((2**50, "sources is too large"), (2**44, "at most 2\\^30 is possible")):
        with pytest.raises(ValueError, match=complaint):
            NATIVE.copy_blocks(pages, pages.clone(), skipped.expand(many), skipped.expand(many))


# ---------------------------------------------------------------- numbers that are followed


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        (
            {"block_table": torch.tensor([[2, 3]], dtype=torch.int32)},
            r"block_table\[0, 1\] = 3, but there are 3 blocks",
        ),
        ({"block_table": torch.tensor([[-1, 0]], dtype=torch.int32)}, r"block_table\[0, 0\] = -1"),
        ({"kv_lens": torch.tensor([9], dtype=torch.int32)}, "does not fit the block table"),
        ({"kv_lens": torch.tensor([2**31 - 1], dtype=torch.int32)}, "does not fit the block table"),
        ({"cu_seqlens_q": torch.tensor([0, 2**31 - 1], dtype=torch.int32)}, "must go from 0 to T = 1"),
        ({"cu_seqlens_q": torch.tensor([-1, 1], dtype=torch.int32)}, "must go from 0 to T = 1"),
        ({"scale": float("nan")}, "scale must be a finite float32"),
        ({"scale": 1e300}, "scale must be a finite float32"),
        ({"scale": 0.0}, "scale must be above 0"),
        ({"scale": -0.5}, "scale must be above 0"),
    ],
)
def test_attention_that_reads_elsewhere(changed: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        attention(**changed)


def test_keys_without_end() -> None:
    """2^31 - 1 keys in one block that is repeated: the number of the key after them overflowed."""
    table, pages = torch.zeros(1, 2048, dtype=torch.int32), torch.zeros(1, 1, 2**20, 1)
    one = {"q": torch.zeros(1, 1, 1), "out": torch.zeros(1, 1, 1), "k_pages": pages, "v_pages": pages}
    with pytest.raises(ValueError, match="kv_lens is too large"):
        attention(block_table=table, kv_lens=torch.tensor([2**31 - 1], dtype=torch.int32), **one)


def test_threads_that_write_what_is_followed() -> None:
    """Slots, blocks and lengths change while they are followed: noise may come out, nothing else may happen."""
    script = f"import sys; sys.path[:0] = {sys.path!r}; from fuzz import native; assert native.race(1.5) > 10"
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# ---------------------------------------------------------------- what may be written


@pytest.mark.parametrize(
    "out",
    [
        read_only(2, 5),
        memoryview(read_only(2, 5)),
        lent(torch.zeros(2, 5), flags=1),
        lent(torch.zeros(2, 5), flags=2),
    ],
    ids=["numpy", "memoryview", "dlpack", "dlpack copy"],
)
def test_read_only_outputs(out: Any) -> None:
    with pytest.raises(ValueError, match="out is read-only"):
        linear(torch.ones(2, 3), torch.ones(5, 3), out)
    assert not np.asarray(out).any() if not isinstance(out, fuzzer.Lender) else not out.keeps.any()  # type: ignore[attr-defined]


def test_read_only_inputs_and_results_through_dlpack() -> None:
    out = torch.zeros(2, 5)
    linear(lent(torch.ones(2, 3), flags=1), lent(torch.ones(5, 3), versioned=False), lent(out))
    assert out.eq(3).all()


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda x: linear(x, torch.zeros(4, 4), x), "out would be written, but shares memory with x"),
        (lambda x: linear(x[:3], torch.zeros(4, 4), x[1:]), "shares memory with x"),
        (
            lambda x: linear(torch.zeros(4, 4), torch.zeros(4, 4), x[:1].expand(4, 4)),
            "some of its elements share memory",
        ),
        (lambda x: linear(x, torch.zeros(4, 4), x.as_strided((4, 4), (3, 1))), "some of its elements share memory"),
        (lambda x: NATIVE.silu_mul(x, x), "gate would be written, but shares memory with up"),
        (lambda x: NATIVE.silu_mul(x[:, :2], x[:, 1:3]), "shares memory"),
        (lambda x: NATIVE.rms_norm(x[None], x[0], 1e-6, x[None]), "shares memory"),
        (
            lambda x: NATIVE.copy_blocks(x.view(1, 2, 2, 2, 2), x.view(1, 2, 2, 2, 2), *[torch.zeros(0).long()] * 2),
            "k_pages",
        ),
        (lambda x: append(k_pages=x.view(1, 1, 2, 8), k=x.view(2, 1, 8)), "k_pages would be written"),
        (
            lambda x: append(k_pages=x.view(1, 1, 2, 8), slots=x.view(-1)[:4].view(torch.int64)),
            "k_pages would be written",
        ),
    ],
)
def test_memory_that_is_shared(call: Callable[[Tensor], object], complaint: str) -> None:
    x = torch.zeros(4, 4)
    with pytest.raises(ValueError, match=complaint):
        call(x)


def test_memory_that_only_looks_shared() -> None:
    """Columns of one matrix, halves of rows, tokens of one projection."""
    qkv = torch.randn(5, 6, 8)
    q, k, v = qkv[:, :4], qkv[:, 4:5], qkv[:, 5:]
    pages = torch.zeros(2, 3, 1, 4, 8).transpose(0, 1)  # keys and values of a block side by side
    append(q=q, k=k, v=v, cos=torch.ones(5, 4), sin=torch.zeros(5, 4), k_pages=pages[:, 0], v_pages=pages[:, 1],
           slots=torch.arange(5))  # fmt: skip
    assert pages[0, 1, 0, 3].equal(v[3, 0])
    both = torch.randn(6, 16)
    NATIVE.silu_mul(both[:, :8], both[:, 8:])
    NATIVE.silu_mul(both[::2], both[1::2])


# ---------------------------------------------------------------- objects


@pytest.mark.parametrize("given", [None, 3, "text", object(), b"bytes", [1.0], torch.zeros(2, 3).to_sparse()], ids=str)
def test_objects_that_are_no_tensors(given: Any) -> None:
    with pytest.raises(ValueError, match="x "):
        linear(given, torch.ones(5, 3), torch.zeros(2, 5))


@pytest.mark.parametrize("which", ["x", "weight", "out"])
def test_tensors_without_memory(which: str) -> None:
    given = {"x": torch.ones(2, 3), "weight": torch.ones(5, 3), "out": torch.zeros(2, 5)}
    given[which] = freed(*given[which].shape)
    with pytest.raises(ValueError, match=f"{which} has no memory"):
        linear(**given)


def test_fake_tensors() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        fake = torch.empty(2, 3)
    with pytest.raises(ValueError, match="x has no memory"):
        linear(fake, torch.ones(5, 3), torch.zeros(2, 5))


def test_elements_that_do_not_fit_their_type() -> None:
    memory = torch.zeros(7)
    odd = fuzzer.Lender(memory.data_ptr() + 1, [2, 3], None, torch.float32)
    with pytest.raises(ValueError, match="x does not begin at a multiple"):
        linear(odd, torch.ones(5, 3), torch.zeros(2, 5))
    field = np.zeros(6, np.dtype([("a", "<f4"), ("b", "<i2")]))["a"]
    with pytest.raises(ValueError, match="bias must be float32"):
        linear(torch.ones(2, 3), torch.ones(6, 3), torch.zeros(2, 6), bias=field)
    with pytest.raises(ValueError, match="bias must be float32"):
        linear(torch.ones(2, 3), torch.ones(5, 3), torch.zeros(2, 5), bias=np.zeros(5, ">f4"))


def test_numbers_and_flags() -> None:
    with pytest.raises(TypeError, match="causal must be True or False"):
        attention(causal=torch.zeros(2))
    with pytest.raises(TypeError, match="must be real number"):
        attention(scale="0.3")
    rows = torch.ones(2, 1, 4)
    with pytest.raises(ValueError, match="epsilon must not be negative"):
        NATIVE.rms_norm(rows, torch.ones(4), -1.0, rows.clone())
    with pytest.raises(TypeError):
        NATIVE.set_isa(None)
    with pytest.raises(ValueError, match="isa must be"):
        NATIVE.set_isa("auto\0")


def test_plans_that_were_never_made() -> None:
    """__new__ alone leaves memory that nobody wrote."""
    frames = np.zeros((1, 4, 4, 3), np.uint8)
    for plan in (NATIVE.FramePlan.__new__(NATIVE.FramePlan), None, 3):
        with pytest.raises(TypeError, match="plan"):
            NATIVE.resize_frames(plan, frames, frames.copy())


def test_arguments_that_take_others_away() -> None:
    """Their methods run Python code while a call reads its arguments: what was read first was no longer there."""
    q = torch.randn(1, 2, 8)

    class Thief:
        def __float__(self) -> float:
            q.untyped_storage().resize_(0)
            gc.collect()
            return 0.3

        def __dlpack__(self, **asked: object) -> Any:
            float(self)
            return torch.empty(1, 2, 8).__dlpack__(**asked)

    with pytest.raises(ValueError, match="q has no memory"):
        attention(q=q, scale=Thief())
    q = torch.randn(1, 2, 8)
    with pytest.raises(ValueError, match="q has no memory"):
        attention(q=q, out=Thief())


def test_types_that_come_and_go() -> None:
    """Each type of tensor is looked up once and remembered; its class may end meanwhile."""
    for i in range(5):
        kind = type(f"Kind{i}", (torch.Tensor,), {})
        gate = torch.ones(2, 3).as_subclass(kind)
        NATIVE.silu_mul(gate, torch.ones(2, 3))
        del gate, kind
        gc.collect()


def test_one_plan_in_many_threads() -> None:
    plan = NATIVE.FramePlan(6, 7, [ONE_STEP])
    frames = np.random.default_rng(0).integers(0, 256, (2, 6, 7, 3), np.uint8)
    wanted = np.zeros((2, 3, 4, 3), np.uint8)
    NATIVE.resize_frames(plan, frames, wanted)
    wrong: list[int] = []

    def work(number: int) -> None:
        rng, out = np.random.default_rng(number), np.zeros_like(wanted)
        for _ in range(300):
            out[:] = rng.integers(256)
            NATIVE.resize_frames(plan, frames, out)
            if not np.array_equal(out, wanted):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
