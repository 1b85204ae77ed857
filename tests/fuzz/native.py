"""Calls every function of the extension with arguments between forbidden pages: right ones and wrong ones.

Each tensor ends (or begins) beside a page that nobody may touch, and what a function may only read is read-only for the
whole process, so a stray access ends it. A right call must give what the reference gives and change nothing else. A
wrong one must raise ValueError or TypeError and change nothing, unless it is right after all. Nothing else may happen:
the calls run in a child process, and one that dies is reported with the number that repeats it.

    python tests/fuzz/native.py [--long] [--calls N] [--seed S] [--only NUMBER]

`make sanitize` runs the same on an extension with AddressSanitizer and UBSan.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import mmap
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vzoom.kernels import extension
from vzoom.kernels.declare import DECLARED
from vzoom.kernels.frames_to_patches.reference import Arguments as FrameArguments
from vzoom.kernels.frames_to_patches.reference import frames_to_patches as reference_patches
from vzoom.kernels.suite import example

SHORT_CALLS, LONG_CALLS = 2_000, 50_000
FLOATS = (torch.float32, torch.bfloat16, torch.float16)
INDEX = (torch.int32, torch.int64)

# ---------------------------------------------------------------- memory

PAGE = mmap.PAGESIZE
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_NONE, _READ, _WRITE = 0, 1, 3


class Arena:
    """Memory between two pages that nobody may touch."""

    def __init__(self, num_pages: int = 128) -> None:
        self.size = num_pages * PAGE
        self._map = mmap.mmap(-1, self.size + 2 * PAGE)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._map)) + PAGE
        self._protect(self.address - PAGE, PAGE, _NONE)
        self._protect(self.address + self.size, PAGE, _NONE)
        self.bytes = np.frombuffer((ctypes.c_uint8 * self.size).from_address(self.address), np.uint8)
        self.torch = torch.from_numpy(self.bytes)

    def _protect(self, address: int, size: int, how: int) -> None:
        if _libc.mprotect(address, size, how) != 0:
            raise OSError(ctypes.get_errno(), "mprotect")

    def writable(self, yes: bool) -> None:
        self._protect(self.address, self.size, _WRITE if yes else _READ)


BITS = {
    torch.float32: np.float32,
    torch.float64: np.float64,
    torch.float16: np.float16,
    torch.bfloat16: np.uint16,
    torch.uint8: np.uint8,
    torch.int32: np.int32,
    torch.int64: np.int64,
}
DLPACK = {  # code, bits
    torch.float32: (2, 32),
    torch.float64: (2, 64),
    torch.float16: (2, 16),
    torch.bfloat16: (4, 16),
    torch.uint8: (1, 8),
    torch.int32: (0, 32),
    torch.int64: (0, 64),
}


def to_numpy(values: Tensor) -> np.ndarray:
    """The same bits; bfloat16 as uint16."""
    values = values.view(torch.int16) if values.dtype == torch.bfloat16 else values
    return values.numpy().view(BITS[torch.bfloat16]) if values.dtype == torch.int16 else values.numpy()


def to_torch(values: np.ndarray, dtype: torch.dtype) -> Tensor:
    """The other way."""
    copied = values.copy(order="C")
    return torch.from_numpy(copied.view(np.int16)).view(dtype) if dtype == torch.bfloat16 else torch.from_numpy(copied)


# ---------------------------------------------------------------- DLPack of our own, which can say anything


class DLTensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("byte_offset", ctypes.c_uint64),
    )


class Managed(ctypes.Structure):
    _fields_ = (("tensor", DLTensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p))


class Versioned(ctypes.Structure):
    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", DLTensor),
    )


_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.restype, _new_capsule.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]


class Lender:
    """Lends a tensor through DLPack, of the first version or of the one with flags."""

    def __init__(self, address: int, shape: list[int], strides: list[int] | None, dtype: torch.dtype) -> None:
        self.shape = (ctypes.c_int64 * max(1, len(shape)))(*shape)
        self.strides = None if strides is None else (ctypes.c_int64 * max(1, len(strides)))(*strides)
        code, bits = DLPACK[dtype]
        self.tensor = DLTensor(address, 1, 0, len(shape), code, bits, 1, ctypes.addressof(self.shape), None, 0)
        if self.strides is not None:
            self.tensor.strides = ctypes.addressof(self.strides)
        self.versioned, self.flags, self.major, self.name = True, 0, 1, b""

    def __dlpack__(self, **asked: object) -> object:
        if asked and not self.versioned:
            raise TypeError("__dlpack__() got an unexpected keyword argument 'max_version'")
        if self.versioned:
            self.managed: Any = Versioned(self.major, 0, None, None, self.flags, self.tensor)
        else:
            self.managed = Managed(self.tensor, None, None)
        self.name = self.name or (b"dltensor_versioned" if self.versioned else b"dltensor")
        return _new_capsule(ctypes.addressof(self.managed), self.name, None)


# ---------------------------------------------------------------- what a call is made of


@dataclass(eq=False)
class Array:
    """One tensor of a call: what is in it, and how it is in memory."""

    values: Tensor
    written: bool = False
    strides: list[int] = field(default_factory=list)  # in elements
    at_end: bool = True
    shift_bytes: int = 0  # from where its elements could be
    lender: str = "torch"
    arena: Arena | None = None
    beside: Array | None = None  # the array in whose memory it is, by mistake
    offset_bytes: int = 0
    change: Callable[[Any, Array], Any] | None = None  # what a mistake makes of the object that is passed

    @property
    def size(self) -> int:
        return self.values.element_size()

    def reach(self) -> tuple[int, int]:
        """Bytes before and after the first element that it touches."""
        if self.values.numel() == 0:
            return 0, 0
        low, high = 0, self.size
        for n, stride in zip(self.values.shape, self.strides, strict=True):
            low, high = low + min(0, (n - 1) * stride) * self.size, high + max(0, (n - 1) * stride) * self.size
        return low, high

    def view(self, memory: np.ndarray) -> np.ndarray:
        steps = [s * self.size for s in self.strides]
        return np.ndarray(tuple(self.values.shape), BITS[self.values.dtype], memory, self.offset_bytes, steps)

    def put(self, arena: Arena) -> None:
        low, high = self.reach()
        self.arena = arena
        self.offset_bytes = arena.size - high - self.shift_bytes if self.at_end else -low + self.shift_bytes
        if self.values.numel():
            self.view(arena.bytes)[...] = to_numpy(self.values)

    def read(self) -> Tensor:
        assert self.arena is not None
        return to_torch(self.view(self.arena.bytes), self.values.dtype) if self.values.numel() else self.values

    def passed(self) -> Any:
        """The object that the extension gets."""
        assert self.arena is not None
        shape, dtype = list(self.values.shape), self.values.dtype
        made: Any
        if self.lender == "torch":
            base = self.arena.torch.untyped_storage()
            made = torch.empty(0, dtype=dtype).set_(base, self.offset_bytes // self.size, shape, self.strides)
        elif self.lender == "numpy":
            made = self.view(self.arena.bytes)
        else:
            made = Lender(self.arena.address + self.offset_bytes, shape, self.strides, dtype)
            made.versioned = self.lender == "dlpack1"
        return made if self.change is None else self.change(made, self)


@dataclass
class Call:
    """A function, its arguments by name, and whether it must be refused."""

    function: str
    arguments: dict[str, Any]
    wrong: str = ""  # what the mistake is
    must_raise: bool = False
    undefined: bool = False  # what it gives, if it is accepted
    expected: Callable[[dict[str, Any]], dict[str, Tensor]] | None = None  # default: the op's reference

    def arrays(self) -> list[Array]:
        return [a for a in self.arguments.values() if isinstance(a, Array)]

    def __str__(self) -> str:
        parts = [
            f"{name}={a.lender}{list(a.values.shape)}{a.strides} {a.values.dtype} +{a.shift_bytes}{'^$'[a.at_end]}"
            if isinstance(a, Array)
            else f"{name}={a!r}"
            for name, a in self.arguments.items()
        ]
        return f"{self.function}({', '.join(parts)}) {self.wrong}"


class Source:
    """Everything random of one call."""

    def __init__(self, seed: str) -> None:
        self.random = random.Random(seed)
        self.torch = torch.Generator().manual_seed(self.random.getrandbits(60))

    def size(self, most: int, least: int = 1) -> int:
        """Often small, sometimes zero."""
        r = self.random
        if r.random() < 0.02:
            return 0
        return r.choice((least, most, r.randint(least, most), r.randint(least, max(least, most // 4))))

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def normal(self, *shape: int, dtype: torch.dtype) -> Tensor:
        return torch.randn(shape, generator=self.torch).to(dtype)

    def numbers(self, values: list[int], dtype: torch.dtype = torch.int64) -> Tensor:
        return torch.tensor(values, dtype=dtype)


# ---------------------------------------------------------------- right calls


def copy_blocks(s: Source) -> dict[str, Any]:
    blocks = s.size(7)
    shape = (s.size(2), blocks, s.size(3), s.size(9), s.size(40))
    dtype = s.random.choice((*FLOATS, torch.float64, torch.uint8))
    order = s.random.sample(range(blocks), blocks)
    copies = s.random.randint(0, blocks // 2)
    sources, targets = [s.random.choice(order[copies:]) for _ in range(copies)], order[:copies]
    for numbers in (sources, targets):
        numbers[:] = [-s.random.choice((1, 7, 2**62)) if s.chance(0.1) else n for n in numbers]
    pages = {n: (torch.rand(shape, generator=s.torch) * 200).to(dtype) for n in ("k_pages", "v_pages")}
    return {**pages, "sources": s.numbers(sources), "targets": s.numbers(targets)}


def linear(s: Source) -> dict[str, Any]:
    rows, inputs, outputs, dtype = s.size(20), s.size(150), s.size(140), s.random.choice(FLOATS)
    gate = s.chance(0.5)

    def maybe(given: bool, *shape: int) -> Tensor | None:
        return s.normal(*shape, dtype=dtype) if given else None

    return {
        "x": s.normal(rows, inputs, dtype=dtype),
        "weight": (s.normal(outputs, inputs, dtype=torch.float32) * 0.1).to(dtype),
        "bias": maybe(s.chance(0.5), outputs),
        "gate": maybe(gate, outputs, inputs),
        "gate_bias": maybe(gate and s.chance(0.5), outputs),
        "add": maybe(s.chance(0.5), rows, outputs),
        "out": s.normal(rows, outputs, dtype=dtype),
    }


def merge_states(s: Source) -> dict[str, Any]:
    shape, dtype = (s.size(9), s.size(4), s.size(70)), s.random.choice(FLOATS)
    a, b, out = (s.normal(*shape, dtype=dtype) for _ in range(3))
    lse_a, lse_b, lse = (s.normal(*shape[:2], dtype=torch.float32) * 4 for _ in range(3))
    if lse_a.numel() and s.chance(0.3):
        lse_a[0, 0] = -torch.inf
    return {"out_a": a, "lse_a": lse_a, "out_b": b, "lse_b": lse_b, "out": out, "lse": lse if s.chance(0.7) else None}


def mrope_append(s: Source) -> dict[str, Any]:
    tokens, heads, groups, pairs, dtype = s.size(9), s.size(5), s.size(3), s.size(40), s.random.choice(FLOATS)
    blocks, block_size = s.size(5), s.size(8)
    angles = s.random.choice((dtype, torch.float32))
    slots = s.random.sample(range(blocks * block_size), min(tokens, blocks * block_size))
    slots += [-1] * (tokens - len(slots))
    slots = [-(2**61) if s.chance(0.1) else n for n in slots]
    rotated = s.chance(0.8)
    pages = {n: s.normal(blocks, groups, block_size, 2 * pairs, dtype=dtype) for n in ("k_pages", "v_pages")}
    return {
        "q": s.normal(tokens, heads, 2 * pairs, dtype=dtype) if rotated and s.chance(0.8) else None,
        "k": s.normal(tokens, groups, 2 * pairs, dtype=dtype),
        "v": s.normal(tokens, groups, 2 * pairs, dtype=dtype),
        "cos": s.normal(tokens, pairs, dtype=angles) if rotated else None,
        "sin": s.normal(tokens, pairs, dtype=angles) if rotated else None,
        **pages,
        "slots": s.numbers(slots),
    }


def paged_attention(s: Source) -> dict[str, Any]:
    groups, per_group, dim, dtype = s.size(3), s.size(5), s.size(70), s.random.choice(FLOATS)
    if dim == 0 or groups == 0:
        groups, dim = 1, 1
    blocks, block_size, sequences = s.size(9), max(1, s.size(40)), s.size(4)
    most = s.size(6)
    table = [[s.random.randrange(blocks) if blocks else 0 for _ in range(most)] for _ in range(sequences)]
    longest = most * block_size if blocks else 0
    lengths = [s.random.randint(0, longest) for _ in range(sequences)]
    queries = [s.random.choice((0, 1, 1, s.random.randint(1, 30))) for _ in range(sequences)]
    starts = [sum(queries[:i]) for i in range(sequences + 1)]
    for row, length in zip(table, lengths, strict=True):  # what is not read may be anything
        row[-(-length // block_size) :] = [s.random.choice((-1, 2**31 - 1)) for _ in row[-(-length // block_size) :]]
    shape = (starts[-1], groups * per_group, dim)
    pages = {n: s.normal(blocks, groups, block_size, dim, dtype=dtype) for n in ("k_pages", "v_pages")}
    return {
        "q": s.normal(*shape, dtype=dtype),
        **pages,
        "block_table": torch.tensor(table, dtype=torch.int32).reshape(sequences, most),
        "kv_lens": s.numbers(lengths, torch.int32),
        "cu_seqlens_q": s.numbers(starts, torch.int32),
        "out": s.normal(*shape, dtype=dtype),
        "lse": s.normal(*shape[:2], dtype=torch.float32) if s.chance(0.5) else None,
        "scale": s.random.choice((0.3, 1.0, 1e-3)),
        "causal": s.chance(0.7),
    }


def rms_norm(s: Source) -> dict[str, Any]:
    shape, dtype = (s.size(9), s.size(4), s.size(150)), s.random.choice(FLOATS)
    x, out = s.normal(*shape, dtype=dtype), s.normal(*shape, dtype=dtype)
    return {"x": x, "weight": s.normal(shape[2], dtype=dtype), "epsilon": 1e-6, "out": out}


def silu_mul(s: Source) -> dict[str, Any]:
    shape, dtype = (s.size(9), s.size(200)), s.random.choice(FLOATS)
    return {"gate": s.normal(*shape, dtype=dtype), "up": s.normal(*shape, dtype=dtype)}


def splice_move(s: Source) -> dict[str, Any]:
    layers, blocks, groups, block_size, pairs = s.size(2), s.size(6), s.size(3), s.size(9), s.size(40)
    shape, dtype, slots = (layers, blocks, groups, block_size, 2 * pairs), s.random.choice(FLOATS), blocks * block_size
    begin, count = s.random.randint(0, slots // 2), s.random.randint(0, slots // 2)
    if s.chance(0.5):  # runs of neighbours
        sources, targets = list(range(slots // 2))[begin:][:count], list(range(slots // 2, slots))[:count]
        count = min(len(sources), len(targets))
        sources, targets = sources[:count], targets[:count]
    else:
        order = s.random.sample(range(slots), slots)
        sources, targets = order[:count], order[count : 2 * count]
    sources = [-1 if s.chance(0.1) else n for n in sources]
    rotated = s.chance(0.6)
    pages = {n: s.normal(*shape, dtype=dtype) for n in ("k_pages", "v_pages")}
    angles = {n: s.normal(pairs, dtype=torch.float32) if rotated else None for n in ("cos", "sin")}
    return {**pages, "sources": s.numbers(sources), "targets": s.numbers(targets), **angles}


MAKERS = (copy_blocks, linear, merge_states, mrope_append, paged_attention, rms_norm, silu_mul, splice_move)
OPS = tuple(maker.__name__ for maker in MAKERS)
WRITTEN = {
    "copy_blocks": {"k_pages", "v_pages"},
    "linear": {"out"},
    "merge_states": {"out", "lse"},
    "mrope_append": {"q", "k_pages", "v_pages"},
    "paged_attention": {"out", "lse"},
    "rms_norm": {"out"},
    "silu_mul": {"gate"},
    "splice_move": {"k_pages", "v_pages"},
    "frames_to_patches": {"out"},
    "resize_frames": {"out"},
}


@dataclass
class Plan:
    """A plan of frames and what it was made from: (first, weights) of both axes of each step, and the order."""

    height: int
    width: int
    steps: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, bool]]

    @property
    def out_size(self) -> tuple[int, int]:
        return (len(self.steps[-1][2]), len(self.steps[-1][0])) if self.steps else (self.height, self.width)

    def make(self) -> Any:
        return extension.module.FramePlan(self.height, self.width, self.steps)

    def resize(self, frames: np.ndarray) -> np.ndarray:
        for h_first, h_weights, v_first, v_weights, vertical_first in self.steps:
            for axis in (1, 2) if vertical_first else (2, 1):
                first, weights = (v_first, v_weights) if axis == 1 else (h_first, h_weights)
                if len(first) != frames.shape[axis]:
                    frames = run_pass(frames, first, weights, axis)
        return frames


def run_pass(frames: np.ndarray, first: np.ndarray, weights: np.ndarray, axis: int) -> np.ndarray:
    moved = np.moveaxis(frames, axis, 0).astype(np.int64)
    total = np.full((len(first), *moved.shape[1:]), 1 << 21, np.int64)
    for j in range(weights.shape[1]):
        at = np.minimum(first + j, len(moved) - 1)
        total += moved[at] * weights[:, j].reshape(-1, *[1] * (moved.ndim - 1))
    return np.moveaxis(np.clip(total >> 22, 0, 255).astype(np.uint8), 0, axis)


def random_pass(s: Source, size: int, made: int) -> tuple[np.ndarray, np.ndarray]:
    """Any inputs in any order, weights that add up to about one, zeros after the last."""
    taps = s.random.randint(1, min(size, 9))
    first = np.array([s.random.randint(0, size - taps) for _ in range(made)], np.int32)
    if s.chance(0.7):
        first.sort()
    weights = np.array([[s.random.randint(-(1 << 19), 1 << 20) for _ in range(taps)] for _ in range(made)], np.int32)
    weights //= max(1, taps // 4)
    return first, np.pad(weights, ((0, 0), (0, s.random.randint(0, 3))))


def frames(s: Source) -> Call:
    patch, merge, temporal = s.random.choice((1, 2, 5, 8, 14, 16, 20)), s.random.choice((1, 2)), s.random.choice((1, 2))
    height, width = s.random.randint(1, 60), s.random.randint(1, 60)
    sides = [s.random.randint(1, 60 // (patch * merge)) * patch * merge for _ in range(2)]
    steps, (h, w) = [], (height, width)
    for to_h, to_w in s.random.choice(([], [sides], [(s.random.randint(1, 50), s.random.randint(1, 50)), sides])):
        steps.append((*random_pass(s, w, to_w), *random_pass(s, h, to_h), s.chance(0.5)))
        h, w = to_h, to_w
    plan = Plan(height, width, steps) if steps else Plan(sides[0], sides[1], [])
    num = s.size(3)
    pixels = torch.randint(0, 256, (num, plan.height, plan.width, 3), generator=s.torch, dtype=torch.uint8)
    h, w = plan.out_size
    if s.chance(0.3):
        out = torch.zeros(num, h, w, 3, dtype=torch.uint8)
        expected = lambda given: {"out": torch.from_numpy(plan.resize(given["frames"].numpy()))}  # noqa: E731
        return Call("resize_frames", {"plan": plan, "frames": pixels, "out": out}, expected=expected)
    table = s.normal(3, 256, dtype=s.random.choice(FLOATS))
    out = torch.zeros(num * (h // patch) * (w // patch), 3 * temporal * patch**2, dtype=table.dtype)

    def patches(given: dict[str, Any]) -> dict[str, Tensor]:
        resized = torch.from_numpy(plan.resize(given["frames"].numpy()))
        sizes = given["patch"], given["merge"], given["temporal"]
        reference_patches(FrameArguments(resized, given["table"], given["out"], [], *sizes))
        return {"out": given["out"]}

    sizes = {"patch": patch, "merge": merge, "temporal": temporal}
    arguments = {"plan": plan, "frames": pixels, "table": table, "out": out, **sizes}
    return Call("frames_to_patches", arguments, expected=patches)


# ---------------------------------------------------------------- how tensors are in memory


def lay_out(s: Source, call: Call) -> None:
    """Give each tensor strides, a lender and a place."""
    dense = {"table"} | ({"out"} if call.function in ("frames_to_patches", "resize_frames") else set())
    # int32 arrays are read as whole rows, frames as whole rows of pixels.
    for name, value in list(call.arguments.items()):
        if not isinstance(value, Tensor):
            continue
        array = Array(value.contiguous(), name in WRITTEN[call.function])
        array.strides = list(array.values.stride())
        array.at_end = s.chance(0.7)
        if name not in dense:
            random_strides(s, array, fixed=2 if name == "frames" else 1)
        negative = any(n < 0 for n in array.strides)
        lenders = ["dlpack", "dlpack1"] + ["numpy"] * (value.dtype != torch.bfloat16) + ["torch"] * (3 * (not negative))
        array.lender = s.random.choice(lenders)
        call.arguments[name] = array


def random_strides(s: Source, array: Array, fixed: int) -> None:
    """Any order of all dimensions but the last `fixed`, room between them, backwards, and repeated if only read."""
    values = array.values
    ndim = values.ndim
    index_like = values.dtype == torch.int64 and ndim == 1
    fixed = 0 if index_like else fixed
    reach = 1
    for d in range(ndim - 1, ndim - 1 - fixed, -1):
        array.strides[d] = reach
        reach *= values.shape[d]
    others = list(range(ndim - fixed))
    if s.chance(0.5):
        s.random.shuffle(others)
    else:
        others.reverse()
    for d in others:
        size = values.shape[d]
        if size < 2:
            array.strides[d] = s.random.choice((0, 1, -1, reach, 2**40))
            continue
        if not array.written and values.dtype not in INDEX and s.chance(0.08):
            array.strides[d] = 0
            values = array.values = values.narrow(d, 0, 1).expand(values.shape).contiguous()
            continue
        stride = max(1, reach) + (s.random.randint(0, 5) if s.chance(0.4) else 0)
        array.strides[d] = -stride if s.chance(0.08) else stride
        reach += stride * (size - 1)


# ---------------------------------------------------------------- mistakes

Mistake = Callable[[Source, Call], None]


def pick(s: Source, call: Call, *, written: bool | None = None, least: int = 0) -> tuple[str, Array] | None:
    """One of the tensors."""
    found = [
        (name, a)
        for name, a in call.arguments.items()
        if isinstance(a, Array) and written in (None, a.written) and a.values.numel() >= least
    ]
    return s.random.choice(found) if found else None


def read_only(s: Source, call: Call) -> None:
    found = pick(s, call, written=True)
    if found is None:
        return
    name, array = found
    array.lender = s.random.choice(["dlpack1"] + ["numpy"] * (array.values.dtype != torch.bfloat16))
    flag = s.random.choice((1, 2, 3))

    def change(made: Any, _: Array) -> Any:
        if isinstance(made, Lender):
            made.flags = flag
        elif isinstance(made, np.ndarray):
            made.flags.writeable = False
        return made

    array.change = change
    call.wrong, call.must_raise = f"{name} is read-only", True


def folded_output(s: Source, call: Call) -> None:
    found = pick(s, call, written=True, least=2)
    if found is None:
        return
    name, array = found
    wide = [d for d, n in enumerate(array.values.shape) if n > 1 and d < array.values.ndim - 1]
    if not wide:
        return
    array.strides[s.random.choice(wide)] = s.random.choice((0, 0, array.values.shape[-1] - 1))
    array.values = array.read() if array.arena else array.values
    if array.lender == "numpy" and array.values.dtype == torch.bfloat16:
        array.lender = "dlpack"
    call.wrong, call.must_raise = f"{name} is folded", True


def same_memory(s: Source, call: Call) -> None:
    """Two arguments in one place, or in overlapping ones."""
    found = pick(s, call, written=True, least=1)
    if found is None:
        return
    name, array = found
    others = [n for n, a in call.arguments.items() if isinstance(a, Array) and a is not array and a.values.numel()]
    if not others:
        return
    other = s.random.choice(others)
    if s.chance(0.3):
        call.arguments[other] = array
        call.wrong, call.must_raise = f"{name} is {other}", True
        return
    call.arguments[other].at_end = array.at_end  # both touch the same border
    call.arguments[other].shift_bytes = array.shift_bytes = 0
    call.arguments[other].beside = array
    call.wrong, call.must_raise = f"{name} overlaps {other}", True


def misaligned(s: Source, call: Call) -> None:
    found = pick(s, call, least=1)
    if found is None or found[1].size == 1:
        return
    name, array = found
    array.shift_bytes = s.random.randint(1, array.size - 1)
    array.lender = s.random.choice(
        ("dlpack", "dlpack1") if array.values.dtype == torch.bfloat16 else ("numpy", "dlpack")
    )
    call.wrong, call.must_raise = f"{name} is misaligned", True


def other_dtype(s: Source, call: Call) -> None:
    found = pick(s, call)
    if found is None:
        return
    name, array = found
    dtype = s.random.choice([d for d in BITS if d != array.values.dtype])
    array.values = array.values.double().nan_to_num(0, 0, 0).clamp(-(2**30), 2**30).to(dtype)
    array.lender = s.random.choice(("dlpack", "dlpack1"))
    call.wrong = f"{name} is {dtype}"


def other_shape(s: Source, call: Call) -> None:
    found = pick(s, call)
    if found is None:
        return
    name, array = found
    kind = s.random.choice(("size", "size", "zero", "ndim", "flat"))
    shape = list(array.values.shape)
    if kind in ("size", "zero") and shape:
        d = s.random.randrange(len(shape))
        shape[d] = 0 if kind == "zero" else max(0, shape[d] + s.random.choice((-1, 1)))
        values = torch.zeros(shape, dtype=array.values.dtype)
        cut = tuple(slice(0, min(a, b)) for a, b in zip(shape, array.values.shape, strict=True))
        values[cut] = array.values[cut]
    else:
        values = array.values.flatten() if kind == "flat" else array.values.unsqueeze(0)
    array.values, array.strides = values.contiguous(), list(values.contiguous().stride())
    call.wrong = f"{name} has shape {list(values.shape)}"


def gaps_in_rows(s: Source, call: Call) -> None:
    found = pick(s, call, least=2)
    if found is None:
        return
    name, array = found
    array.strides = [2 * n for n in array.values.contiguous().stride()]
    call.wrong = f"{name} has gaps in its rows"


def not_a_tensor(s: Source, call: Call) -> None:
    name = s.random.choice(list(call.arguments))
    call.arguments[name] = s.random.choice(
        (None, "text", 7, -1, 2.5, [1, 2], object(), b"bytes", 2**70, 1e300, True, {})
    )
    call.wrong = f"{name} is something else"


class Strange:
    """Its __dlpack__ does what it likes."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def __dlpack__(self, **asked: object) -> Any:
        if isinstance(self.answer, type):
            raise self.answer("no")
        return self.answer


