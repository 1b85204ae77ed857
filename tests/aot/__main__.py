"""Ahead-of-time compilation of the GPU kernels, for what a machine without a GPU can know: that they compile for each
architecture, how many registers and how much shared memory they take, that nothing spills, how wide their accesses are.

    python tests/aot                  print the table
    python tests/aot --record FILE    write it as JSON (tests/kernels/gpu_resources.json)

Triton kernels are compiled from recorded launches (`triton_aot`), CUDA C++ by nvcc (`cuda_aot`).
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import triton

sys.path.insert(0, str(Path(__file__).parents[1]))

from aot.cuda_aot import cuda_resources, nvcc_version
from aot.resources import Resources
from aot.specimens import triton_specimens
from aot.triton_aot import triton_resources


def as_text(table: dict[str, dict[str, Resources]]) -> str:
    """The table for people: one line per kernel and architecture."""
    lines = [f"{'kernel':66} {'arch':>6} regs  shared  spill  128-bit loads/stores/copies"]
    for name, row in table.items():
        for architecture, r in row.items():
            lines.append(
                f"{name:66} {architecture:>6} {r.registers:4} {r.shared_bytes:7} {'YES' if r.spills else 'no':>6}"
                f"  {r.wide_loads}/{r.wide_stores}/{r.wide_copies}"
            )
    return "\n".join(lines)


def as_json(table: dict[str, dict[str, Resources]]) -> dict[str, Any]:
    return {name: {arch: asdict(r) for arch, r in row.items()} for name, row in table.items()}


def main(arguments: list[str] | None = None) -> int:
    """The command. 1 if something spills."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", type=Path, help="write the table to this JSON file")
    options = parser.parse_args(arguments)
    parts = {"triton": (triton.__version__, triton_resources(triton_specimens()))}
    version = nvcc_version()
    if version is None:
        print("nvcc was not found: the table holds Triton only", file=sys.stderr)
    else:
        parts["cuda"] = (version, cuda_resources())
    for tool_name, (version, table) in parts.items():
        print(f"{tool_name} {version}\n{as_text(table)}\n")
    if options.record:
        made = {name: {"version": version, "kernels": as_json(table)} for name, (version, table) in parts.items()}
        options.record.write_text(json.dumps(made, indent=1) + "\n")
    return int(any(r.spills for _, table in parts.values() for row in table.values() for r in row.values()))


if __name__ == "__main__":
    sys.exit(main())
