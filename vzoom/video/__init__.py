"""Files and URLs of videos -> frames at exact times -> the pixels that a vision tower reads."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
