"""Writes the files of a new op into the source tree: `python -m vzoom.kernels scaffold NAME`.

What it writes runs: an op that multiplies by a number, with its reference, checks, bench and C++. Replace the formula.
"""

from __future__ import annotations

import keyword
from pathlib import Path

SOURCE_TREE = Path(__file__).resolve().parents[1]


class NoSourceTree(RuntimeError):
    """The package is installed, and there is no source tree to write into."""


def scaffold(name: str, tree: Path = SOURCE_TREE) -> list[Path]:
    """Write a new op.

    Args:
        name: of the op and its folder.
        tree: a source tree of vzoom.

    Returns:
        The files that were written or changed, relative to the tree.

    Raises:
        NoSourceTree: `tree` is none.
        ValueError: the name is no Python name in lower case, or an op has it already.
    """
    if not (tree / "CMakeLists.txt").exists() or not (tree / "csrc").is_dir():
        raise NoSourceTree(
            f"a new op is written into a source tree, but {tree} is none (it has no CMakeLists.txt beside a csrc/): "
            "clone the repository, install it with `pip install -e .`, and run the command there"
        )
    if not name.isidentifier() or name != name.lower() or keyword.iskeyword(name):
        raise ValueError(f"the name of an op is a Python name in lower case, such as top_k; got {name!r}")
    if (tree / "kernels" / name).exists() or (tree / "csrc" / "cpu" / f"{name}.cpp").exists():
        raise ValueError(f"{name} is there already: kernels/{name} or csrc/cpu/{name}.cpp exists")
    struct = "".join(word.capitalize() for word in name.split("_"))
    made = []
    for path, text in _FILES.items():
        target = tree / path.replace("NAME", name)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text.replace("NAME", name).replace("STRUCT", struct))
        made.append(target.relative_to(tree))
    stub = tree / "vzoom" / "_vzoom.pyi"
    before, mark, after = stub.read_text().partition("\nclass FramePlan:")
    stub.write_text(f"{before}def {name}(x: Tensor, factor: float, out: Tensor) -> None: ...\n{mark}{after}")
    return [*made, stub.relative_to(tree)]


