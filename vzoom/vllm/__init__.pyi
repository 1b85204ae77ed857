from .engine import VllmEngine as VllmEngine
from .engine import VllmStats as VllmStats
from .settings import parse_settings as parse_settings