def strange_lender(s: Source, call: Call) -> None:
    """What no honest library lends: the views must be refused before they are used."""
    found = pick(s, call, least=1)
    if found is None:
        return
    name, array = found
    array.lender = s.random.choice(("dlpack", "dlpack1"))
    kind = s.random.randrange(12)
    big = s.random.choice((2**31, 2**40, 2**62, 2**63 - 1))

    def change(made: Any, _: Array) -> Any:
        if not isinstance(made, Lender):
            return made  # another mistake took another lender
        tensor = made.tensor
        if kind == 0:
            tensor.data = None
        elif kind == 1:
            tensor.ndim = s.random.choice((-1, 7, 2**31 - 1))
        elif kind == 2:
            made.shape[0] = -big
        elif kind == 3 and made.strides is not None:  # broadcast to more than there can be
            made.shape[0], made.strides[0] = 2**62, 0
        elif kind == 4 and made.strides is not None:
            made.shape[0], made.strides[0] = 2, big if big > 2**48 else 2**62
        elif kind == 5:
            tensor.lanes = 4
        elif kind == 6:
            tensor.code, tensor.bits = s.random.choice(((5, 64), (6, 8), (2, 8), (17, 4), (0, 16)))
        elif kind == 7:
            tensor.device_type = s.random.choice((2, 10, 13, 14, 0))
        elif kind == 8:
            made.versioned, made.major = True, 2
        elif kind == 9:
            made.name = s.random.choice((b"used_dltensor", b"other"))
        elif kind == 10:
            return Strange(s.random.choice((None, 5, "text", ValueError, RuntimeError, BufferError)))
        else:
            tensor.strides = None
            tensor.shape = ctypes.addressof(huge := (ctypes.c_int64 * 8)(*[2**40] * 8))
            made.huge = huge
        return made

    array.change = change
    call.wrong, call.must_raise = f"{name} is lent strangely ({kind})", True


