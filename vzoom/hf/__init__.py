"""The drop-in for transformers: generate() of an unmodified model on vzoom's pages."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
