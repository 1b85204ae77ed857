"""The tensors that a checkpoint's files hold, by name: what each is, and its values when they are asked for.

A safetensors file is 8 bytes (the length of the header, little-endian), a JSON header with the dtype, shape and place
of each tensor, and the bytes of all tensors (https://github.com/huggingface/safetensors, "Format"). Headers are read
when a checkpoint is opened, values one tensor at a time, straight to where they stay.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_PICKLED = (".bin", ".pt", ".pth", ".ckpt")
_MAX_HEADER_BYTES = 100_000_000  # as safetensors itself limits it
_CHUNK_BYTES = 1 << 24  # at a time, of tensors that are converted or go to another device

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


class StoredTensor(ABC):
    """A tensor that can be read: as a file holds it, or made of such ones (merged, dequantised).

    Attributes:
        shape: its sizes.
        dtype: of its values as `read` returns them.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype

    @abstractmethod
    def read(self) -> Tensor:
        """Its values, on the CPU, in memory of their own."""

    def write_to(self, out: Tensor) -> None:
        """Write its values into `out`, whatever its dtype and device.

        Args:
            out: of the same shape, contiguous.
        """
        out.copy_(self.read())


@dataclass(frozen=True)
class FileTensor(StoredTensor):
    """A tensor of a safetensors file.

    Attributes:
        name: its key in the file.
        shape: its sizes.
        dtype: of its values.
        path: the file.
        offset: of its first byte in the file.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    path: Path
    offset: int

    @property
    def num_bytes(self) -> int:
        """What it takes in the file."""
        return prod(self.shape) * self.dtype.itemsize

    def read(self) -> Tensor:
        """Its values, on the CPU, in memory of their own."""
        out = torch.empty(self.shape, dtype=self.dtype)
        self.write_to(out)
        return out

    def write_to(self, out: Tensor) -> None:
        """Write its values into `out`: straight if it is on the CPU and of this dtype, else a part at a time."""
        flat = out.reshape(-1)
        with self.path.open("rb", buffering=0) as file:
            file.seek(self.offset)
            if out.device.type == "cpu" and out.dtype == self.dtype:
                self._fill(file, flat)
                return
            step = max(1, _CHUNK_BYTES // self.dtype.itemsize)
            part = torch.empty(min(step, len(flat)), dtype=self.dtype)
            for begin in range(0, len(flat), step):
                rows = part[: min(step, len(flat) - begin)]
                self._fill(file, rows)
                flat[begin : begin + len(rows)].copy_(rows)

    def _fill(self, file: Any, flat: Tensor) -> None:
        if not len(flat):
            return
        wanted = flat.view(torch.uint8).numpy().data
        while len(wanted):
            count = file.readinto(wanted)
            if not count:
                raise ValueError(
                    f"{self.path} ended before the last byte of {self.name}: it was changed while it was read"
                )
            wanted = wanted[count:]


def open_weights(folder: Path, name: str) -> dict[str, FileTensor]:
    """The tensors of a folder's safetensors files, one file or shards with an index.

    Args:
        folder: the checkpoint's.
        name: what errors call it.

    Returns:
        The tensors by their keys. No values are read.

    Raises:
        ValueError: there are none, only pickled ones, a shard or a key of the index is missing, or a file is cut short
            or not of this format. The message names it.
    """
    if (folder / SINGLE).is_file():
        return read_header(folder / SINGLE)
    if not (folder / INDEX).is_file():
        raise ValueError(_no_weights(folder, name))
    index = _weight_map(folder)
    if not index:
        raise ValueError(f"{folder / INDEX} lists no tensors (weight_map): download it again")
    shards = sorted(set(index.values()))
    if lost := [shard for shard in shards if Path(shard).name != shard or not (folder / shard).is_file()]:
        raise ValueError(f"{name} lacks {listed(lost, 'shard')} of its {len(shards)}, see {INDEX}: download them again")
    found: dict[str, FileTensor] = {}
    for shard in shards:
        # Of two shards with one key the index chooses.
        found |= {key: one for key, one in read_header(folder / shard).items() if index.get(key, shard) == shard}
    if lost := [key for key, shard in index.items() if key not in found]:
        raise ValueError(
            f"{name}: {INDEX} lists {listed(lost, 'tensor')}, which {index[lost[0]]} does not hold: "
            "download the shards again, all of one revision"
        )
    return found


def weight_files(folder: Path) -> list[str]:
    """The names of the safetensors files that the index lists, or of the only one, whether they are there or not."""
    if (folder / INDEX).is_file() and not (folder / SINGLE).is_file():
        return sorted(set(_weight_map(folder).values()))
    return [SINGLE]


def _weight_map(folder: Path) -> dict[str, str]:
    """Which file each tensor is in, as the index says. ValueError if it cannot be read."""
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8")).get("weight_map", {})
        if not all(isinstance(shard, str) for shard in index.values()):
            raise TypeError("a shard has no name")
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise ValueError(f"{folder / INDEX} is damaged ({error}): download it again") from error
    return dict(index)


def read_header(path: Path) -> dict[str, FileTensor]:
    """The tensors of one safetensors file, by their keys.

    Raises:
        ValueError: it is cut short, or no such file. The message names it.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or not 2 <= length <= _MAX_HEADER_BYTES:
            raise ValueError(f"{path} is no safetensors file ({size} bytes): download it again")
        if 8 + length > size:
            raise ValueError(f"{path} is cut short: it has {size} bytes of {8 + length} or more: download it again")
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is no safetensors file (its header is not JSON): download it again") from error
    if not isinstance(header, dict):
        raise ValueError(f"{path} is no safetensors file (its header is no JSON object): download it again")
    header.pop("__metadata__", None)
    found = {key: _entry(key, entry, path, 8 + length) for key, entry in header.items()}
    at = 8 + length
    for one in sorted(found.values(), key=lambda one: (one.offset, one.num_bytes)):
        if one.offset != at:
            raise ValueError(
                f"{path} is no safetensors file ({one.name} begins at byte {one.offset}, not at {at}, where the tensor "
                "before it ends): download it again"
            )
        at += one.num_bytes
    needed = max((one.offset + one.num_bytes for one in found.values()), default=8 + length)
    if needed > size:
        lost = [key for key, one in found.items() if one.offset + one.num_bytes > size]
        raise ValueError(
            f"{path} is cut short: it has {size} bytes of {needed}, so that {listed(lost, 'tensor')} "
            f"{'is' if len(lost) == 1 else 'are'} not whole: download it again"
        )
    return found


