"""How an op is declared: once, by its arguments, and registered with torch by one helper.

The folder of an op holds:

    reference.py    `Arguments`, what every implementation takes, and the op in torch, which is the truth of the tests
    op.py           the public function, the check of the arguments, and the call of `declare`
    cpu_impl.py     only if the C++ needs Python around it
    triton_impl.py  the op in Triton, if there is one
    cuda_impl.py    only if the CUDA C++ needs Python around it
    checks.py       its tests, for every implementation (`vzoom.kernels.suite`)
    bench.py        what is timed (`vzoom.kernels.workload`)

`<impl>_impl.py` defines a function with the name of the op that takes `Arguments`. Without such a file the extension's
own function is called, with the arguments in their order: `_vzoom.<op>` and `_vzoom.cuda_<op>`.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple, TypeVar, get_type_hints

import torch
from torch import Tensor

from . import extension
from .registry import has_file, resolve

# Library.define and impl rather than custom_op: about 5 us per call instead of 40, measured with 8 tensors.
LIB = torch.library.Library("vzoom", "DEF")

A = TypeVar("A", bound=NamedTuple)
_TYPES = {
    Tensor: "Tensor",
    Tensor | None: "Tensor?",
    bool: "bool",
    int: "int",
    float: "float",
    list[int]: "int[]",
}


@dataclass(frozen=True)
class Declared:
    """One op, as `declare` was told."""

    arguments: type[Any]
    reference: Callable[[Any], None]
    check: Callable[[Any], None]


DECLARED: dict[str, Declared] = {}


def declare(
    arguments: type[A], reference: Callable[[A], None], check: Callable[[A], None], *, writes: Collection[str]
) -> Callable[..., None]:
    """Declare the op that has the name of `reference`, and register it as `torch.ops.vzoom.<name>`.

    Args:
        arguments: a NamedTuple of the op's arguments. A name ends with the letters of the tensor's dimensions, if they
            are fixed (`q_THD`, see `vzoom.kernels.layout`); the schema has the name without them (`q`).
        reference: the op in torch.
        check: raises ValueError if the arguments do not fit together. It looks at no values and so never waits for a
            GPU; it is also the op's fake.
        writes: names of the tensors that the op writes.

    Returns:
        The op for torch. It takes the arguments in their order, then the name of an implementation or "auto".

    Raises:
        ValueError: an argument has a type that torch's schemas do not know, or `writes` names no argument.
    """
    name = reference.__name__
    schema = schema_of(name, arguments, writes)
    DECLARED[name] = Declared(arguments, reference, check)

    def on(device_type: str) -> Callable[..., None]:
        def run(*values: Any) -> None:
            implementation(name, values[-1], device_type)(*values[:-1])

        return run

    def fake(*values: Any) -> None:
        check(arguments(*values[:-1]))

    LIB.define(schema)
    LIB.impl(name, on("cpu"), "CPU")
    LIB.impl(name, on("cuda"), "CUDA")
    torch.library.register_fake(f"vzoom::{name}", fake, lib=LIB)
    op: Callable[..., None] = getattr(torch.ops.vzoom, name).default
    return op


def schema_of(name: str, arguments: type[NamedTuple], writes: Collection[str]) -> str:
    """Write torch's schema of an op.

    Args:
        name: of the op.
        arguments: the NamedTuple of its arguments.
        writes: names of those that it writes.

    Returns:
        Such as "scale(Tensor x, float factor, Tensor(a!) out, str impl) -> ()".

    Raises:
        ValueError: as `declare` does.
    """
    unknown = set(writes) - set(arguments._fields)
    if unknown:
        raise ValueError(f"{name} writes {sorted(unknown)}, but its arguments are {arguments._fields}")
    parts, aliases = [], iter("abcdefgh")
    for field, hint in get_type_hints(arguments).items():
        if hint not in _TYPES:
            raise ValueError(f"{name}: {field} is {hint}; a schema knows {', '.join(map(str, _TYPES))}")
        kind = _TYPES[hint]
        if field in writes:
            kind = kind.replace("Tensor", f"Tensor({next(aliases)}!)")
        parts.append(f"{kind} {plain_name(field)}")
    return f"{name}({', '.join(parts)}, str impl) -> ()"


@cache
def plain_name(field: str) -> str:
    """Take the letters of the dimensions off an argument's name: "q_THD" becomes "q"."""
    return re.sub(r"_[A-Z]+$", "", field)


@cache
def implementation(op: str, impl: str, device_type: str) -> Callable[..., None]:
    """Find what runs an op.

    Args:
        op: a declared op.
        impl: "auto" or one of `registry.IMPLS`.
        device_type: "cpu" or "cuda".

    Returns:
        A function of the op's arguments in their order. It checks them before it writes anything.

    Raises:
        RuntimeError: a named implementation is not there.
        ValueError: no implementation has that name.
    """
    declared = DECLARED[op]
    chosen = resolve(op, impl, device_type)
    if chosen == "reference":
        run = declared.reference
    elif has_file(op, chosen):
        run = getattr(importlib.import_module(f"{__package__}.{op}.{chosen}_impl"), op)
    elif chosen == "cpu":
        function: Callable[..., None] = getattr(extension.module, op)  # which checks its arguments itself
        return function
    else:
        native = getattr(extension.module, f"cuda_{op}")

        def run(a: Any) -> None:
            native(*a)

    def checked(*values: Any) -> None:
        a = declared.arguments(*values)
        declared.check(a)
        run(a)

    return checked
