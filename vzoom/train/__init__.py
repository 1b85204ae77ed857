"""Training of models that zoom: pretrain, sft, grpo and the pipeline of all of them. `vzoom train --help`."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
