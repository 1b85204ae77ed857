"""Finds the checks of the ops, by folder: `kernels/<op>/checks.py` defines `checks()` and `example(device)`."""

from __future__ import annotations

import importlib
from collections.abc import Collection
from typing import Any

import torch

from ..registry import OPS
from .runner import Check


def all_checks(ops: Collection[str] = OPS) -> list[Check]:
    """List every check of these ops: each dtype, and what can go wrong. Shapes are small: an interpreter runs them too.

    Args:
        ops: names of ops.

    Returns:
        The checks, op by op.
    """
    return [check for op in ops for check in _module(op).checks()]


def example(op: str, device: torch.device) -> tuple[Any, ...]:
    """Make small arguments that an op takes.

    Args:
        op: its name.
        device: where the tensors will be.

    Returns:
        The op's Arguments.
    """
    made: tuple[Any, ...] = _module(op).example(device)
    return made


def _module(op: str) -> Any:
    return importlib.import_module(f"{__package__.rpartition('.')[0]}.{op}.checks")
