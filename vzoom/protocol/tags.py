"""The tags of vzoom's own grammar: the only place that spells them.

<think>…</think><video_zoom>{"segment": [start_seconds, end_seconds], "fps": n}</video_zoom>
<think>…</think><answer>…</answer>
"""

from __future__ import annotations

CALL_OPEN, CALL_CLOSE = "<video_zoom>", "</video_zoom>"
ANSWER_OPEN, ANSWER_CLOSE = "<answer>", "</answer>"
THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
TURN_ENDS = (CALL_CLOSE, ANSWER_CLOSE)  # generation stops after these
