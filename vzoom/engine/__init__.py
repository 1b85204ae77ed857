"""Requests in, outcomes out: the loop, the scheduler, sessions, clips on their way, KV pages, sampling."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
