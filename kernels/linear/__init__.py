"""Projections: x W^T + b, gated or not, for the few rows of a decode step and for many."""

from .op import FEW_ROWS, linear

__all__ = ["FEW_ROWS", "linear"]
