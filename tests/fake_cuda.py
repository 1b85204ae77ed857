"""CUDA tensors without CUDA: shapes, dtypes and devices are real, values are not. For tests of what a GPU would see.

`fake_cuda()` runs its body under FakeTensorMode: an operation that mixes devices raises, so does whatever needs a value
(.item(), .tolist(), bool(), a boolean index, nonzero). Our ops run their fakes, which check their arguments as the real
ones do. Threads that the body starts are outside of it: an engine needs overlap=False.

What a CPU build of torch lacks for this, and what is done about it here:
- `x[1:3]`, `x[1:3] = y`, `x.contiguous()`, `x.copy_(y)`, `x.nonzero()` and `x.new_tensor(...)` raise "not linked with
  support for cuda devices": these Python bindings are written by hand and set the current device, in C++, before any
  dispatch mode is asked. `_HandWritten` is asked before them and calls the operations behind them.
- a small tensor made of Python numbers keeps its value as a real one, and `.to("cuda")` of it would run for real:
  `_NoConstants` keeps none.
- "cuda" without an index asks the driver which device is current: name DEVICE.
- torch.Generator has no CUDA: `fake_cuda` gives CPU generators, which fakes do not look at.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vzoom.engine.sampler import choose
from vzoom.models import Checkpoint

DEVICE = torch.device("cuda:0")
aten = torch.ops.aten


@contextmanager
def fake_cuda() -> Iterator[None]:
    """Tensors on DEVICE are fake within; so are those that are made on the CPU."""
    generator = torch.Generator
    _forget_cached_tensors()
    with pytest.MonkeyPatch.context() as patch, _NoConstants(allow_non_fake_inputs=True), _HandWritten():
        patch.setattr(torch, "Generator", lambda device: generator())
        yield
    _forget_cached_tensors()


def on_fake_cuda(checkpoint: Checkpoint, dtype: torch.dtype = torch.float32) -> Checkpoint:
    """The checkpoint with its model on DEVICE. The model that it held must not be used again."""
    hf = checkpoint.model.hf
    for module in hf.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                fake = torch.empty(weight.shape, dtype=dtype, device=DEVICE)
                module._parameters[name] = torch.nn.Parameter(fake, requires_grad=False)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device=DEVICE)
    return replace(checkpoint, model=type(checkpoint.model)(hf))


class _NoConstants(FakeTensorMode):
    def may_turn_const(self, t: Tensor) -> bool:
        return False


class _HandWritten(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.__getitem__:
            return index_of(*args)
        if func is Tensor.__setitem__:
            return _put(*args)
        if func is Tensor.contiguous:
            return aten.contiguous.default(*args, **kwargs)
        if func is Tensor.copy_:
            return aten.copy_.default(*args, **kwargs)
        if func is Tensor.nonzero:
            return aten.nonzero.default(*args)
        if func is Tensor.new_tensor:
            like, data = args
            return torch.tensor(data, **({"dtype": like.dtype, "device": like.device} | kwargs))
        return func(*args, **kwargs)


def index_of(x: Tensor, index: Any) -> Tensor:
    """x[index]. AssertionError for a boolean index, whose result has a shape that only the GPU knows."""
    x, rest = _basic(x, index)
    if any(i is not None and i.dtype == torch.bool for i in rest):
        raise AssertionError("a boolean index makes the host wait for the GPU to count what is true")
    return aten.index.Tensor(x, rest) if any(i is not None for i in rest) else x


def _put(x: Tensor, index: Any, value: Any) -> None:
    """x[index] = value."""
    x, rest = _basic(x, index)
    value = value if isinstance(value, Tensor) else torch.full((), value, dtype=x.dtype, device=x.device)
    if any(i is not None for i in rest):
        aten.index_put_.default(x, rest, value)
    else:
        aten.copy_.default(x, value)


def _basic(x: Tensor, index: Any) -> tuple[Tensor, list[Tensor | None]]:
    """x under the slices and numbers of an index, and what is left of it: a tensor or None for each dimension."""
    index = index if isinstance(index, tuple) else (index,)
    taken = sum(_dims(i) for i in index)
    dots = [at for at, i in enumerate(index) if i is Ellipsis] or [len(index)]
    index = (*index[: dots[0]], *[slice(None)] * (x.ndim - taken), *index[dots[0] + 1 :])
    left: list[Tensor | None] = []
    for i in index:
        if i is None:
            x = x.unsqueeze(len(left))
            left.append(None)
        elif isinstance(i, slice):
            x = aten.slice.Tensor(x, len(left), i.start, i.stop, 1 if i.step is None else i.step)
            left.append(None)
        elif isinstance(i, int):
            x = aten.select.int(x, len(left), i)
        else:
            left += [torch.tensor(i) if isinstance(i, list) else i, *[None] * (_dims(i) - 1)]
    return x, left


def _dims(index: Any) -> int:
    """How many dimensions of the indexed tensor this part of an index is about."""
    if isinstance(index, Tensor) and index.dtype == torch.bool:
        return index.ndim
    return 0 if index is None or index is Ellipsis else 1


def _forget_cached_tensors() -> None:
    """What functions of vzoom remember: a fake tensor must not come out of a cache later, nor a real one now."""
    for name, module in list(sys.modules.items()):
        if name.startswith("vzoom"):
            for member in vars(module).values():
                if hasattr(member, "cache_clear"):
                    member.cache_clear()


# ---------------------------------------------------------------- what a GPU would be asked to do


@dataclass
class Watch(TorchDispatchMode):
    """Within: every operation on tensors, in `ops`, and the copies between host and GPU. Values stay unreadable."""

    ops: list[str] = field(default_factory=list)
    to_gpu: int = 0
    to_host: int = 0
    on_host: list[str] = field(default_factory=list)  # operations that the host would run itself

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given, made = _tensors((args, kwargs)), _tensors(result)
        shapes = ", ".join(f"{t.dtype} {list(t.shape)}" for t in (*given, *made))
        self.ops.append(f"{func} {shapes}")
        devices = {t.device.type for t in (*given, *made)}
        if devices == {"cpu", "cuda"}:
            self.to_gpu += made[0].device.type == "cuda"
            self.to_host += made[0].device.type == "cpu"
        elif devices == {"cpu"}:
            self.on_host.append(self.ops[-1])
        return result


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


class Sampler:
    """`vzoom.engine.sampler.choose` on fake logits: all of it runs, but what it reads of the GPU is 0 and counted."""

    def __init__(self) -> None:
        self.calls = 0
        self.transfers = 0

    def choose(self, *args: Any) -> tuple[list[int], list[float]]:
        def tolist(x: FakeTensor) -> Any:
            assert x.device == DEVICE
            self.transfers += 1
            return _zeros(list(x.shape))

        self.calls += 1
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(FakeTensor, "tolist", tolist)
            return choose(*args)


def _zeros(shape: list[int]) -> Any:
    return [_zeros(shape[1:]) for _ in range(shape[0])] if shape else 0.0
