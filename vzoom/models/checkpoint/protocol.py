"""The protocol of a checkpoint: the one that the user names, else that of its files, else that of its hub id."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...config import DEFAULT_PROTOCOL, ZoomConfig
from ...protocol import (
    PROTOCOL_FILE,
    AnswerFormat,
    CallFormat,
    Protocol,
    ThoughtFormat,
    builtin_for,
    builtin_names,
    builtin_protocol,
    check_complete,
    escape_template,
    fill_template,
    load_protocol,
    with_system,
)
from .folder import CheckpointFolder

_ZERO_SHOT = "qwen-zero-shot"  # of checkpoints that nobody trained to zoom


@dataclass(frozen=True)
class ProtocolChoice:
    """How conversations with a checkpoint are held.

    Attributes:
        config: their settings, with the protocol.
        knows_tags: whether the checkpoint was trained in the protocol's grammar, as far as its files or its hub id say.
        warnings: sentences for the user: that answers may be worse than they could be.
    """

    config: ZoomConfig
    knows_tags: bool
    warnings: tuple[str, ...] = ()


def choose_protocol(
    folders: Sequence[CheckpointFolder],
    tokenizer: Any,
    *,
    name: str,
    recorded_names: Sequence[str] = (),
    protocol: Protocol | None = None,
    system: str | None = None,
) -> ProtocolChoice:
    """The settings of conversations with a checkpoint.

    Args:
        folders: of the adapter, if there is one, and of the checkpoint.
        tokenizer: transformers' own, for its chat template.
        name: the folder or hub id that the user named.
        recorded_names: other hub ids: that of the adapter, those that the files name.
        protocol: what the user wants.
        system: a system text that replaces that of the protocol.

    Raises:
        ValueError: a file is not what it should be, or the protocol's texts are not all known.
    """
    settings = next((found for one in folders if (found := one.read_json("vzoom.json")) is not None), None)
    own = _own_protocol(folders, settings, name, recorded_names)
    chosen, warnings = own, []
    if protocol is not None:
        chosen = protocol
        if own is not None and own.name != protocol.name and protocol.name in builtin_names():
            warnings.append(
                f"{name} was trained in the protocol {own.name}, and is prompted in {protocol.name}, which it does not "
                "know: expect worse answers"
            )
    elif chosen is None:
        chosen = _unknown(tokenizer)
        warnings.append(
            f"nothing says in which protocol {name} was trained: it is prompted in {chosen.name}, as a model that was "
            "not trained to zoom. If it was, name its protocol (--protocol; see docs/protocols.md)"
        )
    if system is not None:
        chosen = with_system(chosen, system)
    check_complete(chosen)
    if chosen.turns.system_from_chat_template:
        chosen = with_chat_template(chosen, tokenizer, name)
    config = ZoomConfig.from_dict(settings or {}, name, protocol=chosen)
    knows_tags = own is not None and own.name != _ZERO_SHOT and _grammar(own) == _grammar(chosen)
    return ProtocolChoice(config, knows_tags=knows_tags, warnings=tuple(warnings))


def _grammar(protocol: Protocol) -> tuple[CallFormat, AnswerFormat, ThoughtFormat]:
    """What a model must have learned to write."""
    return protocol.call, protocol.answer, protocol.thought


def find_protocol(folders: Sequence[CheckpointFolder], tokenizer: Any, *, name: str) -> Protocol:
    """The protocol that a checkpoint is prompted in if the user names none; texts may be missing.

    Args:
        folders: of the adapter, if there is one, and of the checkpoint.
        tokenizer: transformers' own, for its chat template.
        name: the folder or hub id.

    Raises:
        ValueError: a file is not what it should be.
    """
    settings = next((found for one in folders if (found := one.read_json("vzoom.json")) is not None), None)
    recorded = [one for one in (folders[-1].name, folders[-1].read_config().get("_name_or_path")) if one]
    chosen = _own_protocol(folders, settings, name, recorded) or _unknown(tokenizer)
    return with_chat_template(chosen, tokenizer, name) if chosen.turns.system_from_chat_template else chosen


def _own_protocol(
    folders: Sequence[CheckpointFolder], settings: dict[str, Any] | None, name: str, recorded_names: Sequence[str]
) -> Protocol | None:
    """The protocol that the checkpoint was trained in, if its files or its names tell."""
    for folder in folders:
        if (folder.path / PROTOCOL_FILE).is_file():
            return load_protocol(folder.path / PROTOCOL_FILE)
    if settings is not None:
        return ZoomConfig.from_dict(settings, name).protocol
    if found := builtin_for(name):
        return found
    # A fine-tune names its base, but speaks as it was trained itself.
    named = (builtin_for(one) for one in recorded_names)
    return next((one for one in named if one is not None and one.name != _ZERO_SHOT), None)


def _unknown(tokenizer: Any) -> Protocol:
    """The protocol for a model that nobody trained to zoom: its own way to call tools, if it has one."""
    zero_shot = builtin_protocol(_ZERO_SHOT)
    return builtin_protocol(DEFAULT_PROTOCOL) if _shown(zero_shot, tokenizer) is None else zero_shot


def with_chat_template(protocol: Protocol, tokenizer: Any, name: str) -> Protocol:
    """The protocol with the system message that a chat template makes of its tool.

    Args:
        protocol: one with Turns.system_from_chat_template.
        tokenizer: transformers' own.
        name: of the checkpoint, for the message.

    Raises:
        ValueError: there is no chat template, or it does not show tools.
    """
    shown = _shown(protocol, tokenizer)
    if shown is None:
        raise ValueError(
            f"the protocol {protocol.name} takes its system message from the chat template of {name}, which has none, "
            "or one without a system message or tools: give the text (--system FILE) or another protocol "
            "(--protocol vzoom)"
        )
    return replace(protocol, turns=replace(protocol.turns, system=shown, system_from_chat_template=False))


def _shown(protocol: Protocol, tokenizer: Any) -> str | None:
    """The system message with the tool in it, as a template; None if the chat template shows no tools."""
    if not getattr(tokenizer, "chat_template", None):
        return None
    schema = fill_template(protocol.text(protocol.call.schema), {})
    tools = [json.loads(schema)] if schema else None
    # Fields of the text survive as they are: a template changes the message around it only.
    system = protocol.text(protocol.turns.system)
    messages = [{"role": "system", "content": _MARK}] if system else []
    text = tokenizer.apply_chat_template(
        [*messages, {"role": "user", "content": "?"}], tools=tools, tokenize=False, add_generation_prompt=False
    )
    head, opened, rest = text.partition("<|im_start|>system\n")
    body, closed, _ = rest.partition("<|im_end|>")
    if head or not opened or not closed or (tools and json.dumps(protocol.call.tool) not in body):
        return None
    before, _, after = body.partition(_MARK)
    return escape_template(before) + system + escape_template(after) if system else escape_template(body)


_MARK = "\x00the system text\x00"
