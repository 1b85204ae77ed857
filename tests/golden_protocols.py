"""The turns of the built-in protocols as text, put together by hand from the facts of each; and their token ids.

    python tests/golden_protocols.py      # writes tests/golden/protocols/*.json

Nothing of vzoom is used here, so that tests/test_builtin_protocols.py compares two things. Texts that are not ours to
ship are placeholders: [system_text] and so on.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from real_tokenizers import NAMES, NOT_SPECIAL, SPECIAL, real_tokenizer

FOLDER = Path(__file__).with_name("golden") / "protocols"
TOKENS_PER_FRAME = 2
QUESTION = "Who waves?"

IMAGE = "<|vision_start|>" + "<|image_pad|>" * TOKENS_PER_FRAME + "<|vision_end|>"
SYSTEM = "<|im_start|>system\n[system_text]<|im_end|>\n"
USER = "<|im_start|>user\n"
TOOL = "<|im_start|>tool\n"
END = "<|im_end|>\n"
REPLY = "<|im_end|>\n<|im_start|>assistant\n"
HELP = "The start must be before the end. 14 to 12"

# A video of 63.2 s at 25 frames per second. The glance: 0 s and 61 s. The clip of 12 s to 14 s: 12 s and 13 s, which
# are the frames 300 and 325. Where a turn may hold two calls, also 40 s to 41.5 s: 40 s and 41.48 s.
TURNS: dict[str, dict[str, str]] = {
    "videozoomer": {
        "glance": f"{SYSTEM}{USER}<frame0_time0.00s>{IMAGE}<frame1_time61.00s>{IMAGE}{QUESTION}{REPLY}",
        "tool": f"<|im_end|>{USER}<tool_response>\n[clip_text]\n<frame0_time12.00s>{IMAGE}<frame1_time13.00s>{IMAGE}\n"
        f"</tool_response>\n[continue_text]{REPLY}",
        "last": f"<|im_end|>{USER}<tool_response>\n[clip_text]\n<frame0_time12.00s>{IMAGE}<frame1_time13.00s>{IMAGE}\n"
        f"</tool_response>\n[continue_text][last_text]{REPLY}",
        "error": f"<|im_end|>{USER}<tool_response>\n[error_text]{HELP}\n</tool_response>\n[retry_text]{REPLY}",
    },
    "longvt": {
        "glance": f"{SYSTEM}{USER}{IMAGE}{IMAGE}{QUESTION} [tool_text]{REPLY}",
        "tool": f"{END}{USER}<tool_response>\n{IMAGE}{IMAGE}[clip_text]\n</tool_response>{REPLY}",
        "last": f"{END}{USER}<tool_response>\n{IMAGE}{IMAGE}[clip_text]\n</tool_response>{REPLY}",
        "error": f"{END}{USER}<tool_response>\n[error_text]{HELP}\n</tool_response>{REPLY}",
    },
    "paravt": {
        "glance": f"{SYSTEM}{USER}{IMAGE}{IMAGE}{QUESTION}[path_text]{REPLY}",
        "tool": f"{END}{USER}{IMAGE}{IMAGE}<tool_response>\n[clip_text]\n</tool_response>{END}"
        f"{USER}{IMAGE}{IMAGE}<tool_response>\n[clip_text]\n</tool_response>{REPLY}",
        "last": f"{END}{USER}{IMAGE}{IMAGE}<tool_response>\n[clip_text]\n</tool_response>{END}"
        f"{USER}{IMAGE}{IMAGE}<tool_response>\n[clip_text]\n</tool_response>{END}{USER}[last_text]{REPLY}",
        "error": f"{END}{USER}<tool_response>\n[error_text]{HELP}\n</tool_response>{REPLY}",
    },
    "framethinker": {
        "glance": f"{SYSTEM}{USER}{QUESTION}\nframe 0:{IMAGE}frame 1525:{IMAGE}{REPLY}",
        "tool": f"{END}{USER}frame 300:{IMAGE}frame 325:{IMAGE}{REPLY}",
        "last": f"{END}{USER}frame 300:{IMAGE}frame 325:{IMAGE}{REPLY}",
        "error": f"{END}{USER}{HELP}{REPLY}",
        "asked": f"{END}{USER}Frame 1550 is at 01:02.{REPLY}",
    },
    "conan": {
        "glance": f"{SYSTEM}{USER}00:00:00{IMAGE}00:01:01{IMAGE}[question_text]{QUESTION}[options_text]{REPLY}",
        "tool": f"{END}{USER}00:00:12{IMAGE}00:00:13{IMAGE}[round_text]{REPLY}",
        "last": f"{END}{USER}00:00:12{IMAGE}00:00:13{IMAGE}[last_text]{REPLY}",
        "error": f"{END}{USER}{HELP}{REPLY}",
    },
    "eva": {
        "glance": f"{SYSTEM}{USER}[video_text]{QUESTION}{REPLY}",
        "tool": f"{END}{TOOL}<tool_response>Frame 0 at [00:12]: {IMAGE}\nFrame 1 at [00:13]: {IMAGE}\n"
        f"Frame 2 at [00:40]: {IMAGE}\nFrame 3 at [00:41]: {IMAGE}\n[more_text]\n\n"
        f"Question: {QUESTION}</tool_response>{REPLY}",
        "last": f"{END}{TOOL}<tool_response>Frame 0 at [00:12]: {IMAGE}\nFrame 1 at [00:13]: {IMAGE}\n"
        f"Frame 2 at [00:40]: {IMAGE}\nFrame 3 at [00:41]: {IMAGE}\n[more_text]\n\n"
        f"Question: {QUESTION}</tool_response>{REPLY}",
        "error": f"{END}{TOOL}<tool_response>{HELP}</tool_response>{REPLY}",
    },
    "timesearch-r": {
        "glance": f"{SYSTEM}{USER}0.0s{IMAGE}61.0s{IMAGE}[search_text]{QUESTION}{REPLY}",
        "tool": f"{END}{TOOL}12.0s{IMAGE}13.0s{IMAGE}[found_text]{REPLY}",
        "last": f"{END}{TOOL}12.0s{IMAGE}13.0s{IMAGE}[found_text]{REPLY}",
        "error": f"{END}{TOOL}[error_text]{REPLY}",
    },
    "qwen-zero-shot": {
        "glance": f"{SYSTEM}{USER}The video is 63.2 seconds long.\n<0.0 seconds>{IMAGE}<61.0 seconds>{IMAGE}\n"
        f"{QUESTION}{REPLY}",
        "tool": f"{END}{USER}<tool_response>\n2 frames from 12.0 to 14.0 seconds:\n<12.0 seconds>{IMAGE}"
        f"<13.0 seconds>{IMAGE}\n</tool_response>\nLook again (2 more) or answer.{REPLY}",
        "last": f"{END}{USER}<tool_response>\n2 frames from 12.0 to 14.0 seconds:\n<12.0 seconds>{IMAGE}"
        f"<13.0 seconds>{IMAGE}\n</tool_response>\nAnswer now: <answer>your answer</answer>{REPLY}",
        "error": f"{END}{USER}<tool_response>\n{HELP}\n</tool_response>\nLook again (2 more) or answer.{REPLY}",
    },
}


@cache
def small_tokenizer() -> Any:
    """A tokenizer of bytes with the added tokens of Qwen2.5: for where the real ones cannot be had."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    signs = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({sign: id for id, sign in enumerate(signs)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    core.add_tokens([AddedToken(token, special=False, normalized=False) for token in NOT_SPECIAL])
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|endoftext|>")


TOKENIZERS = ("bytes", *NAMES)


def tokenizer_of(name: str) -> Any:
    """One of TOKENIZERS; a real one that is not there skips the test."""
    return small_tokenizer() if name == "bytes" else real_tokenizer(name)


def golden_ids(name: str) -> dict[str, dict[str, list[int]]]:
    """What the golden file of a tokenizer holds: ids by protocol and turn."""
    found: dict[str, dict[str, list[int]]] = json.loads((FOLDER / f"{name}.json").read_text())
    return found


if __name__ == "__main__":
    for name in TOKENIZERS:
        encode = tokenizer_of(name).encode
        lines = [
            f"{json.dumps(protocol)}: {{"
            + ",\n  ".join(f"{json.dumps(turn)}: {json.dumps(encode(text))}" for turn, text in turns.items())
            + "}"
            for protocol, turns in TURNS.items()
        ]
        (FOLDER / f"{name}.json").write_text("{" + ",\n ".join(lines) + "}\n")
