"""Benchmarks, runs of them in many processes, scores with their intervals, the page about runs, lmms-eval."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