def wrong_number(s: Source, call: Call) -> None:
    names = [n for n, a in call.arguments.items() if isinstance(a, int | float)]
    if not names:
        return
    name = s.random.choice(names)
    bad: list[Any] = [
        float("nan"),
        float("inf"),
        1e300,
        None,
        "1",
        2**31,
        2**63,
        -(2**63),
        [],
        1 << 200,
        -1,
        0,
        65536,
        2**30,
    ]
    call.arguments[name] = s.random.choice(bad)
    call.wrong = f"{name} = {call.arguments[name]!r}"


def wrong_index(s: Source, call: Call) -> None:
    """Slots, blocks and lengths that are out of range."""
    names = [
        n for n, a in call.arguments.items() if isinstance(a, Array) and a.values.dtype in INDEX and a.values.numel()
    ]
    if not names:
        return
    name = s.random.choice(names)
    array = call.arguments[name]
    values = array.values.clone()
    most = 2**31 - 1 if values.dtype == torch.int32 else 2**63 - 1
    at = s.random.randrange(values.numel())
    next_one = min(most, int(values.view(-1)[at]) + 1)
    values.view(-1)[at] = s.random.choice((most, -most, most // 2, 10**6, -1, next_one, 0))
    array.values = values
    call.wrong = f"{name}[{at}] = {int(values.view(-1)[at])}"
    call.undefined = values.dtype == torch.int64  # two tokens may go to one slot


def one_index(s: Source, call: Call) -> None:
    """All slots or lengths are one number in memory."""
    names = [n for n, a in call.arguments.items() if isinstance(a, Array) and a.values.dtype in INDEX]
    if not names:
        return
    name = s.random.choice(names)
    array = call.arguments[name]
    if array.values.numel() < 2:
        return
    d = s.random.randrange(array.values.ndim)
    array.values = array.values.narrow(d, 0, 1).expand(array.values.shape).contiguous()
    array.strides[d], array.lender = 0, s.random.choice(("torch", "numpy", "dlpack"))
    call.wrong, call.undefined = f"{name} is broadcast", True


def wrong_plan(s: Source, call: Call) -> None:
    """Weights that read elsewhere, no outputs, no numbers."""
    plan = call.arguments.get("plan")
    if not isinstance(plan, Plan):
        return
    steps = [list(step) for step in plan.steps]
    kind = s.random.randrange(9)
    height, width = plan.height, plan.width
    if kind == 0 or not steps:
        height, width = s.random.choice(((0, 0), (-1, 5), (2**31 - 1, 2**31 - 1), (65537, 1), (2**40, 1)))
    else:
        step = s.random.choice(steps)
        at = s.random.choice((0, 2))
        if kind == 1:
            step[at], step[at + 1] = np.zeros(0, np.int32), np.zeros((0, 4), np.int32)
        elif kind == 2:
            step[at + 1] = np.zeros((len(step[at]), 0), np.int32)
        elif kind == 3:
            step[at] = step[at] + s.random.choice((-1000, 1000, 2**31 - 1))
        elif kind == 4:
            step[at + 1] = np.full_like(step[at + 1], s.random.choice((2**31 - 1, -(2**31), 2**23)))
        elif kind == 5:
            step[at] = step[at].astype(np.int64)
        elif kind == 6:
            step[4] = s.random.choice((2, None, "yes"))
        elif kind == 7:
            steps = steps * 20
        else:
            step.pop()
    call.arguments["plan"] = Plan(height, width, [tuple(step) for step in steps])  # type: ignore[misc]
    call.wrong, call.must_raise = f"plan ({kind})", True


def other_plan(s: Source, call: Call) -> None:
    """A plan of other frames, or none."""
    if "plan" not in call.arguments:
        return
    native = extension.module
    bare = native.FramePlan.__new__(native.FramePlan)
    call.arguments["plan"] = s.random.choice((None, 3, bare, native.FramePlan(1, 70, []), native.FramePlan))
    call.wrong, call.must_raise = "another plan", True


MISTAKES: tuple[Mistake, ...] = (
    read_only,
    folded_output,
    same_memory,
    misaligned,
    other_dtype,
    other_shape,
    gaps_in_rows,
    not_a_tensor,
    strange_lender,
    wrong_number,
    wrong_index,
    one_index,
    wrong_plan,
    other_plan,
)

# ---------------------------------------------------------------- running a call


def make(s: Source) -> Call:
    """A call, right or wrong."""
    maker = s.random.choice((*MAKERS, frames, frames))
    call = frames(s) if maker is frames else Call(maker.__name__, maker(s))  # type: ignore[operator]
    lay_out(s, call)
    mistakes = s.random.choice((0, 0, 1, 1, 1, 2))
    for _ in range(mistakes):
        s.random.choice(MISTAKES)(s, call)
    call.must_raise &= mistakes == 1  # the second may undo the first
    return call


class Failure(AssertionError):
    """The extension did what it must not do."""


def expected_of(call: Call, given: dict[str, Any]) -> dict[str, Tensor]:
    """What the written tensors hold afterwards, by the reference."""
    given = {n: v.clone() if isinstance(v, Tensor) else v for n, v in given.items()}
    if call.expected is not None:
        return call.expected(given)
    declared = DECLARED[call.function]
    declared.reference(declared.arguments(*given.values()))
    return {n: v for n, v in given.items() if n in WRITTEN[call.function] and isinstance(v, Tensor)}


def exactly(given: dict[str, Any]) -> dict[str, Any]:
    return {
        n: v.double() if isinstance(v, Tensor) and v.is_floating_point() and n != "table" else v
        for n, v in given.items()
    }


def compare(call: Call, given: dict[str, Any]) -> None:
    """The written tensors against the reference: twice the suite's tolerance, and room for sums that cancel."""
    try:
        wanted = expected_of(call, given)
        truth = wanted if call.expected is not None else expected_of(call, exactly(given))
    except Exception as error:
        raise Failure(f"accepted what the reference refuses: {type(error).__name__}: {error}") from error
    for name, want in wanted.items():
        got, exact = call.arguments[name].read().double(), truth[name].double()
        same = (got == exact) | (got.isnan() & exact.isnan())
        if not got.isfinite().equal(exact.isfinite()) or not same[~exact.isfinite()].all():
            raise Failure(f"{name}: not the same values are finite")
        difference, of_torch = (got - exact)[~same].abs(), (want.double() - exact)[~same].abs()
        if not difference.numel() or not exact.isfinite().any():
            continue
        unit = torch.finfo(want.dtype).eps if want.is_floating_point() else 0
        finite = exact[exact.isfinite()].abs().max()
        allowed = 4 * of_torch.nan_to_num(0, 0, 0).max() + 16 * unit * (1 + finite)
        if difference.max() > allowed:
            raise Failure(f"{name}: error {float(difference.max()):.3g}, allowed {float(allowed):.3g}")


def run(call: Call, arenas: list[Arena]) -> bool:
    """Run it and look at everything afterwards. Returns whether it was accepted."""
    free = iter(arenas)
    arrays = {id(a): a for a in call.arrays()}
    entangled = [
        a for a in arrays.values() if a.beside is not None and id(a.beside) in arrays and a.beside.beside is None
    ]
    for array in arrays.values():
        if array not in entangled:
            array.put(next(free))
    for array in entangled:
        array.put(array.beside.arena)  # type: ignore[union-attr, arg-type]
    given = {n: a.read() if isinstance(a, Array) else a for n, a in call.arguments.items()}
    for name in {"scale", "epsilon"} & {n for n, a in given.items() if isinstance(a, int)}:
        given[name] = float(min(given[name], 2**100))
    before = {id(a.arena): a.arena.bytes.copy() for a in arrays.values() if a.arena is not None}
    kept = {id(a.arena) for a in arrays.values() if a.written}
    raised: Exception | None = None
    try:
        passed = {n: a.passed() if isinstance(a, Array) else a for n, a in call.arguments.items()}
        if isinstance(passed.get("plan"), Plan):
            passed["plan"] = passed["plan"].make()
        for array in arrays.values():
            if array.arena is not None:
                array.arena.writable(id(array.arena) in kept)
        getattr(extension.module, call.function)(*passed.values())
    except (ValueError, TypeError) as error:
        raised = error
    finally:
        for array in arrays.values():
            if array.arena is not None:
                array.arena.writable(True)
    if raised is not None:
        if not call.wrong:
            raise Failure(f"refused what is right: {raised}") from raised
        for array in arrays.values():
            if array.arena is not None and not np.array_equal(array.arena.bytes, before[id(array.arena)]):
                raise Failure(f"refused, but wrote before: {raised}")
        return False
    if call.must_raise:
        raise Failure("accepted what must be refused")
    if not call.undefined:
        compare(call, given)
    for name, array in call.arguments.items():
        if isinstance(array, Array) and array.arena is not None:
            now = array.arena.bytes.copy()
            if array.written and array.values.numel():
                array.view(now)[...] = array.view(before[id(array.arena)])
            if not np.array_equal(now, before[id(array.arena)]):
                raise Failure(f"something beside {name} was written")
    return True


def make_and_run(seed: int, number: int, arenas: list[Arena], verbose: bool = False) -> bool:
    """Call `number` of a run."""
    s = Source(f"{seed}:{number}")
    native = extension.module
    names = [n for n in ("scalar", "avx2", "avx512", "avx512bf16") if n in _isas()]
    native.set_isa(s.random.choice(names))
    torch.set_num_threads(s.random.choice((1, 1, 1, 3)))
    call = make(s)
    if verbose:
        print(f"{seed}:{number} {native.isa()} {call}", flush=True)
    try:
        return run(call, arenas)
    except Failure as failure:
        raise Failure(f"call {number} of seed {seed} ({native.isa()}): {call}\n  {failure}") from failure


def _isas() -> list[str]:
    found = ["scalar"]
    for name in ("avx2", "avx512", "avx512bf16"):
        try:
            extension.module.set_isa(name)
        except ValueError:
            break
        found.append(name)
    return found


# ---------------------------------------------------------------- threads


def race(seconds: float) -> int:
    """Calls in one thread, while others write the numbers that they follow. Noise comes out; nothing may crash."""
    native = extension.module
    native.set_isa("auto")
    until, calls = time.monotonic() + seconds, 0
    blocks, groups, block_size, dim, sequences = 64, 2, 16, 32, 4
    pages = [torch.randn(1, blocks, groups, block_size, dim) for _ in range(2)]
    table = torch.zeros(sequences, 60, dtype=torch.int32)
    lengths, starts = torch.full((sequences,), 900, dtype=torch.int32), torch.arange(5, dtype=torch.int32)
    slots, more = torch.arange(512), torch.arange(512)
    q, out = torch.randn(sequences, 4, dim), torch.empty(sequences, 4, dim)
    k, v = torch.randn(512, groups, dim), torch.randn(512, groups, dim)
    numbers = [table, lengths, slots, more]
    stop = threading.Event()

    def scribble(seed: int) -> None:
        torch.set_num_threads(1)
        source = torch.Generator().manual_seed(seed)
        while not stop.is_set():
            for tensor in numbers:  # right for a moment, then wrong, then right
                tensor.random_(0, 60 if tensor.dtype == torch.int32 else 1024, generator=source)
                tensor.random_(-5, 2**31 - 1, generator=source)
                tensor.fill_(3)

    threads = [threading.Thread(target=scribble, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    try:
        while time.monotonic() < until:
            for attempt in (
                lambda: native.paged_attention(
                    q, pages[0][0], pages[1][0], table, lengths, starts, out, None, 0.1, True
                ),
                lambda: native.mrope_append(None, k, v, None, None, pages[0][0], pages[1][0], slots),
                lambda: native.copy_blocks(*pages, slots, more),
                lambda: native.splice_move(*pages, slots, more, None, None),
            ):
                calls += 1
                with contextlib.suppress(ValueError):
                    attempt()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    return calls


# ---------------------------------------------------------------- the command


def child(seed: int, first: int, calls: int, seconds: float, note: Path) -> None:
    """Run some calls in this process; `note` holds the number of the one that runs."""
    for op in OPS:
        example(op, torch.device("cpu"))  # declares the op
    arenas = [Arena() for _ in range(10)]
    accepted = 0
    with open(note, "r+b") as opened, mmap.mmap(opened.fileno(), 8) as shared:
        for number in range(first, first + calls):
            shared[:8] = number.to_bytes(8, "little")
            accepted += make_and_run(seed, number, arenas, verbose=calls == 1)
        shared[:8] = (2**63).to_bytes(8, "little")
        raced = race(seconds) if seconds else 0
    print(
        f"calls {first} to {first + calls}: {accepted} accepted, {calls - accepted} refused; {raced} calls raced",
        flush=True,
    )


def fuzz(calls: int, seed: int, *, first: int = 0, race_seconds: float = 2.0, per_child: int = 5_000) -> list[str]:
    """Run calls in child processes.

    Args:
        calls: how many.
        seed: of all that is random.
        first: number of the first call.
        race_seconds: how long each child lets threads race afterwards.
        per_child: calls before a new process begins.

    Returns:
        What went wrong, one text for each child that failed.
    """
    found = []
    end = first + calls
    with tempfile.TemporaryDirectory() as folder:
        note = Path(folder) / "number"
        while first < end:
            note.write_bytes(bytes(8))
            count = min(per_child, end - first)
            command = [
                sys.executable,
                __file__,
                "--child",
                str(seed),
                str(first),
                str(count),
                str(race_seconds),
                str(note),
            ]
            done = subprocess.run(command, check=False, stderr=subprocess.PIPE, text=True, env=os.environ)
            if done.returncode == 0:
                first += count
                continue
            at = int.from_bytes(note.read_bytes(), "little")
            where = "the race of threads" if at == 2**63 else f"call {at}: --seed {seed} --only {at}"
            found.append(f"status {done.returncode} at {where}\n{done.stderr[-3000:]}")
            print(found[-1], file=sys.stderr, flush=True)
            first = first + count if at == 2**63 else at + 1
            if len(found) == 10:
                break
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--long", action="store_true", help=f"{LONG_CALLS} calls instead of {SHORT_CALLS}")
    parser.add_argument("--calls", type=int, help="how many")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--only", type=int, metavar="NUMBER", help="this call alone, in words")
    parser.add_argument("--child", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        seed, first, calls, seconds, note = options.child
        child(int(seed), int(first), int(calls), float(seconds), Path(note))
        return 0
    calls = options.calls or (LONG_CALLS if options.long else SHORT_CALLS)
    print(f"seed {options.seed}, extension {extension.module.__file__}", flush=True)
    if options.only is not None:
        return bool(fuzz(1, options.seed, first=options.only, race_seconds=0))
    started = time.monotonic()
    found = fuzz(calls, options.seed)
    print(f"{calls} calls in {time.monotonic() - started:.0f} s: {len(found)} failures")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
