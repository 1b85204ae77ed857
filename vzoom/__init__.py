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
    from .config import Sampling, ZoomConfig
    from .result import Result
    from .zoomer import Zoomer, load

__version__ = "0.1.0"  # the only place: the build reads it from here

__all__ = ["Result", "Sampling", "ZoomConfig", "Zoomer", "__version__", "load"]

_HOMES = {"load": "zoomer", "Zoomer": "zoomer", "Result": "result", "Sampling": "config", "ZoomConfig": "config"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'vzoom' has no attribute {name!r}")
    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value  # the next access does not come here
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
