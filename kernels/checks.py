"""Checks of arguments for fakes, references and Triton. The C++ side has its own, in tensor_view.h."""

from __future__ import annotations

from torch import Tensor


def check_dims(**tensors: tuple[Tensor, str]) -> dict[str, int]:
    """name=(tensor, "THD") ... -> size of each letter. ValueError where sizes disagree or a dimension is missing.

    An upper-case letter is a size that must agree wherever it stands; "." matches anything.
    """
    sizes: dict[str, int] = {}
    owner: dict[str, str] = {}
    for name, (tensor, letters) in tensors.items():
        if tensor.ndim != len(letters):
            raise ValueError(f"{name} must have dimensions [{', '.join(letters)}], got shape {tuple(tensor.shape)}")
        for letter, size in zip(letters, tensor.shape, strict=True):
            if letter != "." and sizes.setdefault(letter, size) != size:
                raise ValueError(
                    f"{name} has {letter} = {size} but {owner[letter]} has {letter} = {sizes[letter]} "
                    f"({name}: {tuple(tensor.shape)})"
                )
            owner.setdefault(letter, name)
    return sizes


def check_same_device(**tensors: Tensor | None) -> None:
    """ValueError where two tensors are on different devices."""
    first: tuple[str, Tensor] | None = None
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        if first is None:
            first = (name, tensor)
        elif tensor.device != first[1].device:
            raise ValueError(f"{name} is on {tensor.device} but {first[0]} is on {first[1].device}: move one of them")


def check_last_dim_contiguous(**tensors: Tensor) -> None:
    """ValueError where the last dimension of a tensor has a stride other than 1."""
    for name, tensor in tensors.items():
        if tensor.shape[-1] > 1 and tensor.stride(-1) != 1:
            raise ValueError(f"the last dimension of {name} must be contiguous, got strides {tensor.stride()}")
