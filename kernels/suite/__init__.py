"""What the checks of the ops are made of. The checks themselves are in `kernels/<op>/checks.py`, found by folder.

They run for every implementation: C++ on each instruction set, Triton interpreted, CUDA C++ under the shim, a real GPU.
"""

from .cases import AttentionCase, at_slots, attention_case, copied, new_pages, placed, poisoned, random, shifted
from .collect import all_checks, example
from .compare import same_bits, within_tolerance
from .runner import DTYPES, HEAD_DIMS, Check, OpRunner, Runner

__all__ = [
    "DTYPES",
    "HEAD_DIMS",
    "AttentionCase",
    "Check",
    "OpRunner",
    "Runner",
    "all_checks",
    "at_slots",
    "attention_case",
    "copied",
    "example",
    "new_pages",
    "placed",
    "poisoned",
    "random",
    "same_bits",
    "shifted",
    "within_tolerance",
]
