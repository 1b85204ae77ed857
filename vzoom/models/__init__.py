"""Checkpoint -> model, tokenizer and patch geometry, from a local path or a hub id by the same code."""

from __future__ import annotations

from .load import Checkpoint, load_checkpoint, load_patch_spec

__all__ = ["Checkpoint", "load_checkpoint", "load_patch_spec"]
