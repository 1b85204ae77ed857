"""The shell of a self-contained page: style, script and pictures are in it, and its policy forbids all else."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib.resources import files
from string import Template

from .markup import escape


def shell(body: str, *, title: str, skip: tuple[str, str], styles: Sequence[str], script: str) -> str:
    """The whole page. The script that enlarges frames comes with it.

    Args:
        body: markup.
        title: plain text.
        skip: the target (an element id) and the text of the first link that the keyboard reaches.
        styles: names of files in `assets`.
        script: name of a file in `assets`.
    """
    code = _asset(script) + _asset("viewer.js")
    return Template(_asset("page.html")).substitute(
        title=escape(title),
        style="".join(map(_asset, styles)),
        script=code,
        # The policy names the one script that may run, so a script that slipped through escaping would not.
        script_hash=base64.b64encode(hashlib.sha256(code.encode()).digest()).decode(),
        skip=f'<a class="skip" href="#{skip[0]}">{skip[1]}</a>',
        body=body,
    )


def _asset(name: str) -> str:
    return (files("vzoom.report") / "assets" / name).read_text(encoding="utf-8")
