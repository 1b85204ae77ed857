from .config import Sampling as Sampling
from .config import ZoomConfig as ZoomConfig
from .hf import ZoomCache as ZoomCache
from .hf import enable as enable
from .zoomer import Result as Result
from .zoomer import Zoomer as Zoomer
from .zoomer import load as load

__version__: str
