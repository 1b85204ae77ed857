"""Attention of ragged queries to keys and values in pages."""

from .op import paged_attention

__all__ = ["paged_attention"]
