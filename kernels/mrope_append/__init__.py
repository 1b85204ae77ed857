"""Rotate q and k by their M-RoPE angles and write k and v into their pages."""

from .op import mrope_append

__all__ = ["mrope_append"]