def _entry(key: str, entry: Any, path: Path, start: int) -> FileTensor:
    try:
        begin, end = entry["data_offsets"]
        stored, shape = entry["dtype"], tuple(entry["shape"])
        if not isinstance(stored, str) or not all(
            type(size) is int and 0 <= size < 2**63 for size in (begin, end, *shape)
        ):
            raise ValueError("a dtype is no text, or a size is no whole number of 0 or more")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is no safetensors file (its header describes {key[:80]} as {repr(entry)[:200]}): download it again"
        ) from error
    if stored not in _DTYPES:
        raise ValueError(f"{path} holds {key} as {stored}; vzoom reads {', '.join(_DTYPES)}")
    tensor = FileTensor(key, shape, _DTYPES[stored], path, start + begin)
    if end - begin != tensor.num_bytes:
        raise ValueError(
            f"{path} holds {end - begin} bytes for {key}, but {stored} {list(shape)} has {tensor.num_bytes}: "
            "download it again"
        )
    return tensor


def _no_weights(folder: Path, name: str) -> str:
    pickled = sorted(file.name for file in folder.iterdir() if file.name.endswith(_PICKLED))
    pickled += sorted(file.name for file in folder.glob("*.bin.index.json"))
    if pickled:
        return (
            f"{name} has only pickled weights ({listed(pickled, 'file')}), which can run code when they are opened: "
            f"vzoom never reads them: take a revision with {SINGLE}, or convert them where you trust them "
            "(transformers: from_pretrained, then save_pretrained)"
        )
    return f"{name} holds no weights, neither {SINGLE} nor {INDEX} (pickled ones, .bin or .pt, are never read)"


def listed(names: list[str], noun: str, *, shown: int = 3) -> str:
    """'2 tensors (a, b)': how many, and the first few."""
    more = f", and {len(names) - shown} more" if len(names) > shown else ""
    return f"{len(names)} {noun}{'' if len(names) == 1 else 's'} ({', '.join(names[:shown])}{more})"
