"""Ahead-of-time compilation of Triton kernels, from the launches that the package's own code makes (`specimens`).

The launches are recorded instead of run, so tile sizes, strides and alignments are those of use.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from aot.resources import ARCHITECTURES, Resources, inspect_cubin


@dataclass(frozen=True)
class Launch:
    """A kernel and the arguments of one launch."""

    kernel: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@contextmanager
def recorded_launches() -> Iterator[list[Launch]]:
    """Within it launches of Triton kernels are noted and not run."""
    from triton.runtime.jit import JITFunction

    launches: list[Launch] = []
    run = JITFunction.run

    def note(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        launches.append(Launch(self, args, kwargs))

    JITFunction.run = note
    try:
        yield launches
    finally:
        JITFunction.run = run


_POINTERS = {
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.uint8: "*u8",
    torch.int32: "*i32",
    torch.int64: "*i64",
}


def compile_launch(launch: Launch, architecture: int) -> Any:
    """What triton would compile for the launch on sm_`architecture`: pointers and sizes specialised as its binder does
    (1 is a constant, multiples of 16 are known to be; tensors start on 16 bytes, as torch allocates them)."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    options = {name: launch.kwargs[name] for name in ("num_warps", "num_stages") if name in launch.kwargs}
    named = {name: value for name, value in launch.kwargs.items() if name not in options}
    names = launch.kernel.arg_names
    values = dict(zip(names, launch.args, strict=False)) | named
    signature: dict[str, str] = {}
    constants: dict[str, Any] = {}
    attributes: dict[tuple[int, ...], list[list[Any]]] = {}
    for index, (name, parameter) in enumerate(zip(names, launch.kernel.params, strict=True)):
        value = values[name]
        if parameter.is_constexpr or value is None or (type(value) is int and value == 1):
            signature[name] = "constexpr"
            constants[name] = value
        elif isinstance(value, torch.Tensor):
            signature[name] = _POINTERS[value.dtype]
            attributes[(index,)] = [["tt.divisibility", 16]]
        elif isinstance(value, float):
            signature[name] = "fp32"
        else:
            signature[name] = "i32" if -(2**31) <= value < 2**31 else "i64"
            if value % 16 == 0:
                attributes[(index,)] = [["tt.divisibility", 16]]
    source = ASTSource(launch.kernel, signature, constants, attributes)
    return triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)


def triton_resources(
    specimens: dict[str, Callable[[int], None]], architectures: tuple[int, ...] = ARCHITECTURES
) -> dict[str, dict[str, Resources]]:
    """ "specimen/kernel" -> "sm_90" -> resources. Each specimen is a call of a `triton_impl` function."""
    table: dict[str, dict[str, Resources]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, call in specimens.items():
            for architecture in architectures:
                with recorded_launches() as launches:
                    call(architecture)
                for launch in launches:
                    row = table.setdefault(f"{name}/{launch.kernel.fn.__name__}", {})
                    compiled = compile_launch(launch, architecture)
                    cubin = Path(folder) / "kernel.cubin"
                    cubin.write_bytes(compiled.asm["cubin"])
                    (found,) = inspect_cubin(cubin).values()
                    # Dynamic shared memory is not in the cubin.
                    shared = max(found.shared_bytes, int(compiled.metadata.shared))
                    row[f"sm_{architecture}"] = Resources(**{**asdict(found), "shared_bytes": shared})
    return table
