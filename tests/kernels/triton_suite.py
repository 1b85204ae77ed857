"""The suite in Triton's interpreter. Run by test_triton.py in its own process with TRITON_INTERPRET=1."""

from __future__ import annotations

import os

import pytest
import torch
from triton_interpreter import repair

from vzoom.kernels.paged_attention import triton_impl as attention
from vzoom.kernels.registry import GPU_OPS
from vzoom.kernels.suite import Check, OpRunner, all_checks

assert os.environ.get("TRITON_INTERPRET") == "1", "run tests/kernels/test_triton.py, or set TRITON_INTERPRET=1"
repair()
RUNNER = OpRunner("triton", torch.device("cpu"))


@pytest.mark.parametrize("check", all_checks(GPU_OPS), ids=str)
def test_check(check: Check) -> None:
    check.body(RUNNER)


def test_long_contexts_are_split_and_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter has one multiprocessor; here it claims to have a GPU's number, so that decode splits."""
    seen: list[int] = []
    choose_splits = attention.choose_splits

    def choose(*, programs: int, longest: int, keys_per_step: int, multiprocessors: int) -> int:
        assert multiprocessors == 1
        seen.append(choose_splits(programs=programs, longest=longest, keys_per_step=keys_per_step, multiprocessors=132))
        return seen[-1]

    monkeypatch.setattr(attention, "choose_splits", choose)
    long = [check for check in all_checks(GPU_OPS) if check.op == "paged_attention" and check.name == "long context"]
    assert len(long) == 3
    for check in long:
        check.body(RUNNER)
    assert min(seen) >= 4
