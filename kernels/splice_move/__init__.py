"""Move cached tokens to other slots and other positions, in all layers."""

from .op import splice_move

__all__ = ["splice_move"]
