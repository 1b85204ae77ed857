from .config import Sampling as Sampling
from .config import ZoomConfig as ZoomConfig
from .engine import Engine as Engine
from .engine import Outcome as Outcome
from .engine import Request as Request
from .hf import ZoomCache as ZoomCache
from .hf import ZoomProcessor as ZoomProcessor
from .hf import enable as enable
from .types import Clip as Clip
from .types import Event as Event
from .types import Failed as Failed
from .types import Finished as Finished
from .types import StopReason as StopReason
from .types import TextDelta as TextDelta
from .types import Trajectory as Trajectory
from .types import Turn as Turn
from .types import TurnEnded as TurnEnded
from .types import TurnOpened as TurnOpened
from .types import ZoomCall as ZoomCall
from .video import VideoError as VideoError
from .video import open_video as open_video
from .zoomer import Result as Result
from .zoomer import Zoomer as Zoomer
from .zoomer import load as load

__version__: str
