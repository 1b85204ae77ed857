"""The suite in Triton's interpreter. Run by test_triton.py in its own process with TRITON_INTERPRET=1."""

from __future__ import annotations

import os

import pytest
import torch

assert os.environ.get("TRITON_INTERPRET") == "1", "run tests/kernels/test_triton.py, or set TRITON_INTERPRET=1"

from kernels.interpreter_repairs import repair

from vzoom.kernels.suite.checks import Check, all_checks
from vzoom.kernels.suite.runner import OpRunner

repair()
RUNNER = OpRunner("triton", torch.device("cpu"))


@pytest.mark.parametrize("check", all_checks(), ids=str)
def test_check(check: Check) -> None:
    check.body(RUNNER)
