"""Copy whole blocks of K and V pages in all layers: copy-on-write of a tail block that a fork shares."""

from .op import copy_blocks

__all__ = ["copy_blocks"]
