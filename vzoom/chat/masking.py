"""Keys and credentials out of text that others may see: errors, logs, what is kept on the disk."""

from __future__ import annotations

import re

MASK = "***"
_FRAGMENT = 6  # so many characters of a key that follow each other are a part of it: servers cut, too
_CREDENTIALS = re.compile(r"(://|\b)[^\s/@:'\"]{1,99}:[^\s/@'\"]{1,199}@")
_QUERY = re.compile(r"([?&](?:[\w-]*(?:key|token|secret|signature|password)|sig|auth)=)[^&\s'\"]+", re.IGNORECASE)


def masked(text: str, key: str | None) -> str:
    """Text without a key, without parts of it, and without credentials in URLs.

    Mask a text before it is cut: the half of a key is no match.

    Args:
        text: from elsewhere.
        key: the secret; None if there is none.
    """
    text = _QUERY.sub(rf"\1{MASK}", _CREDENTIALS.sub(rf"\1{MASK}@", text))
    if not key:
        return text
    length = min(_FRAGMENT, len(key))
    parts = {key[at : at + length] for at in range(len(key) - length + 1)}
    pieces, end = [], 0
    at = 0
    while at + length <= len(text):
        if text[at : at + length] not in parts:
            at += 1
            continue
        pieces += [text[end:at], MASK]
        while text[at : at + length] in parts:  # to the end of what is of the key
            at += 1
        at += length - 1
        end = at
    return "".join([*pieces, text[end:]])
