"""JSON between tags: `<video_zoom>{"segment": [3, 5.5], "fps": 2}</video_zoom>`.

VideoZoomer's models also write `{"start_time": 3, "end_time": 5.5}` and `start=3 end=5.5`.
"""

from __future__ import annotations

import re

from ...types import CallError, Malformed
from ..definition import CallFormat
from .base import Said, arguments_of, excerpt, said_by_arguments
from .json_text import first_object, said_so_far

_SPELLINGS = (
    {"segment": "segment", "fps": "fps", "num_frames": "num_frames"},
    {"start": "start_time", "end": "end_time", "fps": "fps"},
    {"start": "start", "end": "end", "fps": "fps"},
)
_ASSIGNED = re.compile(r"""\b([a-z_]{1,32})\s{0,8}=\s{0,8}["']?([^\s"',;]{1,64})""", re.IGNORECASE)


class TagsJson:
    """See `base.Grammar`."""

    def read(self, body: str, call: CallFormat) -> Said | Malformed:
        data = first_object(body)
        if data is None:
            data = dict(_ASSIGNED.findall(body))
            if not data:
                return Malformed(CallError.BAD_JSON, excerpt(body))
        for names in (call.arguments, *_SPELLINGS):
            has_times = names.get("segment") in data or {names.get("start"), names.get("end")} <= data.keys()
            if has_times:
                return said_by_arguments(data, {**call.arguments, **names}, body)
        return Malformed(CallError.MISSING_KEY, excerpt(body))

    def partial(self, body: str, call: CallFormat) -> Said | None:
        for names in (call.arguments, *_SPELLINGS):
            if said := said_so_far(body, names):
                return said
        return None

    def write(self, said: Said, call: CallFormat) -> str:
        return arguments_of(said, call)
