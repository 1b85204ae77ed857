"""vzoom lets a vision-language model look closer at a long video while it is thinking.

    zoomer = vzoom.load("path/or/hub-id", device="auto")
    result = zoomer.ask("match.mp4", "Who scored first?", max_zooms=4)
    result.answer, result.trajectory.calls
    result.report.save("match.html")

The names below are loaded when they are first used, so `import vzoom` costs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .backend import enable
    from .config import Sampling, ZoomConfig
    from .zoom_cache import ZoomCache
    from .zoomer import load

__version__ = "0.1.0"  # the only place: the build reads it from here

__all__ = ["Sampling", "ZoomCache", "ZoomConfig", "__version__", "enable", "load"]

_HOMES = {
    "load": "zoomer",
    "Sampling": "config",
    "ZoomConfig": "config",
    "enable": "backend",
    "ZoomCache": "zoom_cache",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'vzoom' has no attribute {name!r}")
    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value  # the next access does not come here
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
