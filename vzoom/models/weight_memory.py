"""Where weights are in memory: on the CPU in one region of huge pages, each on a cache line of its own.

A decode step reads every weight once. As safetensors maps them (4 KiB pages of a file, at any multiple of 8 bytes) a
core reads them at 19 to 21 GB/s, placed so at 29 (measured, Zen 4). Memory is taken before anything is read, so that
values go from the files to where they stay, and there is never a second copy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import prod

import torch
from torch import Tensor, nn

from ..kernels.huge_pages import huge_region

_LINE = 64  # bytes

Take = Callable[[Sequence[int], torch.dtype], Tensor]


def new_weights(model: nn.Module, fused: Iterable[Sequence[nn.Parameter]], device: torch.device) -> dict[str, Tensor]:
    """Take memory for every tensor of a model that is on the meta device.

    Args:
        model: a module whose tensors have shapes and dtypes, and no values.
        fused: parameters that will be below each other in one tensor, see `fuse`.
        device: where the memory is.

    Returns:
        By the names of model.state_dict(): parameters, or tensors for buffers, with values that mean nothing. Tied
        names have the same object.
    """
    named: dict[str, Tensor] = model.state_dict(keep_vars=True)
    groups: list[list[Tensor]] = [list(group) for group in fused]
    grouped = {id(one) for group in groups for one in group}
    groups += [[one] for one in {id(one): one for one in named.values()}.values() if id(one) not in grouped]
    shapes = [
        [sum(len(one) for one in group), *group[0].shape[1:]] if len(group) > 1 else group[0].shape for group in groups
    ]
    take = _region(shapes, [group[0].dtype for group in groups]) if device.type == "cpu" else _on(device)
    placed: dict[int, Tensor] = {}
    for group, shape in zip(groups, shapes, strict=True):
        whole = take(shape, group[0].dtype)
        parts = whole.split([len(one) for one in group]) if len(group) > 1 else [whole]
        for one, part in zip(group, parts, strict=True):
            is_parameter = isinstance(one, nn.Parameter)
            placed[id(one)] = nn.Parameter(part, requires_grad=one.requires_grad) if is_parameter else part
    return {name: placed[id(one)] for name, one in named.items()}


def fuse(parameters: Sequence[nn.Parameter]) -> Tensor:
    """The parameters below each other in one tensor. They are views of it, so that transformers' model still works, can
    be trained and saved: as `new_weights` placed them, else they are moved."""
    first = parameters[0].detach()
    shape = [sum(len(one) for one in parameters), *first.shape[1:]]
    if _follow_each_other(parameters):
        return first.as_strided(shape, first.stride())
    whole = torch.cat([one.detach() for one in parameters])
    for parameter, rows in zip(parameters, whole.split([len(one) for one in parameters]), strict=True):
        parameter.data = rows
    return whole


def _follow_each_other(parameters: Sequence[nn.Parameter]) -> bool:
    storage = parameters[0].untyped_storage()
    begin = parameters[0].storage_offset()
    for one in parameters:
        if one.untyped_storage()._cdata != storage._cdata or one.storage_offset() != begin or not one.is_contiguous():
            return False
        begin += one.numel()
    return True


def _on(device: torch.device) -> Take:
    return lambda shape, dtype: torch.empty(list(shape), dtype=dtype, device=device)


def _region(shapes: Sequence[Sequence[int]], dtypes: Sequence[torch.dtype]) -> Take:
    """Memory for tensors of these shapes, in this order."""
    sizes = [prod(shape) * dtype.itemsize for shape, dtype in zip(shapes, dtypes, strict=True)]
    region = huge_region(sum(_rounded_up(size) for size in sizes))
    used = 0

    def take(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        nonlocal used
        end = used + prod(shape) * dtype.itemsize
        # An array of its own for each tensor, which then has a storage of its own: a saved model holds no more than it.
        memory = torch.from_numpy(region[used:end]).view(dtype).view(list(shape))
        used = _rounded_up(end)
        return memory

    return take


def _rounded_up(num_bytes: int) -> int:
    return -(-num_bytes // _LINE) * _LINE
