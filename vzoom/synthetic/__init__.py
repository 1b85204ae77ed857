"""Rendered long videos with exact ground truth, questions about them, and the small model that learned in them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
