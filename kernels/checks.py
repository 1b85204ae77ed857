"""Checks of arguments, for fakes, references and GPU implementations. The C++ side has its own, in tensor_view.h."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import torch
from torch import Tensor

from .declare import plain_name


def check_shapes(a: NamedTuple) -> dict[str, int]:
    """Check the tensors of an op's Arguments: all on one device, with the dimensions that their names say.

    Args:
        a: the arguments. Those that are None or no tensors are passed over.

    Returns:
        The size of each letter, such as {"T": 5, "H": 28, "D": 128}.

    Raises:
        ValueError: two tensors are on different devices, or a tensor has another shape than its name says.
    """
    tensors = {field: value for field, value in zip(a._fields, a, strict=True) if isinstance(value, Tensor)}
    check_same_device(**{plain_name(field): tensor for field, tensor in tensors.items()})
    letters = {field: field.removeprefix(plain_name(field)).removeprefix("_") for field in tensors}
    return check_dims(**{plain_name(field): (tensors[field], letters[field]) for field in tensors if letters[field]})


def check_dims(**tensors: tuple[Tensor, str]) -> dict[str, int]:
    """Check that dimensions with one letter have one size.

    Args:
        tensors: name=(tensor, "THD"), a letter for each dimension. "." matches any size.

    Returns:
        The size of each letter.

    Raises:
        ValueError: sizes disagree, or a tensor has another number of dimensions.
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
    """Check that all tensors are on one device.

    Raises:
        ValueError: two tensors are on different devices.
    """
    first: tuple[str, Tensor] | None = None
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        if first is None:
            first = (name, tensor)
        elif tensor.device != first[1].device:
            raise ValueError(f"{name} is on {tensor.device} but {first[0]} is on {first[1].device}: move one of them")


def check_last_dim_contiguous(**tensors: Tensor | None) -> None:
    """Check that the elements of each row of the tensors are side by side.

    Raises:
        ValueError: the last dimension of a tensor has a stride other than 1.
    """
    for name, tensor in tensors.items():
        if tensor is not None and tensor.shape[-1] > 1 and tensor.stride(-1) != 1:
            raise ValueError(f"the last dimension of {name} must be contiguous, got strides {tensor.stride()}")


def check_dtype(allowed: torch.dtype | Collection[torch.dtype], **tensors: Tensor | None) -> None:
    """Check that each tensor has an allowed dtype.

    Args:
        allowed: one dtype or several.
        tensors: name=tensor. None is passed over.

    Raises:
        ValueError: a tensor has another dtype.
    """
    every = (allowed,) if isinstance(allowed, torch.dtype) else tuple(allowed)
    for name, tensor in tensors.items():
        if tensor is not None and tensor.dtype not in every:
            names = " or ".join(str(dtype).removeprefix("torch.") for dtype in every)
            raise ValueError(f"{name} must be {names}, got {tensor.dtype}")


def check_one_dtype(**tensors: Tensor | None) -> None:
    """Check that all tensors have the dtype of the first.

    Raises:
        ValueError: a tensor has another dtype.
    """
    (owner, first), *rest = [(name, tensor) for name, tensor in tensors.items() if tensor is not None]
    for name, tensor in rest:
        if tensor.dtype != first.dtype:
            raise ValueError(f"{name} is {tensor.dtype} but {owner} is {first.dtype}: they must share one dtype")
