"""Our tolerances: moved memory is bitwise, numbers err at most twice what torch errs in the same dtype."""

from __future__ import annotations

import torch
from torch import Tensor


def same_bits(name: str, got: Tensor, wanted: Tensor) -> None:
    """Compare bytes, those of NaNs too.

    Raises:
        AssertionError: a byte differs.
    """
    assert got.shape == wanted.shape, f"{name}: shape {tuple(got.shape)}, wanted {tuple(wanted.shape)}"
    size = (
        torch.uint8 if got.element_size() == 1 else {2: torch.int16, 4: torch.int32, 8: torch.int64}[got.element_size()]
    )
    different = got.cpu().contiguous().view(size) != wanted.cpu().contiguous().view(size)
    assert not different.any(), f"{name}: {int(different.sum())} of {different.numel()} values are not bitwise equal"


def within_tolerance(name: str, got: Tensor, torch_got: Tensor, truth: Tensor) -> None:
    """Compare numbers: `got` may err twice what torch errs.

    One unit in the last place of the largest value is allowed on top: torch may be exact by luck in a small case.

    Args:
        name: what the message calls it.
        got: what is tested.
        torch_got: the reference in the dtype of `got`.
        truth: the reference in float64.

    Raises:
        AssertionError: it errs more.
    """
    got, torch_got = got.cpu(), torch_got.cpu()
    assert got.shape == truth.shape, f"{name}: shape {tuple(got.shape)}, wanted {tuple(truth.shape)}"
    assert got.isfinite().equal(truth.isfinite()), f"{name}: not the same values are finite"
    finite = truth.isfinite()
    assert got[~finite].double().equal(truth[~finite]), f"{name}: infinities differ"
    unit = torch.finfo(got.dtype).eps
    got, torch_got, truth = got[finite].double(), torch_got[finite].double(), truth[finite]
    if truth.numel() == 0:
        return
    error = float((got - truth).abs().max())
    allowed = float(2 * (torch_got - truth).abs().max() + unit * truth.abs().max())
    assert error <= allowed, f"{name}: error {error:.3g}, allowed {allowed:.3g}"
