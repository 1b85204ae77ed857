"""Compares what compiled kernels take with tests/kernels/gpu_resources.json."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from aot.resources import Resources

RECORD = Path(__file__).parent / "kernels" / "gpu_resources.json"
HOW = "python tests/aot --record tests/kernels/gpu_resources.json"


def assert_as_recorded(compiler: str, version: str, table: dict[str, dict[str, Resources]]) -> None:
    """Every kernel is recorded; with the recorded compiler nothing spills and the numbers are the recorded ones.

    Another version allocates registers differently: Triton 3.5 spills in the fp32 append on sm_90 and sm_100.
    """
    assert table, "nothing was compiled"
    record = json.loads(RECORD.read_text())[compiler]
    unknown = table.keys() - record["kernels"].keys()
    assert not unknown, f"not in {RECORD.name}: {sorted(unknown)}; record them: {HOW}"
    if record["version"] != version:
        return
    spilled = [f"{name} {arch}" for name, row in table.items() for arch, found in row.items() if found.spills]
    assert not spilled, f"registers are spilled: {spilled}"
    for name, row in table.items():
        for arch, found in row.items():
            assert asdict(found) == record["kernels"][name][arch], f"{name} {arch} changed; if that is meant: {HOW}"
