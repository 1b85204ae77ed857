"""Conversations on disk and how they are made: records, Parquet shards, token masks, importers, experts."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
