"""A tool and its arguments as JSON between tags, as Hermes and Qwen models call tools:

<tool_call>{"name": "crop_video", "arguments": {"start_time": 3, "end_time": 5.5}}</tool_call>
"""

from __future__ import annotations

import json

from ...types import CallError, Malformed
from ..definition import CallFormat
from .base import Said, arguments_of, excerpt, said_by_arguments
from .json_text import first_object, said_so_far


class Hermes:
    """See `base.Grammar`."""

    def read(self, body: str, call: CallFormat) -> Said | Malformed:
        data = first_object(body)
        if data is None:
            return Malformed(CallError.BAD_JSON, excerpt(body))
        if call.name_key not in data or call.arguments_key not in data:
            return Malformed(CallError.MISSING_KEY, excerpt(body))
        if data[call.name_key] != call.tool:
            return Malformed(CallError.BAD_VALUE, f"there is no tool {excerpt(str(data[call.name_key]), 40)!r}")
        given = data[call.arguments_key]
        if isinstance(given, str):  # some models quote the arguments
            given = first_object(given)
        if not isinstance(given, dict):
            return Malformed(CallError.BAD_VALUE, excerpt(body))
        return said_by_arguments(given, call.arguments, body)

    def partial(self, body: str, call: CallFormat) -> Said | None:
        return said_so_far(body, call.arguments) if call.tool in body else None

    def write(self, said: Said, call: CallFormat) -> str:
        name, key = json.dumps(call.name_key), json.dumps(call.arguments_key)
        return f"{{{name}: {json.dumps(call.tool)}, {key}: {arguments_of(said, call)}}}"
