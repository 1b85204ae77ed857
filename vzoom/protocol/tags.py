"""The tags of vzoom's own grammar. Only this room spells them.

<think>…</think><video_zoom>{"segment": [start_seconds, end_seconds], "fps": n}</video_zoom>
<think>…</think><answer>…</answer>
"""

from __future__ import annotations

CALL_OPEN, CALL_CLOSE = "<video_zoom>", "</video_zoom>"
ANSWER_OPEN, ANSWER_CLOSE = "<answer>", "</answer>"
THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
# In this order they are in the embedded model's tokenizer.
TAGS = (THINK_OPEN, THINK_CLOSE, CALL_OPEN, CALL_CLOSE, ANSWER_OPEN, ANSWER_CLOSE)
TOOL_OPEN, TOOL_CLOSE = "<tool_response>", "</tool_response>"  # around what comes back for a turn
TURN_ENDS = (CALL_CLOSE, ANSWER_CLOSE)  # generation stops after these
