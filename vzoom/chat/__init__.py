"""A client of OpenAI-compatible chat completions: retries, failover between endpoints, a cap on what is spent."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
