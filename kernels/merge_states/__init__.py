"""Combine attention over two disjoint sets of keys by their log-sum-exps."""

from .op import merge_states

__all__ = ["merge_states"]
