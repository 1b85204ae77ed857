"""What the model reads and writes: the grammar of a turn, tokens, frame times, M-RoPE positions, answers."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
