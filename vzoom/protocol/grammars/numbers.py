"""Numbers and times as models write them. Whatever the text is, reading it is linear and raises nothing."""

from __future__ import annotations

import math
import re
from typing import Any

_CLOCK = re.compile(r"(?:(\d+):)?(\d+):(\d+(?:\.\d*)?)")
_PLAIN = re.compile(
    r"([-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:e[-+]?\d+)?|[-+]?(?:nan|inf(?:inity)?))(.*)", re.IGNORECASE | re.DOTALL
)
_UNITS = ("", "s", "sec", "seconds", "fps")


def number(value: Any) -> float | None:
    """A number, "12.5", "12.5s", "2 fps", "1:05" or "1:02:03.5" -> float, which may be infinite or NaN; or None."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        try:
            return float(value)
        except OverflowError:
            return math.inf if value > 0 else -math.inf
    if not isinstance(value, str):
        return None
    text = value.strip()
    if clock := _CLOCK.fullmatch(text):
        hours, minutes, seconds = (float(group) for group in clock.groups(default="0"))
        return hours * 3600 + minutes * 60 + seconds
    plain = _PLAIN.fullmatch(text)
    return float(plain[1]) if plain and plain[2].strip().casefold() in _UNITS else None


def plain(x: float) -> str:
    """A number as a call shows it, rounded to hundredths. ValueError if it is not finite."""
    if not math.isfinite(x):
        raise ValueError(f"a call cannot ask for {x!r}")
    return str(int(x)) if x == int(x) else f"{x:.2f}".rstrip("0")


def clock(seconds: float, *, hours: bool = True) -> str:
    """Whole seconds as HH:MM:SS, or as MM:SS with as many minutes as there are."""
    whole = int(seconds)
    if hours:
        return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}"
    return f"{whole // 60:02}:{whole % 60:02}"
