from .backend import Enabled as Enabled
from .backend import enable as enable
from .processor import ZoomProcessor as ZoomProcessor
from .zoom_cache import ZoomCache as ZoomCache
