"""The gate of a gated MLP in one pass."""

from .op import silu_mul

__all__ = ["silu_mul"]
