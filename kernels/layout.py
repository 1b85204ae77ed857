"""The layout of K/V pages, one place for the whole package, and the letters of the ops' dimensions.

Pages of one layer have the memory order of their device:

    CPU   [N, G, P, D]  the keys of one head in a page follow each other, as a core reads them
    CUDA  [N, P, G, D]  the heads of one token follow each other, as appends write and flash-attention reads them

Only the order of dimensions is fixed: strides are free as long as head_dim is contiguous. Pages of all layers have L in
front. A slot is block * P + offset in the block, int64; a slot below 0 means "do not write" (padding).

The legend, for every name, check and comment of `kernels/`; `csrc/tensor_view.h` has the same:

    L  layers                         T  tokens, those of all sequences one after the other
    N  blocks (pages)                 S  sequences
    P  tokens per page                B  blocks per row of the block table [S, B]
    H  query heads                    Q  queries of one sequence in a call
    G  key/value heads                K  keys of one sequence
    D  head_dim                       R  rotated pairs (i, i + R) of a head, D / 2
    C  copies of blocks               X  pieces that a context is cut into
    I  inputs of a projection         O  outputs of a projection
    F  features of an MLP

Images have letters of their own: frames [N, H, W, C]; E values of a patch, and R rows of them.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .huge_pages import huge_region

DEFAULT_BLOCK_SIZE = 32  # tokens


class PageDims(NamedTuple):
    """The sizes of one layer's pages, whatever their memory order."""

    num_blocks: int
    kv_heads: int
    block_size: int
    head_dim: int


def page_shape(
    num_blocks: int, kv_heads: int, block_size: int, head_dim: int, *, device: torch.device
) -> tuple[int, ...]:
    """Give the shape of one layer's K (or V) pages.

    Args:
        num_blocks: N.
        kv_heads: G.
        block_size: P.
        head_dim: D.
        device: where the pages will be.

    Returns:
        Four sizes, in the order of the device.
    """
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
    """Make zeroed pages; on the CPU in huge pages, as decode reads them whole.

    Args:
        num_layers: L.
        num_blocks: N.
        kv_heads: G.
        head_dim: D.
        dtype: of the elements.
        device: where the pages will be.
        block_size: P.

    Returns:
        [L, *pages of a layer].
    """
    shape = (num_layers, *page_shape(num_blocks, kv_heads, block_size, head_dim, device=device))
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    return torch.from_numpy(huge_region(math.prod(shape) * dtype.itemsize)).view(dtype).view(shape)


def heads_first(pages: Tensor) -> Tensor:
    """View the pages as [..., N, G, P, D], whatever the device. One layer's pages, or those of all layers."""
    return pages.transpose(-3, -2) if pages.device.type == "cuda" else pages


def page_dims(k_pages: Tensor, v_pages: Tensor) -> PageDims:
    """Read the sizes of one layer's pages, in the layout of their device.

    Raises:
        ValueError: they do not have four dimensions, or K and V differ in shape.
    """
    if k_pages.ndim != 4:
        raise ValueError(f"pages must have 4 dimensions (see vzoom.kernels.layout), got shape {tuple(k_pages.shape)}")
    _check_one_shape(k_pages, v_pages)
    return PageDims(*heads_first(k_pages).shape)


def layered_page_dims(k_pages: Tensor, v_pages: Tensor) -> PageDims:
    """Read the sizes of one layer of pages that are stacked, [L, *pages of a layer].

    Raises:
        ValueError: they do not have five dimensions, or K and V differ in shape or dtype.
    """
    if k_pages.ndim != 5:
        raise ValueError(f"k_pages must be stacked, [layers, *pages of a layer], got shape {tuple(k_pages.shape)}")
    _check_one_shape(k_pages, v_pages)
    if k_pages.dtype != v_pages.dtype:
        raise ValueError(f"v_pages is {v_pages.dtype} but k_pages is {k_pages.dtype}: they must share one dtype")
    return PageDims(*heads_first(k_pages).shape[1:])


def _check_one_shape(k_pages: Tensor, v_pages: Tensor) -> None:
    if k_pages.shape != v_pages.shape:
        raise ValueError(f"k_pages {tuple(k_pages.shape)} and v_pages {tuple(v_pages.shape)} must have one shape")
