"""The C++ implementations: the whole suite on every instruction set that this machine has, in both memory orders."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from vzoom.kernels.suite import Check, OpRunner, all_checks

CPU = torch.device("cpu")


@dataclass(frozen=True)
class HeadsFirstRunner(OpRunner):
    """Pages in the CPU's own memory order, heads before tokens; the suite makes them in the GPU's."""

    def put_pages(self, heads_first: Tensor) -> Tensor:
        return heads_first.clone(memory_format=torch.contiguous_format)


@pytest.mark.parametrize("check", all_checks(), ids=str)
def test_check(check: Check, isa: str) -> None:
    check.body(OpRunner("cpu", CPU))
    check.body(HeadsFirstRunner("cpu", CPU))
