"""The stub `vzoom/_vzoom.pyi` says what the extension holds: the same names, with the same arguments."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from types import ModuleType

import cuda_shim
import pytest
import torch

import vzoom
from vzoom.kernels import extension
from vzoom.kernels.declare import DECLARED, plain_name
from vzoom.kernels.registry import OPS
from vzoom.kernels.suite import example

TREE = ast.parse((Path(vzoom.__file__).parent / "_vzoom.pyi").read_text())


def stub_functions(body: list[ast.stmt]) -> dict[str, list[str]]:
    """name -> names of the arguments, of the functions of a module's or a class's body."""
    return {node.name: [a.arg for a in node.args.args] for node in body if isinstance(node, ast.FunctionDef)}


def bound_functions(owner: ModuleType | type) -> dict[str, list[str]]:
    """The same, as pybind11 writes it into docstrings: "scale(x: object, factor: object) -> None"."""
    found = {}
    for name, member in vars(owner).items():
        signature = re.match(rf"{name}\((.*)\) ->", getattr(member, "__doc__", None) or "")
        if callable(member) and signature is not None:
            found[name] = re.findall(r"(\w+):", signature.group(1))
    return found


STUB = stub_functions(TREE.body)


def test_the_stub_describes_the_extension() -> None:
    native = extension.native()
    assert native is not None
    bound = bound_functions(native)
    without_cuda = {name for name in STUB if not name.startswith("cuda_")}
    assert bound.keys() - {f"cuda_{op}" for op in native.cuda_ops} == without_cuda
    for name, arguments in bound.items():
        assert arguments == STUB[name], name
    plan = next(node for node in TREE.body if isinstance(node, ast.ClassDef) and node.name == "FramePlan")
    assert bound_functions(native.FramePlan) == stub_functions(plan.body)
    stated = {node.target.id for node in TREE.body if isinstance(node, ast.AnnAssign)}  # type: ignore[union-attr]
    stated |= {node.name for node in TREE.body if isinstance(node, ast.ClassDef)}
    of_python = {"__name__", "__doc__", "__package__", "__loader__", "__spec__", "__file__"}
    assert vars(native).keys() - bound.keys() - of_python == stated


def test_the_stub_describes_cuda(shim: ModuleType) -> None:
    """The shim has the bindings of a build with nvcc."""
    bound = {name: arguments for name, arguments in bound_functions(shim).items() if name.startswith("cuda_")}
    assert bound == {name: arguments for name, arguments in STUB.items() if name.startswith("cuda_")}
    assert shim.cuda_ops == cuda_shim.OPS


@pytest.mark.parametrize("op", [op for op in OPS if op in STUB and op != "frames_to_patches"])
def test_cpp_takes_the_arguments_of_the_op(op: str) -> None:
    """In one order, since they are passed by position. (frames_to_patches has Python around its C++.)"""
    example(op, torch.device("cpu"))  # imports the op
    names = [plain_name(field) for field in DECLARED[op].arguments._fields]
    assert STUB[op] == names
    if op in cuda_shim.OPS:
        assert STUB[f"cuda_{op}"][: len(names)] == names


def test_arguments_can_be_named() -> None:
    gate, up = torch.randn(2, 3), torch.randn(2, 3)
    wanted = torch.nn.functional.silu(gate) * up
    extension.module.silu_mul(up=up, gate=gate)
    torch.testing.assert_close(gate, wanted)
    with pytest.raises(TypeError, match="gate: object, up: object"):
        extension.module.silu_mul(gate, down=up)
    with pytest.raises(TypeError, match="must be real number, not str"):
        extension.module.rms_norm(gate[None], torch.ones(3), "0", gate[None])
    with pytest.raises(AttributeError, match="no attribute 'modul'"):
        extension.modul  # noqa: B018
