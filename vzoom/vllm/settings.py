"""What vLLM is started with: what exactness asks of it, and what the user adds."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from ..config import ZoomConfig, missing_extra
from ..models import CheckpointInfo

# What conversations rest on. A user who sets one of them would get other answers or none.
_OURS = (
    "model",
    "tokenizer",
    "max_model_len",
    "max_num_seqs",
    "logprobs_mode",
    "enable_prefix_caching",
    "limit_mm_per_prompt",
    "disable_log_stats",
    "enable_logging_iteration_details",
)


def parse_settings(texts: Sequence[str]) -> dict[str, Any]:
    """Read what `--vllm key=value` said. A value is JSON (2, 0.9, true, {"a": 1}), else text.

    Raises:
        ValueError: there is no "=", or a key comes twice.
    """
    found: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        name = key.strip().replace("-", "_")
        if not equals or not name:
            raise ValueError(f"--vllm takes key=value, such as tensor_parallel_size=2, got {text!r}")
        if name in found:
            raise ValueError(f"--vllm {name} was given twice")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def engine_args(
    info: CheckpointInfo,
    *,
    config: ZoomConfig,
    dtype: str,
    max_sessions: int,
    max_total_tokens: int,
    settings: Mapping[str, Any],
) -> Any:
    """vLLM's `AsyncEngineArgs`.

    Args:
        info: the checkpoint.
        config: its numbers of frames and pixels bound what vLLM makes room for.
        dtype: as vLLM names it; "auto" is the checkpoint's own.
        max_sessions: conversations at once.
        max_total_tokens: the longest conversation.
        settings: other fields of `AsyncEngineArgs`.

    Raises:
        ImportError: vLLM is not installed.
        ValueError: a setting is not one of vLLM's, or is decided here.
    """
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")  # it would tell its makers what is run here
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    try:
        from vllm.engine.arg_utils import AsyncEngineArgs
    except ImportError as error:
        raise missing_extra("vllm", "vllm") from error
    if taken := [name for name in _OURS if name in settings]:
        raise ValueError(
            f"--vllm {taken[0]}: vzoom decides it; the limits and --max-sessions say how much room to make"
        )
    known = {one.name for one in fields(AsyncEngineArgs)}
    if unknown := sorted(set(settings) - known):
        raise ValueError(
            f"--vllm {unknown[0]}: this vLLM has no such setting (see AsyncEngineArgs in its documentation)"
        )
    info.folder.weights()  # fetches what is not there yet
    own: dict[str, Any] = {
        "model": str(info.folder.path),
        "dtype": dtype,
        "max_model_len": max_total_tokens,
        "max_num_seqs": max_sessions,
        "logprobs_mode": "processed_logprobs",  # with the temperature, without banned tokens, as the sampler's
        "enable_prefix_caching": True,
        "limit_mm_per_prompt": {"image": config.max_frames, "video": 0},
        "disable_log_stats": False,
        "enable_logging_iteration_details": True,  # what `VllmEngine.stats` counts
    }
    if info.adapter is not None:
        rank = (info.adapter.read_json("adapter_config.json") or {}).get("r", 16)
        own |= {"enable_lora": True, "max_lora_rank": rank}
    usual = {
        "mm_processor_kwargs": {"min_pixels": config.min_pixels, "max_pixels": config.max_pixels},
        "enable_log_requests": False,
    }
    return AsyncEngineArgs(**{**usual, **settings, **own})
