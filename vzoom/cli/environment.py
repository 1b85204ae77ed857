"""What is installed, what this machine can do, which implementation each operation runs, and what is missing.

Every entry is looked up when it is asked for. Which packages vzoom can use is read from its own metadata, so that a new
dependency is known here without anybody thinking of it.
"""

from __future__ import annotations

import os
import platform
import shutil
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

from vzoom import __version__
from vzoom.kernels import extension

# What each package is for. One that is not here is said to be for what its extra is for.
PURPOSES = {
    "torch": "tensors and layers",
    "transformers": "weights and layers of the models",
    "tokenizers": "text to tokens",
    "safetensors": "reading weights",
    "av": "decoding video (FFmpeg)",
    "numpy": "frames",
    "pillow": "resizing as Hugging Face does",
    "lazy-loader": "loading each part of vzoom when it is first used",
    "triton": "GPU kernels",
    "flash-attn": "another attention on GPUs; never needed",
    "nvidia-dali-cuda130": "decoding video on GPUs",
    "trl": "the loops of SFT and GRPO",
    "datasets": "training data as TRL takes it",
    "pyarrow": "conversations on disk, and benchmarks in Parquet files",
    "peft": "training with LoRA",
    "accelerate": "training on several devices",
    "tensorboard": "curves of a training",
    "ray": "evaluation on several machines",
    "lmms-eval": "its tasks, with vzoom as their model",
    "vllm": "the other engine, for models of many GPUs",
}
EXTRAS = {
    "gpu": "GPUs",
    "flash": "another attention on GPUs",
    "dali": "decoding video on GPUs",
    "train": "training, and data on disk",
    "ray": "evaluation on several machines",
    "lmms": "the tasks of lmms-eval",
    "vllm": "the other engine, for models of many GPUs",
}
_NOT_FOR_USERS = ("test", "dev", "docs")  # of those who work on vzoom
_NEVER_NEEDED = ("flash",)  # builds for hours: nobody is sent there
# lmms-eval asks for an older PyAV than vzoom, and does not need it here: pip would find no solution with both. So no
# extra of ours can name it.
_BY_HAND = {"lmms": ("lmms-eval", "pip install --no-deps lmms-eval==0.7.3")}
# What vzoom's C++ or torch's own kernels make use of.
_CPU_FEATURES = ("avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512_bf16", "amx_bf16", "asimd", "bf16", "sve")


@dataclass
class Package:
    """One package that vzoom can use. extras: those that bring it; "" among them if vzoom itself needs it."""

    name: str
    extras: list[str] = field(default_factory=list)
    ranges: list[str] = field(default_factory=list)

    @property
    def purpose(self) -> str:
        """What it is for."""
        return PURPOSES.get(self.name) or EXTRAS.get(self.extras[0], self.extras[0])

    @property
    def how(self) -> str:
        """The command that installs it."""
        by_hand = dict(_BY_HAND.values())
        return by_hand[self.name] if self.name in by_hand else _install(self.extras[0])

    def to_json(self) -> dict[str, Any]:
        """What it is for, what is installed of it, what is wrong with that; or how to install it."""
        try:
            version = metadata.version(self.name)
        except metadata.PackageNotFoundError:
            version = None
        return {
            "version": version,
            "purpose": self.purpose,
            "extras": self.extras,
            "problem": None if version is None else self._problem(version),
            "how": self.how if version is None else None,
        }

    def _problem(self, version: str) -> str | None:
        """What is wrong with an installed version, by the ranges that vzoom declares."""
        from packaging.specifiers import SpecifierSet

        for declared in self.ranges:
            if not SpecifierSet(declared).contains(version, prereleases=True):
                return f"vzoom is tested with {declared}"
        return None


def examine() -> dict[str, Any]:
    """Everything, as JSON can hold it."""
    known = packages()
    found = {name: package.to_json() for name, package in known.items()}
    torch, broken = _import_torch()
    if broken and "torch" in found:
        found["torch"]["problem"] = broken
    gpu = _gpu(torch)
    device = "cuda" if gpu["devices"] else "cpu"
    return {
        "vzoom": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": found,
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
        "video": _video(device),
        "missing": _missing(found, gpu),
    }


