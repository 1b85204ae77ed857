"""Templates of a protocol: text with fields in braces, `{time:.2f}`. Braces that hold no field stay as they are.

So a system text may show JSON as it is. `{{name}}` is the text `{name}`; `escape_template` writes any text
so that it holds no field.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import NamedTuple

_FIELD = re.compile(
    r"\{\{([a-z][a-z_]*(?::0?\d{0,3}(?:\.\d{1,2})?[dfgs]?)?)\}\}"
    r"|\{([a-z][a-z_]*)(?::(0?\d{0,3}(?:\.\d{1,2})?[dfgs]?))?\}"
)


class TemplateField(NamedTuple):
    """The place of a value: its name, and a format specification such as ".2f" ("" for none)."""

    name: str
    spec: str


@lru_cache(maxsize=512)
def split_template(template: str) -> tuple[str | TemplateField, ...]:
    """A template as texts and fields, in order."""
    pieces: list[str | TemplateField] = []
    done = 0
    for found in _FIELD.finditer(template):
        pieces.append(template[done : found.start()])
        done = found.end()
        if found[1] is not None:
            pieces.append(f"{{{found[1]}}}")
        else:
            pieces.append(TemplateField(found[2], found[3] or ""))
    pieces.append(template[done:])
    return tuple(piece for piece in pieces if piece != "")


def fields_of(template: str) -> set[str]:
    """The names of the fields of a template."""
    return {piece.name for piece in split_template(template) if isinstance(piece, TemplateField)}


def escape_template(text: str) -> str:
    """A template that gives `text`, whatever stands in it."""
    return _INNER.sub(r"{\g<0>}", text)


_INNER = re.compile(r"\{[a-z][a-z_]*(?::0?\d{0,3}(?:\.\d{1,2})?[dfgs]?)?\}")


def with_texts(template: str, texts: Mapping[str, str]) -> str:
    """The template with the fields that `texts` names replaced by their texts, which are templates themselves."""
    if texts.keys().isdisjoint(fields_of(template)):
        return template
    pieces = []
    for piece in split_template(template):
        if isinstance(piece, str):
            pieces.append(escape_template(piece))
        else:
            spec = f":{piece.spec}" if piece.spec else ""
            pieces.append(texts.get(piece.name, f"{{{piece.name}{spec}}}"))
    return "".join(pieces)


def fill_template(template: str, values: Mapping[str, object]) -> str:
    """The text of a template.

    Raises:
        KeyError: a field has no value.
        ValueError: a format specification does not suit its value.
    """
    return "".join(p if isinstance(p, str) else format(values[p.name], p.spec) for p in split_template(template))


def check(template: str, known: Collection[str], examples: Mapping[str, object]) -> str | None:
    """What is wrong with a template, or None.

    Args:
        template: the template.
        known: the fields that it may have.
        examples: values for format specifications; a field without one takes none.
    """
    for piece in split_template(template):
        if isinstance(piece, str):
            continue
        if piece.name not in known:
            return (
                f"unknown field {{{piece.name}}}; there are {', '.join(f'{{{n}}}' for n in sorted(known))}; "
                f"for these characters themselves write {{{{{piece.name}}}}}"
            )
        if piece.spec:
            try:
                format(examples.get(piece.name, ""), piece.spec)
            except ValueError as error:
                return f"field {{{piece.name}:{piece.spec}}}: {error}"
    return None
