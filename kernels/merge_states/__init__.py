"""Combine attention over two disjoint sets of keys by their log-sum-exps."""