def packages() -> dict[str, Package]:
    """What vzoom needs and what its extras bring, by the metadata of the installed vzoom; none without it."""
    from packaging.requirements import Requirement

    try:
        requirements = [Requirement(line) for line in metadata.requires("vzoom") or []]
        declared = metadata.metadata("vzoom").get_all("Provides-Extra") or []
    except metadata.PackageNotFoundError:
        return {}
    found: dict[str, Package] = {}
    for extra in ("", *(extra for extra in declared if extra not in _NOT_FOR_USERS)):
        for requirement in requirements:
            marker = requirement.marker
            is_always = marker is None or marker.evaluate({"extra": ""})
            if is_always if not extra else (not is_always and marker is not None and marker.evaluate({"extra": extra})):
                package = found.setdefault(requirement.name, Package(requirement.name))
                package.extras.append(extra)
                package.ranges.append(str(requirement.specifier))
    for extra, (name, _) in _BY_HAND.items():
        found[name] = Package(name, extras=[extra])
    return found


def _install(extra: str) -> str:
    target = f"'.[{extra}]'" if extra else "."
    return f"pip install {target} in the source tree"


def _import_torch() -> tuple[ModuleType | None, str | None]:
    """torch, or None and why: a missing or broken torch is what a doctor is called for."""
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a shared library of it cannot be loaded
        return None, f"cannot be imported: {error}"
    return torch, None


def _cpuinfo(key: str) -> str:
    """A field of the first processor in /proc/cpuinfo; empty if there is none."""
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
    """The NVIDIA kernel driver's version, or None if no driver is loaded."""
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


# Codecs that people have videos in, by libav's names.
_CODECS = ("h264", "hevc", "av1", "vp9", "vp8", "mpeg4", "mpeg2video", "mjpeg", "prores", "ffv1")


def _video(device: str) -> dict[str, Any]:
    """What decodes videos, which codecs, and why a decoder is not there."""
    try:
        import av
        from av.codec import codecs_available
    except ImportError as error:
        return {"pyav": {"why_not": str(error)}}
    pyav = {
        "libavcodec": ".".join(map(str, av.library_versions["libavcodec"])),
        "codecs": [name for name in _CODECS if name in codecs_available or f"lib{name}" in codecs_available],
    }
    from vzoom.video import DALI_CODECS, NVDEC_CODECS, VideoError, load_dali, why_no_decoder

    try:
        load_dali()
    except VideoError as error:
        return {"pyav": pyav, "dali": {"why_not": str(error)}}
    on_gpu = why_no_decoder("cuda:0") if device == "cuda" else "torch sees no GPU"
    dali: dict[str, Any] = {"codecs": sorted(DALI_CODECS), "why_not_on_gpu": on_gpu}
    if on_gpu is None:
        dali["gpu_codecs"] = sorted(NVDEC_CODECS)
    return {"pyav": pyav, "dali": dali}


def examine_video(path: str, device: str | None = None) -> dict[str, Any]:
    """A video: what it is, who decodes it for a model on `device` (a GPU if torch sees one), and why.

    Raises:
        VideoError: it cannot be read.
    """
    from vzoom.video import open_video

    if device is None:
        torch, _ = _import_torch()
        device = "cuda:0" if torch and torch.cuda.is_available() else "cpu"
    with open_video(path, device=device) as video:
        info = video.info
        return {
            "video": info.path,
            "device": device,
            "backend": info.backend,
            "notes": list(info.notes),
            "duration_seconds": info.duration_seconds,
            "fps": info.fps,
            "max_fps": info.max_fps,
            "width": info.width,
            "height": info.height,
            **video.stored,
        }


def _missing(found: dict[str, dict[str, Any]], gpu: dict[str, Any]) -> list[dict[str, str]]:
    """What to install, and by which command."""
    rows = [] if found else [{"what": "vzoom's own metadata (it is not installed)", "how": _install("")}]
    for extra in dict.fromkeys(extra for entry in found.values() for extra in entry["extras"]):
        absent = [name for name, entry in found.items() if extra in entry["extras"] and entry["version"] is None]
        if absent and extra not in _NEVER_NEEDED:
            purpose = f"for {EXTRAS.get(extra, extra)}" if extra else "needed"
            how = [_install(extra), *([_BY_HAND[extra][1]] if extra in _BY_HAND else [])]
            rows.append({"what": f"{', '.join(absent)} ({purpose})", "how": ", then ".join(how)})
    extension = _extension()
    if extension["why_missing"]:
        rows.append({"what": "the compiled extension", "how": extension["why_missing"]})
    if not gpu["devices"]:
        if gpu["driver"] is None:
            how_gpu = f"on a machine with an NVIDIA GPU, install its driver, then {_install('gpu')}"
        elif gpu["torch_cuda"] is None:
            how_gpu = f"pip uninstall torch, then {_install('gpu')}: the torch that pip takes is built with CUDA"
        else:
            how_gpu = "see whether nvidia-smi lists a GPU and CUDA_VISIBLE_DEVICES does not hide it"
        rows.append({"what": "a GPU", "how": how_gpu})
    return rows
