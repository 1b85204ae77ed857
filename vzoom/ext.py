"""The compiled extension `_vzoom`, where it is installed.

It is a top-level module, so that it is found from a clone too, where the source tree hides the installed package.
An extension of another version than the package is an error: it would compute with other arguments.
"""

from __future__ import annotations

import importlib
import importlib.util
from functools import cache
from types import ModuleType
from typing import Any


@cache
def native() -> ModuleType | None:
    """The extension, or None where it is not installed. ImportError where it is of another version or broken."""
    if importlib.util.find_spec("_vzoom") is None:
        return None
    from vzoom import __version__

    module = importlib.import_module("_vzoom")
    if module.__version__ != __version__:
        raise ImportError(
            f"_vzoom {module.__version__} ({module.__file__}) does not belong to vzoom {__version__}: "
            "run `pip install .` in the source tree again"
        )
    return module


def loaded() -> Any:
    """The extension, where it is known to be there: `registry.resolve` chose it."""
    module = native()
    assert module is not None
    return module


def why_missing() -> str:
    """Why `native()` is None, and how to mend it; empty where it is there."""
    return "" if native() is not None else "the extension _vzoom is not installed: pip install ."
