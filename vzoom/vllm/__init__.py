"""The other engine: conversations whose model vLLM runs, with clips appended to running requests."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
