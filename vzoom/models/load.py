"""Open a checkpoint: weights and layers by transformers, patch geometry from its preprocessor file."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..config import Sampling, ZoomConfig
from ..video import PatchSpec
from .base import VisionLanguageModel
from .checkpoint.generation import sampling_of
from .qwen2_5_vl import Qwen25VL
from .qwen2_vl import Qwen2VL
from .qwen3_vl import Qwen3VL

FAMILIES: tuple[type[VisionLanguageModel], ...] = (Qwen2VL, Qwen25VL, Qwen3VL)

# Control tokens that only `protocol` may place: sampled, they would stand for an image that is not there.
_VISUAL_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>")
END_OF_TURN = "<|im_end|>"
END_OF_TEXT = "<|endoftext|>"
_START_OF_TURN = "<|im_start|>"
_DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Checkpoint:
    """All that a conversation needs of a model. See `vocabulary_of` for what a session must know of it.

    Attributes:
        name: the folder or hub id that it was loaded from.
        model: the weights and their forward pass.
        tokenizer: transformers' own.
        patch_spec: the patch geometry of its vision tower.
        config: its `vzoom.json`, or the defaults.
        knows_tags: whether it was trained for the tags of the protocol: whether it has a `vzoom.json`.
        banned_ids: tokens that are never sampled.
        sampling: how its generation_config.json wants tokens chosen; greedy if it has none.
    """

    name: str
    model: VisionLanguageModel
    tokenizer: Any
    patch_spec: PatchSpec
    config: ZoomConfig
    knows_tags: bool
    banned_ids: tuple[int, ...]
    sampling: Sampling = field(default_factory=Sampling)


@contextmanager
def _garbage_left_alone() -> Iterator[None]:
    """transformers' import makes objects by the hundred thousand, all of which stay: searching them for garbage again
    and again takes a fifth of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@_garbage_left_alone()
def load_checkpoint(name_or_path: str, *, device: str = "auto", dtype: str = "auto") -> Checkpoint:
    """Load a Qwen2-VL, Qwen2.5-VL or Qwen3-VL checkpoint.

    Args:
        name_or_path: a folder in Hugging Face layout, or a hub id.
        device: "cpu", "cuda" or "cuda:N"; "auto" takes CUDA if there is one.
        dtype: "float32", "bfloat16" or "float16"; "auto" is the checkpoint's own on CUDA and float32 on the CPU.

    Raises:
        OSError: nothing was found.
        ValueError: the family is not one of the three, or there is no such device or dtype.
    """
    # Imported here: transformers takes seconds, and `vzoom --help` must not.
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoTokenizer

    hf_config = AutoConfig.from_pretrained(name_or_path)
    family = next((f for f in FAMILIES if hf_config.model_type in f.model_types), None)
    if family is None:
        known = ", ".join(t for f in FAMILIES for t in f.model_types)
        raise ValueError(f"{name_or_path} is a {hf_config.model_type!r} model; vzoom runs {known}")
    target = _device(device)
    if dtype == "auto" and target.type == "cpu":
        dtype = "float32"
    if dtype not in _DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(_DTYPES)}, got {dtype!r}")
    tokenizer = AutoTokenizer.from_pretrained(name_or_path)
    hf = AutoModelForImageTextToText.from_pretrained(
        name_or_path, dtype=dtype if dtype == "auto" else getattr(torch, dtype)
    )
    model = family(hf.to(target))

    for control in (END_OF_TURN, END_OF_TEXT):
        token_id(tokenizer, control, name_or_path)  # better known now than at the first question
    settings = _read_json(name_or_path, "vzoom.json")
    return Checkpoint(
        name=name_or_path,
        model=model,
        tokenizer=tokenizer,
        patch_spec=load_patch_spec(name_or_path),
        config=ZoomConfig.from_dict(settings or {}, name_or_path),
        knows_tags=settings is not None,
        banned_ids=never_sampled(tokenizer, hf.lm_head.out_features, name_or_path),
        sampling=sampling_of(generation_settings(name_or_path), name_or_path),
    )


def generation_settings(name_or_path: str) -> dict[str, Any]:
    """The contents of generation_config.json; empty if the checkpoint has none."""
    return _read_json(name_or_path, "generation_config.json") or {}


def load_patch_spec(name_or_path: str) -> PatchSpec:
    """The patch geometry of a folder or hub id. ValueError if it is no Qwen-VL checkpoint."""
    preprocessor = _read_json(name_or_path, "preprocessor_config.json")
    if preprocessor is None:
        preprocessor = (_read_json(name_or_path, "processor_config.json") or {}).get("image_processor")
    if preprocessor is None:
        raise ValueError(
            f"{name_or_path} has neither preprocessor_config.json nor processor_config.json: copy one from the base"
        )
    return PatchSpec.from_dict(preprocessor, name_or_path)


def never_sampled(tokenizer: Any, num_logits: int, name: str) -> tuple[int, ...]:
    """Ids that no model may write. A trainer leaves them out of its probabilities as the sampler does.

    Args:
        tokenizer: transformers' own.
        num_logits: how many ids the model scores.
        name: the checkpoint's, for errors.

    Raises:
        ValueError: the tokenizer has no such control tokens.
    """
    control = (token_id(tokenizer, token, name) for token in (*_VISUAL_TOKENS, _START_OF_TURN))
    # Rows of the embedding beyond the tokenizer's vocabulary are padding and decode to nothing.
    return (*control, *range(len(tokenizer), num_logits))


def _device(name: str) -> torch.device:
    """ValueError if there is no such device here."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdigit()):
        raise ValueError(f"device must be auto, cpu, cuda or cuda:N, got {name!r}")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count() if torch.cuda.is_available() else "no"
        raise ValueError(f"device {name!r}: torch sees {found} CUDA device (`vzoom doctor` says why); use cpu")
    return torch.device(name)


def token_id(tokenizer: Any, token: str, name: str) -> int:
    """The one id of a control token. ValueError if the tokenizer of `name` has none."""
    ids = tokenizer.encode(token, add_special_tokens=False)
    if len(ids) != 1:
        raise ValueError(f"the tokenizer of {name} has no token {token}: it is not a Qwen-VL tokenizer")
    return int(ids[0])


def _read_json(name_or_path: str, file: str) -> dict[str, Any] | None:
    """A JSON file of the checkpoint, or None if the checkpoint has no such file."""
    if (folder := Path(name_or_path)).is_dir():
        path = folder / file
        return json.loads(path.read_text()) if path.is_file() else None
    from transformers.utils import cached_file

    found = cached_file(name_or_path, file, _raise_exceptions_for_missing_entries=False)
    return None if found is None else json.loads(Path(found).read_text())
