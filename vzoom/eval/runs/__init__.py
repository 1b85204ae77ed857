"""Asking a benchmark of a model: policies, shards, predictions on disk."""
