"""Where a model is served, and how the environment names it.

    PREFIX_URL          base URL, as http://host:8000/v1
    PREFIX_MODEL        the model's name there
    PREFIX_KEY          sent as a bearer token, if it is set
    PREFIX_KEY_FILE     a file that holds the key, in its place
    PREFIX_PRICE_IN     price of a million prompt tokens; PREFIX_PRICE_OUT of completion tokens
    PREFIX_OPTIONS      JSON object for the request's body; null takes a field out: {"metadata": null}

PREFIX_URL_2, PREFIX_URL_3 … with the same endings name endpoints that are tried when the ones before them fail.
If a model's name, its prices or options are not set, they are those of the first; a key never is.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .masking import masked


@dataclass(frozen=True)
class Endpoint:
    """One model at one base URL.

    Args:
        url: the base, as http://host:8000/v1.
        model: its name there.
        key: sent as a bearer token; None sends none.
        price_in: of a million prompt tokens, in any currency; None is unknown and counts as 0.
        price_out: of a million completion tokens.
        options: fields of the request's body to set, or with None to leave out, for servers that want them so.
        variables: prefix of the environment variables that it came from, for messages.

    Raises:
        ValueError: the URL, the model, the key or a price cannot be.
    """

    url: str
    model: str
    key: str | None = field(default=None, repr=False)
    price_in: float | None = None
    price_out: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    variables: str = ""

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.username or parts.password or parts.query or parts.fragment:  # its text is not shown: it may be secret
            raise ValueError("an endpoint's URL must hold no user, query or fragment: give the key by itself")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            shown = masked(self.url, self.key)
            raise ValueError(f"an endpoint's URL must begin with http:// or https:// and a host, got {shown!r}")
        if not self.model.strip():
            raise ValueError(f"the model at {self.url} has no name")
        if self.key is not None and not re.fullmatch(r"[!-~]+", self.key):
            raise ValueError(f"the key for {self.url} is empty or holds characters that cannot be sent in a header")
        for name in ("price_in", "price_out"):
            price = getattr(self, name)
            if price is not None and not (math.isfinite(price) and price >= 0):
                raise ValueError(f"{name} must be 0 or more, got {price}")

    @property
    def name(self) -> str:
        """What counters and replies call it."""
        return f"{self.model} at {self.url}"

    @property
    def remedy(self) -> str:
        """What to look at when it refuses."""
        if not self.variables:
            return "check its URL, model and key"
        return f"check {self.variables}_URL, {self.variables}_MODEL and {self.variables}_KEY"

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Of so many tokens, in the currency of the prices."""
        return (prompt_tokens * (self.price_in or 0.0) + completion_tokens * (self.price_out or 0.0)) / 1e6


def endpoints_from_environment(prefix: str, environment: Mapping[str, str] = os.environ) -> tuple[Endpoint, ...]:
    """The endpoints that environment variables name, in the order in which they are tried.

    Args:
        prefix: of the variables, as "VZOOM_EXPERT".
        environment: the variables.

    Raises:
        ValueError: a variable is missing or wrong. The message names it.
    """
    said = {name: value.strip() for name, value in environment.items() if name.startswith(f"{prefix}_")}
    said = {name: value for name, value in said.items() if value}
    pattern = re.compile(rf"{re.escape(prefix)}_(?:URL|MODEL|KEY|KEY_FILE|PRICE_IN|PRICE_OUT|OPTIONS)_(\d+)")
    numbers = sorted({int(match[1]) for name in said if (match := pattern.fullmatch(name))})
    missing = [name for name in (f"{prefix}_URL", f"{prefix}_MODEL") if name not in said]
    missing += [f"{prefix}_URL_{n}" for n in numbers if f"{prefix}_URL_{n}" not in said]
    if missing:
        raise ValueError(
            f"set {' and '.join(missing)} to an OpenAI-compatible endpoint (http://host:8000/v1) and its model, "
            f"and {prefix}_KEY or {prefix}_KEY_FILE if it wants a key"
        )
    return tuple(_endpoint(prefix, suffix, said) for suffix in ("", *(f"_{n}" for n in numbers)))


def _key(name: str, suffix: str, said: Mapping[str, str]) -> str | None:
    """The key that the environment says, or that is in the file that it names. No message shows it."""
    key, file = said.get(f"{name}{suffix}"), said.get(f"{name}_FILE{suffix}")
    if file is None:
        return key
    if key is not None:
        raise ValueError(f"{name}{suffix} and {name}_FILE{suffix} are both set: which holds the key?")
    try:
        return Path(file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ValueError(f"{name}_FILE{suffix} names {file}, which cannot be read: {why}") from None


def _endpoint(prefix: str, suffix: str, said: Mapping[str, str]) -> Endpoint:
    def value(name: str) -> str | None:
        return said.get(f"{prefix}_{name}{suffix}", said.get(f"{prefix}_{name}"))

    def number(name: str) -> float | None:
        text = value(name)
        try:
            return None if text is None else float(text)
        except ValueError:
            raise ValueError(f"{prefix}_{name}{suffix} must be a number, got {text!r}") from None

    try:
        options = json.loads(value("OPTIONS") or "{}")
    except ValueError as error:
        raise ValueError(f"{prefix}_OPTIONS{suffix} is no JSON: {error}") from None
    if not isinstance(options, dict):
        raise ValueError(f"{prefix}_OPTIONS{suffix} must be a JSON object, got a {type(options).__name__}")
    key = _key(f"{prefix}_KEY", suffix, said)
    url, model = said[f"{prefix}_URL{suffix}"], value("MODEL")
    assert model is not None
    try:
        return Endpoint(url, model, key, number("PRICE_IN"), number("PRICE_OUT"), options, prefix)
    except ValueError as error:
        raise ValueError(f"{prefix}_URL{suffix}: {error}") from None
