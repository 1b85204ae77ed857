"""Root mean square norm of rows."""

from .op import rms_norm

__all__ = ["rms_norm"]
