"""vzoom lets a vision-language model look closer at a long video while it is thinking.

    zoomer = vzoom.load("path/or/hub-id", device="auto")
    result = zoomer.ask("match.mp4", "Who scored first?", max_zooms=4)
    result.answer, result.trajectory.calls
    result.report.save("match.html")

The public names are in `__init__.pyi`. They are loaded when they are first used, so `import vzoom` costs no torch.
"""

import lazy_loader

__version__ = "0.1.0"  # the only place: the build reads it from here

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
