"""What is installed, what this machine can do, which implementation each operation runs, and what is missing.

Every entry is looked up, none is remembered: the same function serves a bug report and a first installation.
"""

from __future__ import annotations

import os
import platform
import shutil
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

from vzoom import __version__
from vzoom.kernels import extension

# distribution -> (what it is for, the extra that brings it; "" where vzoom itself needs it)
PACKAGES = {
    "torch": ("tensors and layers", ""),
    "transformers": ("weights and layers of the models", ""),
    "tokenizers": ("text to tokens", ""),
    "safetensors": ("reading weights", ""),
    "av": ("decoding video (FFmpeg)", ""),
    "numpy": ("frames", ""),
    "pillow": ("resizing as Hugging Face does", ""),
    "triton": ("GPU kernels", "gpu"),
    "flash-attn": ("another attention on GPUs; never needed", "flash"),
    "nvidia-dali-cuda130": ("decoding video on GPUs", "dali"),
    "trl": ("training", "train"),
    "datasets": ("training", "train"),
    "peft": ("training with LoRA", "train"),
    "accelerate": ("training on several devices", "train"),
    "ray": ("evaluation on several machines", "ray"),
    "lmms-eval": ("its tasks with vzoom as their model", "lmms"),
}
# What vzoom's C++ or torch's own kernels make use of.
_CPU_FEATURES = ("avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512_bf16", "amx_bf16", "asimd", "bf16", "sve")
_GPU_EXTRAS = ("gpu", "dali")
# lmms-eval asks for an older PyAV than vzoom, and does not need it here: pip would find no solution with both.
_THEN = {"lmms": "pip install --no-deps lmms-eval==0.7.3"}


def examine() -> dict[str, Any]:
    """Everything, as JSON can hold it."""
    packages = {name: _package(name) for name in PACKAGES}
    torch, broken = _import_torch()
    if broken:
        packages["torch"]["problem"] = broken
    gpu = _gpu(torch)
    device = "cuda" if gpu["devices"] else "cpu"
    return {
        "vzoom": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": packages,
        "cpu": {
            "model": _cpuinfo("model name") or platform.processor() or platform.machine(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "features": _cpu_features(),
            "torch_capability": torch.backends.cpu.get_cpu_capability() if torch else None,
            "torch_threads": torch.get_num_threads() if torch else None,
        },
        "gpu": gpu,
        "extension": _extension(),
        "device": device,
        "ops": _ops(device) if torch else {},
        "missing": _missing(packages, gpu),
    }


def _import_torch() -> tuple[ModuleType | None, str | None]:
    """torch, or None and why: a missing or broken torch is what a doctor is called for."""
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a shared library of it cannot be loaded
        return None, f"cannot be imported: {error}"
    return torch, None


def _package(name: str) -> dict[str, Any]:
    purpose, extra = PACKAGES[name]
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        version = None
    return {"version": version, "purpose": purpose, "extra": extra, "problem": _problem(name, version)}


def _problem(name: str, version: str | None) -> str | None:
    """What is wrong with an installed version, by the ranges that vzoom declares."""
    from packaging.requirements import Requirement

    if version is None:
        return None
    try:
        declared = metadata.requires("vzoom") or []
    except metadata.PackageNotFoundError:  # a source tree that was never installed declares nothing
        return None
    for requirement in map(Requirement, declared):
        if requirement.name == name and not requirement.specifier.contains(version, prereleases=True):
            return f"vzoom is tested with {requirement.specifier}"
    return None


def _cpuinfo(key: str) -> str:
    """A field of the first processor in /proc/cpuinfo; empty where there is none."""
    path = Path("/proc/cpuinfo")
    for line in path.read_text().splitlines() if path.exists() else []:
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""


def _cpu_features() -> list[str]:
    flags = set((_cpuinfo("flags") or _cpuinfo("Features")).split())
    return [feature for feature in _CPU_FEATURES if feature in flags]


def _gpu(torch: ModuleType | None) -> dict[str, Any]:
    driver = _driver_version()
    devices = []
    if torch and torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            p = torch.cuda.get_device_properties(i)
            memory_gib = round(p.total_memory / 2**30, 1)
            devices.append({"name": p.name, "memory_gib": memory_gib, "capability": f"{p.major}{p.minor}"})
    why_none = None
    if not devices:
        if driver is None:
            why_none = "no NVIDIA driver was found"
        elif torch is None:
            why_none = f"driver {driver} is there, but torch cannot be imported"
        elif torch.version.cuda is None:
            why_none = f"driver {driver} is there, but this torch was built without CUDA"
        else:
            why_none = f"driver {driver} and torch for CUDA {torch.version.cuda} are there, but torch sees no device"
    return {
        "driver": driver,
        "torch_cuda": torch.version.cuda if torch else None,
        "devices": devices,
        "why_none": why_none,
    }


def _driver_version() -> str | None:
    """The NVIDIA kernel driver's version, or None where no driver is loaded."""
    path = Path("/proc/driver/nvidia/version")
    if path.exists():
        words = path.read_text().split()
        return next((word for word in words if word[:1].isdigit() and "." in word), "unknown")
    return "unknown" if shutil.which("nvidia-smi") else None


def _extension() -> dict[str, Any]:
    try:
        native = extension.native()
    except ImportError as error:  # of another version, or built for another machine
        return {"path": None, "version": None, "why_missing": str(error)}
    if native is None:
        return {"path": None, "version": None, "why_missing": extension.why_missing()}
    return {"path": native.__file__, "version": native.__version__, "why_missing": None}


def _ops(device: str) -> dict[str, dict[str, str]]:
    from vzoom.kernels.registry import chosen

    return {op: {"impl": impl, "why": why} for op, (impl, why) in chosen(device).items()}


def _missing(packages: dict[str, dict[str, Any]], gpu: dict[str, Any]) -> list[dict[str, str]]:
    """What to install, and by which command."""
    rows = []
    for extra in dict.fromkeys(p["extra"] for p in packages.values()):
        absent = [name for name, p in packages.items() if p["extra"] == extra and p["version"] is None]
        if absent and extra != "flash":  # builds for hours and is never needed
            purpose = "needed" if not extra else "for GPUs" if extra in _GPU_EXTRAS else f"for {PACKAGES[absent[0]][0]}"
            target = f"'vzoom[{extra}]'" if extra else "vzoom"
            how = " && ".join([f"pip install {target}", *([_THEN[extra]] if extra in _THEN else [])])
            rows.append({"what": f"{', '.join(absent)} ({purpose})", "how": how})
    extension = _extension()
    if extension["why_missing"]:
        rows.append({"what": "the compiled extension", "how": extension["why_missing"]})
    if not gpu["devices"]:
        if gpu["driver"] is None:
            how = "on a machine with an NVIDIA GPU, install its driver, then pip install 'vzoom[gpu]'"
        elif gpu["torch_cuda"] is None:
            how = "pip uninstall torch, then pip install torch 'vzoom[gpu]': the plain torch is built with CUDA"
        else:
            how = "see whether nvidia-smi lists a GPU and CUDA_VISIBLE_DEVICES does not hide it"
        rows.append({"what": "a GPU", "how": how})
    return rows
