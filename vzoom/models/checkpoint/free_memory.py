"""Do a model's weights and its KV pool fit in the memory that is free? Asked before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

_MIN_TOKENS = 2048  # a conversation of fewer tokens holds no glance


@dataclass(frozen=True)
class MemoryNeed:
    """What running a model takes.

    Attributes:
        num_weights: its parameters.
        values_per_token: keys and values of one token, in all layers.
        max_total_tokens: tokens of a conversation.
        max_sessions: conversations at once.
        dtype: of weights, keys and values.
    """

    num_weights: int
    values_per_token: int
    max_total_tokens: int
    max_sessions: int
    dtype: torch.dtype

    @property
    def weight_bytes(self) -> int:
        """Memory of the weights."""
        return self.num_weights * self.dtype.itemsize

    @property
    def pool_bytes(self) -> int:
        """Memory of the KV pool."""
        return self.values_per_token * self.max_total_tokens * self.max_sessions * self.dtype.itemsize

    def fits(self, free: int) -> bool:
        """Whether both fit in `free` bytes."""
        return self.weight_bytes + self.pool_bytes <= free


def free_memory(device: torch.device) -> int:
    """Bytes that can be taken: of the GPU, or on the CPU of the machine and of this process's memory cgroup."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return free_cpu_memory(Path("/proc"), Path("/sys/fs/cgroup"))


def free_cpu_memory(proc: Path, cgroups: Path) -> int:
    """Bytes that a process can take without swapping or being killed.

    Args:
        proc: /proc.
        cgroups: where cgroups are mounted, of version 1, 2 or both. Of each group above the process the limit counts,
            less what is used and is no file cache, which gives way.
    """
    meminfo = proc / "meminfo"
    if not meminfo.exists():  # not Linux: nothing is known, nothing is refused
        return 1 << 62
    fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
    free = int(fields["MemAvailable"].split()[0]) * 1024
    return min([free, *_free_of_cgroups(proc / "self" / "cgroup", cgroups)])


def _free_of_cgroups(mine: Path, cgroups: Path) -> Iterator[int]:
    lines = mine.read_text().splitlines() if mine.exists() else []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, limit, usage, prefix, cache = cgroups, "memory.max", "memory.current", "", "file"
        elif "memory" in controllers.split(","):
            root, limit, usage = cgroups / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            prefix, cache = "total_", "cache"
        else:
            continue
        own = root / path.strip("/")
        # Within a container the mount often begins at the group itself, and the path is that of the host.
        for group in dict.fromkeys([own, *own.parents, root]):
            if group.is_relative_to(root) and (group / limit).exists():
                text = (group / limit).read_text().strip()
                if text != "max":
                    stat = dict(one.split() for one in (group / "memory.stat").read_text().splitlines())
                    gives_way = int(stat[f"{prefix}{cache}"]) - int(stat[f"{prefix}shmem"])
                    yield max(0, int(text) - int((group / usage).read_text()) + gives_way)


def check_memory(need: MemoryNeed, name: str, device: torch.device, *, free: int | None = None) -> None:
    """Refuse what does not fit.

    Args:
        need: of weights and pool.
        name: what the error calls the checkpoint.
        device: where it would be loaded.
        free: bytes; asked of the device if not given.

    Raises:
        ValueError: it does not fit. The message says what would.
    """
    free = free_memory(device) if free is None else free
    if need.fits(free):
        return
    conversations = f"{need.max_sessions} conversation{'' if need.max_sessions == 1 else 's'}"
    raise ValueError(
        f"{name} does not fit: in {str(need.dtype).removeprefix('torch.')} its weights take {_size(need.weight_bytes)} "
        f"and the KV pool {_size(need.pool_bytes)} ({conversations} of {need.max_total_tokens} tokens), "
        f"of {_size(free)} that are free on {device}. "
        f"What would fit: {', or '.join([*_that_fit(need, free), 'a smaller model'])}"
    )


def check_pool(num_bytes: int, name: str, device: torch.device, *, free: int | None = None) -> None:
    """Refuse a KV pool that does not fit beside the weights, which are loaded.

    Args:
        num_bytes: of the pool.
        name: what the error calls the checkpoint.
        device: where it would be.
        free: bytes; asked of the device if not given.

    Raises:
        ValueError: it does not fit.
    """
    free = free_memory(device) if free is None else free
    if num_bytes > free:
        raise ValueError(
            f"the KV pool of {name} takes {_size(num_bytes)}, of {_size(free)} that are free on {device}: "
            "lower max_sessions (--max-sessions) or max_total_tokens (--max-total-tokens)"
        )


def _that_fit(need: MemoryNeed, free: int) -> Iterator[str]:
    """Changes of the settings with which it fits, the smallest first."""
    dtypes = [need.dtype, *([torch.bfloat16] if need.dtype.itemsize > 2 else [])]
    for dtype in dtypes:
        flags = "" if dtype == need.dtype else "--dtype bfloat16"
        base = replace(need, dtype=dtype, max_sessions=1)
        for_pool = free - base.weight_bytes
        num_sessions = for_pool // base.pool_bytes
        num_tokens = for_pool // (need.values_per_token * dtype.itemsize) // 1024 * 1024
        if num_sessions >= need.max_sessions:
            yield flags
        elif num_sessions >= 1:
            yield f"{flags} --max-sessions {num_sessions}".strip()
        elif num_tokens >= _MIN_TOKENS:
            fewer = "" if need.max_sessions == 1 else " --max-sessions 1"
            yield f"{flags}{fewer} --max-total-tokens {num_tokens}".strip()


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.0f} MB"
