"""Buckets of duration for benchmarks that give seconds and no buckets of their own."""

from __future__ import annotations

_BUCKETS = ((180.0, "up to 3 min"), (600.0, "3 to 10 min"), (1800.0, "10 to 30 min"), (3600.0, "30 to 60 min"))


def bucket(seconds: float) -> str:
    """The bucket of a duration, its upper end included."""
    return next((name for most, name in _BUCKETS if seconds <= most), "over 60 min")
