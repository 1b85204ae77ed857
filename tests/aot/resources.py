"""What a compiled GPU kernel takes, read from its machine code: registers, shared memory, spills, wide accesses."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

ARCHITECTURES = (80, 90, 100)  # A100; H100 and H200; B200


@dataclass(frozen=True)
class Resources:
    """What one kernel takes on one architecture. wide_*: instructions that move 128 bits per thread."""

    registers: int
    shared_bytes: int
    stack_bytes: int
    local_accesses: int  # loads and stores of spilled registers
    wide_loads: int
    wide_stores: int
    wide_copies: int  # cp.async straight to shared memory

    @property
    def spills(self) -> bool:
        return self.stack_bytes > 0 or self.local_accesses > 0


def tool(name: str) -> Path:
    """cuobjdump or nvdisasm, from the triton wheel. RuntimeError if triton is not installed."""
    import triton

    path = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    if not path.exists():
        raise RuntimeError(f"{name} is not in the triton wheel ({path}): install another triton, 3.9 has it")
    return path


def inspect_cubin(cubin: Path) -> dict[str, Resources]:
    """kernel's mangled name -> resources, read from the machine code."""
    usage = _output(str(tool("cuobjdump")), "-res-usage", str(cubin))
    sass = _output(str(tool("cuobjdump")), "-sass", str(cubin))
    code = {m.group(1): m.group(2) for m in re.finditer(r"Function : (\S+)\n(.*?)(?=\n\s*Function : |\Z)", sass, re.S)}
    found = {}
    for match in re.finditer(r"Function (\S+):\n\s*(.*)", usage):
        numbers = {key: int(value) for key, value in re.findall(r"([A-Z]+)(?:\[\d+\])?:(\d+)", match.group(2))}
        text = code[match.group(1)]
        found[match.group(1)] = Resources(
            registers=numbers["REG"],
            shared_bytes=numbers["SHARED"],
            stack_bytes=numbers["STACK"],
            local_accesses=len(re.findall(r"\b(?:LDL|STL)[.\s]", text)),
            wide_loads=len(re.findall(r"\bLDG\.E\S*\.128", text)),
            wide_stores=len(re.findall(r"\bSTG\.E\S*\.128", text)),
            wide_copies=len(re.findall(r"\bLDGSTS\.E\S*\.128", text)),
        )
    return found


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
