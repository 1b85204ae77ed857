"""Repairs of three bugs of Triton's interpreter, which would fail right kernels: a compiled kernel has none of them.

tl.dot multiplies the raw 16 bits of bfloat16 as integers; float32 to bfloat16 cuts off instead of rounding; a scalar
comparison keeps the type of its operands, so a mask made with it is no mask ("mask has unsupported dtype").
"""

from __future__ import annotations

from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime import interpreter


def _widened(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _rounded(values: np.ndarray) -> np.ndarray:
    """float32 -> the bits of bfloat16, round half to even; NaN stays NaN."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = ((bits.astype(np.uint64) + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FC0), rounded)


def repair() -> None:
    """Once a process, before a kernel runs."""
    builder = interpreter.InterpreterBuilder
    cast, dot = builder.cast_impl, builder.create_dot

    def cast_impl(self: Any, source: Any, target: Any) -> Any:
        if source.dtype.scalar == tl.float32 and target.scalar == tl.bfloat16:
            return interpreter.TensorHandle(_rounded(source.data), tl.bfloat16)
        if source.dtype.scalar == tl.bfloat16 and target.scalar == tl.float32:
            return interpreter.TensorHandle(_widened(source.data), tl.float32)
        return cast(self, source, target)

    def create_dot(self: Any, a: Any, b: Any, d: Any, *rest: Any) -> Any:
        if a.dtype.scalar == tl.bfloat16:
            a, b = (interpreter.TensorHandle(_widened(x.data), tl.float32) for x in (a, b))
        elif a.dtype.scalar == tl.float16:
            # numpy would multiply with dtype float32 anyway; widening first is what it does, only explicit.
            a, b = (interpreter.TensorHandle(x.data.astype(np.float32), tl.float32) for x in (a, b))
        return dot(self, a, b, d, *rest)

    def as_bool(compare: Any) -> Any:
        def wrapped(self: Any, left: Any, right: Any) -> Any:
            return interpreter.TensorHandle(compare(self, left, right).data.astype(bool), tl.int1)

        return wrapped

    for name in dir(builder):
        if name.startswith(("create_icmp", "create_fcmp")):
            setattr(builder, name, as_bool(getattr(builder, name)))
    builder.cast_impl, builder.create_dot = cast_impl, create_dot
