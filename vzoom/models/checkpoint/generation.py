"""A checkpoint's generation_config.json -> how it samples, and which tokens end a turn."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from ...config import Sampling

# What transformers takes where the file does not say.
_TEMPERATURE, _TOP_K, _TOP_P = 1.0, 50, 1.0

# Settings that would change what is sampled and that vzoom does not have, with the values at which they are off.
_OFF: dict[str, tuple[Any, ...]] = {
    "num_beams": (1,),
    "no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1.0,),
    "typical_p": (1.0,),
    "epsilon_cutoff": (0.0,),
    "eta_cutoff": (0.0,),
    "top_h": (),
    "bad_words_ids": (),
    "sequence_bias": (),
    "suppress_tokens": ((), []),
    "begin_suppress_tokens": ((), []),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "guidance_scale": (1, 1.0),
    "forced_eos_token_id": (),
}


def sampling_of(settings: Mapping[str, Any], name: str) -> Sampling:
    """How a checkpoint wants its tokens chosen.

    Args:
        settings: the contents of its generation_config.json; empty if it has none.
        name: of the checkpoint, for messages.

    Returns:
        Greedy unless `do_sample` is true. What the file does not say is as transformers takes it: temperature 1,
        top_k 50, top_p 1. A repetition penalty holds for greedy decoding too.

    Raises:
        ValueError: a value is out of range.
    """
    odd = [key for key, off in _OFF.items() if settings.get(key) is not None and settings[key] not in off]
    if odd:
        warnings.warn(
            f"{name}: vzoom does not have these settings of its generation_config.json: {', '.join(odd)}", stacklevel=2
        )

    def value(key: str, default: float) -> float:
        found = settings.get(key)
        return default if found is None else found

    penalty = value("repetition_penalty", 1.0)
    try:
        if not settings.get("do_sample"):
            return Sampling(repetition_penalty=penalty)
        return Sampling(
            temperature=value("temperature", _TEMPERATURE),
            top_p=value("top_p", _TOP_P),
            top_k=int(value("top_k", _TOP_K)),
            min_p=value("min_p", 0.0),
            repetition_penalty=penalty,
        )
    except (TypeError, ValueError) as error:
        raise ValueError(f"generation_config.json of {name}: {error}") from error


def end_ids_of(settings: Mapping[str, Any]) -> frozenset[int]:
    """The ids that end a generation by its generation_config.json: `eos_token_id`, one or a list."""
    ids = settings.get("eos_token_id")
    if ids is None:
        return frozenset()
    return frozenset(int(i) for i in (ids if isinstance(ids, list | tuple) else [ids]))
