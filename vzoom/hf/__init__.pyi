from .backend import Enabled as Enabled
from .backend import enable as enable
from .zoom_cache import ZoomCache as ZoomCache