_FILES = {
    "kernels/NAME/__init__.py": '''"""Multiply rows by a number."""

from .op import NAME

__all__ = ["NAME"]
''',
    "kernels/NAME/reference.py": '''"""NAME in torch: what every implementation takes, and the truth of the checks.

Letters: see `vzoom.kernels.layout`.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Arguments(NamedTuple):
    """What every implementation takes, in this order. `op.NAME` says what they are."""

    x_TF: Tensor
    factor: float
    out_TF: Tensor


def NAME(a: Arguments) -> None:
    """Multiply in the dtype of x."""
    a.out_TF.copy_(a.x_TF * a.factor)
''',
    "kernels/NAME/op.py": '''"""NAME: rows times a number.

    out[t, f] = factor * x[t, f]

Bytes that must move: 2 T F values. Letters: see `vzoom.kernels.layout`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..checks import check_last_dim_contiguous, check_one_dtype, check_shapes
from ..declare import declare
from .reference import Arguments
from .reference import NAME as _reference


def NAME(x_TF: Tensor, factor: float, *, out: Tensor | None = None, impl: str = "auto") -> Tensor:
    """Multiply rows by a number.

    Args:
        x_TF: the rows.
        factor: the number.
        out: where the result goes, [T, F]; None makes a tensor.
        impl: "auto", "reference" or "cpu".

    Returns:
        `out`.

    Raises:
        ValueError: shapes, dtypes or devices do not fit together.
        RuntimeError: the named `impl` is not there.
    """
    if out is None:
        out = torch.empty_like(x_TF, memory_format=torch.contiguous_format)
    _op(x_TF, factor, out, impl)
    return out


def _check(a: Arguments) -> None:
    check_shapes(a)  # one device, and the dimensions that the names say
    check_last_dim_contiguous(x=a.x_TF, out=a.out_TF)
    check_one_dtype(x=a.x_TF, out=a.out_TF)


_op = declare(Arguments, _reference, _check, writes=("out_TF",))
''',
    "kernels/NAME/checks.py": '''"""Checks of NAME, for every implementation."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from ..suite import DTYPES, Check, Runner, poisoned, random, within_tolerance
from .reference import Arguments
from .reference import NAME as reference


def checks() -> Iterator[Check]:
    """List the checks."""
    for dtype in DTYPES:
        for size in (1, 16, 33):
            yield Check("NAME", f"{size} features", dtype, partial(_check, size, dtype))


def example(device: torch.device) -> Arguments:
    """Make small arguments."""
    return Arguments(torch.randn(3, 8, device=device), 0.5, torch.randn(3, 8, device=device))


def _check(size: int, dtype: torch.dtype, runner: Runner) -> None:
    """Rows are slices of wider ones; nothing beside them is written."""
    wide = random(4, size + 2, dtype=dtype, seed=size)

    def by_reference(exact: torch.dtype) -> torch.Tensor:
        out = torch.empty(4, size, dtype=exact)
        reference(Arguments(wide[:, 1:-1].to(exact), 0.3, out))
        return out

    guarded = runner.put(poisoned(4, size + 2, dtype=dtype))
    runner.run("NAME", runner.put(wide)[:, 1:-1], 0.3, guarded[:, 1:-1])
    within_tolerance("out", guarded[:, 1:-1], by_reference(dtype), by_reference(torch.float64))
    assert guarded[:, [0, -1]].isnan().all(), "written outside of the output"
''',
    "kernels/NAME/bench.py": '''"""What is timed of NAME."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from ..workload import HIDDEN, Sizes, Workload
from .op import NAME


def workloads(device: torch.device, dtype: torch.dtype, sizes: Sizes) -> Iterator[Workload]:
    """Multiply the rows of a layer."""
    for rows in sizes.tokens:
        shape, prepare = f"{rows} rows of {HIDDEN}", partial(_prepare, device, dtype, rows)
        yield Workload("NAME", dtype, shape, prepare, 2 * rows * HIDDEN * dtype.itemsize)


def _prepare(device: torch.device, dtype: torch.dtype, rows: int) -> Callable[[str], Tensor]:
    x = torch.randn(rows, HIDDEN, device=device).to(dtype)
    out = torch.empty_like(x)

    def run(impl: str) -> Tensor:
        return NAME(x, 0.5, out=out, impl=impl)

    return run
''',
    "csrc/cpu/NAME.cpp": """// out = factor x; formula in kernels/NAME/op.py.
//
// Plain C++. Kernels for an instruction set are in files named *_avx2.cpp and *_avx512.cpp: see move.h.

#include "../op.h"
#include "half.h"
#include "threads.h"

namespace vz {
namespace {
#include "vec_scalar.h"

struct STRUCT {
  View x;
  double factor;
  Out out;
  VZ_ARGUMENTS(x, factor, out)
};

template <class T>
void multiply(const View& x, float factor, const View& out, int64_t t, int64_t size) {
  const T* from = x.as<const T>() + t * x.stride[0];
  T* to = out.as<T>() + t * out.stride[0];
  for (int64_t f = 0; f < size; ++f) store(to + f, mul(load(from + f), set1(factor)));
}

void NAME(const STRUCT& a) {
  Dims dims;
  want_float("x", a.x);
  for (const auto& [name, view] : {Named{"x", a.x}, {"out", a.out}}) {
    dims.bind(name, view, "TF");
    want_dtype(name, view, a.x.dtype);
    want_last_contiguous(name, view);
  }
  const Dtype dtype = a.x.dtype;
  const auto run = dtype == Dtype::f32 ? multiply<float> : dtype == Dtype::bf16 ? multiply<bf16> : multiply<f16>;
  in_parts(dims['T'], dims['F'] * bytes(dtype), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) run(a.x, static_cast<float>(a.factor), a.out, t, dims['F']);
  });
}

}  // namespace

VZ_CPU_OP("NAME", STRUCT, NAME)

}  // namespace vz
""",
}
