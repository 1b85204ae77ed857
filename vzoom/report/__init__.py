"""One self-contained HTML page about one answer, and the shell that every page has."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
