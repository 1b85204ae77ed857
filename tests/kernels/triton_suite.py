"""The suite in Triton's interpreter. Run by test_triton.py in its own process with TRITON_INTERPRET=1."""

from __future__ import annotations

import os

import pytest
import torch

assert os.environ.get("TRITON_INTERPRET") == "1", "run tests/kernels/test_triton.py, or set TRITON_INTERPRET=1"

from kernels.interpreter_repairs import repair

from vzoom.kernels.paged_attention import triton_impl as attention
from vzoom.kernels.suite.checks import Check, all_checks
from vzoom.kernels.suite.runner import OpRunner

repair()
RUNNER = OpRunner("triton", torch.device("cpu"))


@pytest.mark.parametrize("check", all_checks(), ids=str)
def test_check(check: Check) -> None:
    check.body(RUNNER)


def test_long_contexts_are_split_and_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter has one multiprocessor; here it claims to have a GPU's number, so that decode splits."""
    seen: list[int] = []

    def choose(**sizes: int) -> int:
        seen.append(attention_splits(**{**sizes, "multiprocessors": 132}))
        return seen[-1]

    attention_splits = attention.choose_splits
    monkeypatch.setattr(attention, "choose_splits", choose)
    long = [check for check in all_checks() if check.op == "paged_attention" and check.name == "long context"]
    assert len(long) == 3
    for check in long:
        check.body(RUNNER)
    assert seen == [4, 4, 4]
