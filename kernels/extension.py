"""The compiled extension `_vzoom`, if it is installed.

It is a top-level module: in a clone Python finds the source tree before the installed package, and the tree holds no
compiled code. An extension of another version than the package is an error: it would compute with other arguments.
What it holds is described by `vzoom/_vzoom.pyi`.
"""

from __future__ import annotations

import importlib
import importlib.util
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    pass  # the stub


@cache
def native() -> ModuleType | None:
    """Find the extension.

    Returns:
        The module, or None if it is not installed.

    Raises:
        ImportError: it is of another version than the package, or it cannot be loaded.
    """
    if importlib.util.find_spec("_vzoom") is None:
        return None
    from vzoom import __version__

    found = importlib.import_module("_vzoom")
    if found.__version__ != __version__:
        raise ImportError(
            f"_vzoom {found.__version__} ({found.__file__}) does not belong to vzoom {__version__}: "
            "run `pip install .` in the source tree again"
        )
    return found


def why_missing() -> str:
    """Say why `native()` is None and how to mend it; an empty string if it is there."""
    return "" if native() is not None else "the extension _vzoom is not installed: pip install ."


def __getattr__(name: str) -> Any:
    """`extension.module` is the extension itself, typed by its stub, for code that `registry.resolve` has chosen."""
    if name != "module":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = native()
    assert found is not None, why_missing()
    return found
