"""The layout of K/V pages, one place for the whole package. It is a property of the device.

CPU:  HND [num_blocks, kv_heads, block_size, head_dim]: one head's keys of a page lie together, as a core reads them.
CUDA: NHD [num_blocks, block_size, kv_heads, head_dim]: one token's heads lie together, as appends write them and
      flash-attention reads them.
A slot is block * block_size + offset in the block, int64; a slot below 0 means "do not write" (padding).
Only the order of dimensions is fixed: strides are free as long as head_dim is contiguous.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .huge_pages import huge_region

DEFAULT_BLOCK_SIZE = 32  # tokens


class PageDims(NamedTuple):
    num_blocks: int
    kv_heads: int
    block_size: int
    head_dim: int


def page_shape(
    num_blocks: int, kv_heads: int, block_size: int, head_dim: int, *, device: torch.device
) -> tuple[int, ...]:
    """The shape of one layer's K (or V) pages on `device`."""
    if device.type == "cuda":
        return (num_blocks, block_size, kv_heads, head_dim)
    return (num_blocks, kv_heads, block_size, head_dim)


def new_pages(
    num_layers: int,
    num_blocks: int,
    kv_heads: int,
    head_dim: int,
    *,
    dtype: torch.dtype,
    device: torch.device,
    block_size: int = DEFAULT_BLOCK_SIZE,
) -> Tensor:
    """Zeroed pages, [num_layers, *pages of a layer]. On the CPU in huge pages: decode reads them whole."""
    shape = (num_layers, *page_shape(num_blocks, kv_heads, block_size, head_dim, device=device))
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    return torch.from_numpy(huge_region(math.prod(shape) * dtype.itemsize)).view(dtype).view(shape)


def heads_first(pages: Tensor) -> Tensor:
    """The pages as a view [num_blocks, kv_heads, block_size, head_dim], whatever the device."""
    return pages.transpose(1, 2) if pages.device.type == "cuda" else pages


def page_dims(pages: Tensor) -> PageDims:
    """Sizes of pages, read by the device's layout. ValueError where there are not four dimensions."""
    if pages.ndim != 4:
        raise ValueError(f"pages must have 4 dimensions (see vzoom.kernels.layout), got shape {tuple(pages.shape)}")
    return PageDims(*heads_first(pages).shape)


def layered_heads_first(pages: Tensor) -> Tensor:
    """Pages of all layers [L, ...] as a view [L, num_blocks, kv_heads, block_size, head_dim], whatever the device."""
    return pages.transpose(2, 3) if pages.device.type == "cuda" else pages


def check_layered_pages(k_pages: Tensor, v_pages: Tensor) -> PageDims:
    """Sizes of one layer of pages that are stacked [L, *pages of a layer]. ValueError where K and V do not fit."""
    if k_pages.ndim != 5:
        raise ValueError(f"k_pages must be stacked, [layers, *pages of a layer], got shape {tuple(k_pages.shape)}")
    if k_pages.shape != v_pages.shape:
        raise ValueError(f"k_pages {tuple(k_pages.shape)} and v_pages {tuple(v_pages.shape)} must have one shape")
    if k_pages.dtype != v_pages.dtype:
        raise ValueError(f"v_pages is {v_pages.dtype} but k_pages is {k_pages.dtype}: they must share one dtype")
    return PageDims(*layered_heads_first(k_pages).shape[1:])
