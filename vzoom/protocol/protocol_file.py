"""Protocols on disk: `protocol.toml`, the built-in ones, and the choice by name."""

from __future__ import annotations

import dataclasses
import json
import re
import tomllib
import types as _types
import typing
from collections.abc import Mapping
from functools import cache
from os import PathLike
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from . import template
from .definition import Protocol

PROTOCOL_FILE = "protocol.toml"  # in a checkpoint's folder
_BUILTIN = Path(__file__).with_name("builtin")
_LINE = 100  # characters of a string that is written on one line


def load_protocol(source: str | PathLike[str]) -> Protocol:
    """A protocol by the name of a built-in one, or from a file.

    Args:
        source: a name (`builtin_names` lists them), a TOML file, or a folder with a `protocol.toml`.

    Raises:
        ValueError: there is no such name or file, or the file is not a protocol. The message names file and key.
        OSError: the file cannot be read.
    """
    if str(source) in builtin_names():
        return builtin_protocol(str(source))
    path = Path(source).expanduser()
    path = path / PROTOCOL_FILE if path.is_dir() else path
    if not path.is_file():
        raise ValueError(
            f"protocol {str(source)!r}: no such file, and none of the built-in protocols {', '.join(builtin_names())}"
        )
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: no TOML: {error}") from None
    return protocol_from_dict(data, str(path))


@cache
def builtin_names() -> tuple[str, ...]:
    """The names of the protocols that vzoom brings along."""
    return tuple(sorted(path.stem for path in _BUILTIN.glob("*.toml")))


@cache
def builtin_protocol(name: str) -> Protocol:
    """The built-in protocol of this name. KeyError if there is none."""
    if name not in builtin_names():
        raise KeyError(name)
    path = _BUILTIN / f"{name}.toml"
    found = protocol_from_dict(tomllib.loads(path.read_text(encoding="utf-8")), str(path))
    assert found.name == name, f"{path} holds the protocol {found.name}"
    return found


def builtin_for(checkpoint: str) -> Protocol | None:
    """The built-in protocol that the checkpoint of this hub id was trained in, if there is one."""
    for name in builtin_names():
        found = builtin_protocol(name)
        if checkpoint.casefold() in (one.casefold() for one in found.checkpoints):
            return found
    return None


def explained(protocol: Protocol) -> Protocol:
    """The protocol with words that explain it: its own, or those of the protocol that it names for that."""
    if not protocol.explained_by:
        return protocol
    other = builtin_protocol(protocol.explained_by)
    return dataclasses.replace(protocol, turns=other.turns, frame=other.frame, texts=other.texts, explained_by="")


def check_complete(protocol: Protocol) -> None:
    """Refuse a protocol whose texts are not all known.

    Raises:
        ValueError: texts are missing. The message names them, and the ways to give them.
    """
    if names := protocol.unknown_texts:
        raise ValueError(
            f"the protocol {protocol.name} lacks texts that are not ours to ship: {', '.join(names)}. Learn them from "
            "the checkpoint's own training data (vzoom protocol learn DATA.json -o DIR, then --protocol DIR), give the "
            "system text (--system FILE), or prompt the model in vzoom's own words, which it was not trained on "
            "(--protocol vzoom)"
        )


def with_system(protocol: Protocol, text: str) -> Protocol:
    """The protocol with this system text, word for word."""
    turns = dataclasses.replace(protocol.turns, system=template.escape_template(text), system_from_chat_template=False)
    return dataclasses.replace(protocol, turns=turns)


# ---------------------------------------------------------------- values


def protocol_from_dict(data: Any, source: str) -> Protocol:
    """Check what a TOML or JSON file holds.

    Args:
        data: tables as `protocol_to_dict` gives them; what is left out has its default.
        source: where it comes from, for the message.

    Raises:
        ValueError: a key is unknown, a value has another type or is out of range. The message names source and key.
    """
    try:
        return typing.cast(Protocol, _typed(data, Protocol, ""))
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None


def protocol_to_dict(protocol: Protocol) -> dict[str, Any]:
    """All values of a protocol, as `protocol_from_dict` reads them; what is None is left out."""
    found: dict[str, Any] = _plain(protocol)
    return found


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        pairs = ((one.name, getattr(value, one.name)) for one in dataclasses.fields(value))
        return {name: _plain(part) for name, part in pairs if part is not None}
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, tuple) else value


def _typed(value: Any, kind: Any, key: str) -> Any:
    """`value` as a field of type `kind`, or ValueError."""
    origin = get_origin(kind)
    if origin in (Union, _types.UnionType):
        (kind,) = (one for one in get_args(kind) if one is not type(None))
        origin = get_origin(kind)
    if dataclasses.is_dataclass(kind):
        return _section(value, typing.cast(type, kind), key)
    if origin is tuple:
        if get_args(kind) == (int, int):
            if not isinstance(value, list) or [type(one) for one in value] != [int, int]:
                raise ValueError(f"{key}: must be a list of two whole numbers, got {value!r}")
        elif not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise ValueError(f"{key}: must be a list of texts, got {value!r}")
        return tuple(value)
    if origin is not None and origin is not Literal:
        if not isinstance(value, dict) or not all(isinstance(one, str) for one in value.values()):
            raise ValueError(f"{key}: must be a table of texts, got {value!r}")
        return value
    wanted = str if origin is Literal else kind
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
        raise ValueError(f"{key}: must be {_NAMES[wanted]}, got {value!r}")
    return value


_NAMES = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}


def _section(data: Any, cls: type, key: str) -> Any:
    kinds = get_type_hints(cls)
    if not isinstance(data, dict):
        raise ValueError(f"{key or 'protocol'}: must be a table, got {data!r}")
    prefix = f"{key}." if key else ""
    if unknown := sorted(set(data) - set(kinds)):
        raise ValueError(f"unknown key {prefix}{unknown[0]}; there are {', '.join(prefix + name for name in kinds)}")
    if cls is Protocol and "name" not in data:
        raise ValueError("name: a protocol has a name")
    return cls(**{name: _typed(value, kinds[name], f"{prefix}{name}") for name, value in data.items()})


# ---------------------------------------------------------------- TOML


def to_toml(protocol: Protocol) -> str:
    """The text of a `protocol.toml`."""
    data = protocol_to_dict(protocol)
    lines = [f"{name} = {_toml(value)}" for name, value in data.items() if not isinstance(value, dict)]
    for name, table in data.items():
        if isinstance(table, dict) and table:
            lines += ["", f"[{name}]", *(f"{_key(key)} = {_toml(value)}" for key, value in table.items())]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(key)} = {_toml(one)}" for key, one in value.items()) + "}"
    if "\n" not in value or len(value) <= _LINE:
        return f'"{_escaped(value)}"'
    # Lines as they are: only a quote beside a quote is escaped, of which three would end the string.
    lines = "\n".join(_escaped(line).replace('\\"', '"') for line in value.split("\n"))
    return '"""\n' + re.sub(r'"(?="|$)', r"\"", lines) + '"""'


def _escaped(text: str) -> str:
    """Text between quotes as TOML wants it: JSON's escapes, and one for DEL."""
    return json.dumps(text, ensure_ascii=False)[1:-1].replace("\x7f", "\\u007f")


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else f'"{_escaped(name)}"'
