"""What a session must know of a checkpoint, made in one way: with its weights, or without them on any machine."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from ...config import ZoomConfig
from ...protocol import Protocol, TextCodec, VideoTokens, Vocabulary
from ...video import PatchSpec, grid_for
from .adapters import find_model
from .generation import end_ids_of
from .load import (
    END_OF_TEXT,
    END_OF_TURN,
    FAMILIES,
    Checkpoint,
    CheckpointInfo,
    backend_of,
    load_tokenizer,
    patch_spec_of,
    token_id,
)
from .protocol import find_protocol, with_chat_template


def load_vocabulary(name_or_path: str, *, tokenizer: Any = None) -> Vocabulary:
    """The vocabulary of a checkpoint that is not loaded: its weights are not needed.

    Args:
        name_or_path: a folder in Hugging Face layout, or a hub id.
        tokenizer: transformers' own, if it is loaded already.

    Raises:
        OSError: nothing was found.
        ValueError: it is no Qwen-VL checkpoint, or its tokenizer is a slow one.
    """
    folder, _ = find_model(name_or_path)
    ends = end_ids_of(folder.read_json("generation_config.json") or {})
    tokenizer = load_tokenizer(folder) if tokenizer is None else tokenizer
    settings = folder.read_json("config.json") or {}
    return build_vocabulary(tokenizer, patch_spec_of(folder), name_or_path, end_ids=ends, settings=settings)


def checkpoint_protocol(name_or_path: str) -> Protocol:
    """The protocol of a checkpoint that is not loaded, with or without the texts that it lacks.

    Args:
        name_or_path: a folder in Hugging Face layout, or a hub id.

    Raises:
        OSError: nothing was found.
        ValueError: a file of it is not what it should be.
    """
    folder, adapter = find_model(name_or_path)
    folders = [folder] if adapter is None else [adapter, folder]
    return find_protocol(folders, load_tokenizer(folder), name=name_or_path)


def complete_protocol(protocol: Protocol, name_or_path: str) -> Protocol:
    """A protocol with the system message of a checkpoint's chat template, without loading the checkpoint.

    Args:
        protocol: one with Turns.system_from_chat_template.
        name_or_path: a folder in Hugging Face layout, or a hub id.

    Raises:
        OSError: nothing was found.
        ValueError: there is no chat template, or it does not show tools.
    """
    folder, _ = find_model(name_or_path)
    return with_chat_template(protocol, load_tokenizer(folder), name_or_path)


def vocabulary_of(checkpoint: CheckpointInfo) -> Vocabulary:
    """The vocabulary of a checkpoint that is loaded, with or without its weights."""
    if isinstance(checkpoint, Checkpoint):
        settings = checkpoint.model.hf.config.to_dict()
    else:
        settings = checkpoint.folder.read_config()
    return build_vocabulary(
        checkpoint.tokenizer,
        checkpoint.patch_spec,
        checkpoint.name,
        end_ids=checkpoint.generation_end_ids,
        settings=settings,
    )


def build_vocabulary(
    tokenizer: Any,
    spec: PatchSpec,
    name: str,
    *,
    end_ids: frozenset[int] = frozenset(),
    settings: Mapping[str, Any] | None = None,
) -> Vocabulary:
    """The vocabulary of a tokenizer.

    Args:
        tokenizer: transformers' own, a fast one.
        spec: the patch geometry of the model.
        name: of the checkpoint, for errors.
        end_ids: ids that end a generation, beside the end of a turn and of a text: those of generation_config.json.
        settings: the model's config.json, which says how its family writes video tokens.

    Raises:
        ValueError: it is no tokenizer of a Qwen-VL checkpoint, or a slow one.
    """
    codec = TextCodec(backend_of(tokenizer, name))
    end_of_turn = token_id(tokenizer, END_OF_TURN, name)
    return Vocabulary(
        codec=codec,
        image_token_id=token_id(tokenizer, "<|image_pad|>", name),
        end_of_turn_id=end_of_turn,
        end_ids=end_ids | {end_of_turn, token_id(tokenizer, END_OF_TEXT, name)},
        merge=spec.merge_size,
        grid_hw=partial(_grid, spec=spec),
        video=None if settings is None else _video_tokens(tokenizer, spec, name, settings),
    )


def _video_tokens(tokenizer: Any, spec: PatchSpec, name: str, settings: Mapping[str, Any]) -> VideoTokens | None:
    family = next((family for family in FAMILIES if settings.get("model_type") in family.model_types), None)
    if family is None:
        return None
    per_second = family.positions_per_second
    if per_second is not None:
        per_second = float((settings.get("vision_config") or {}).get("tokens_per_second", per_second))
    return VideoTokens(
        token_id=token_id(tokenizer, "<|video_pad|>", name),
        frames_per_patch=spec.temporal_patch_size,
        timed=family.times_videos,
        positions_per_second=per_second,
    )


def _grid(height: int, width: int, config: ZoomConfig, *, spec: PatchSpec) -> tuple[int, int]:
    return grid_for(height, width, config=config, spec=spec)
