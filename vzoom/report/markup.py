"""Text, times and pictures as HTML. The only place that turns foreign text into markup."""

from __future__ import annotations

import base64
import html
import io
import math
import re
from pathlib import PurePath
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from ..protocol import Protocol, opening_tags
from ..video import is_url


def escape(text: str) -> str:
    """`text` for HTML, in an element or in a quoted attribute. What UTF-8 or HTML cannot hold becomes U+FFFD."""
    # One half of the surrogates are bytes of file names that are no UTF-8 (PEP 383); the others are nothing at all.
    text = re.sub("[\ud800-\udc7f\udd00-\udfff]", "\ufffd", text)
    text = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return html.escape(re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]", "\ufffd", text), quote=True)


def video_name(path: str) -> str:
    """The file's name in a path or a URL. A URL's query is left out: it may hold a key, and pages are passed on."""
    return PurePath(urlsplit(path).path if is_url(path) else path).name


def turn_markup(text: str, protocol: Protocol) -> str:
    """One turn of the model, letter for letter, with its thought, call and answer set apart by style.

    The tags of the protocol may stand in any order and number, as the model wrote them.
    """
    style_of = dict.fromkeys(opening_tags(protocol), "answered")
    style_of |= {protocol.call.open: "call", protocol.thought.open: "thought"}
    tags = sorted({*style_of, *protocol.tags} - {""}, key=len, reverse=True)
    pieces, style, at = [], "", 0
    for tag in re.finditer("|".join(map(re.escape, tags)), text):
        pieces.append(_span(text[at : tag.start()], style))
        style = style_of.get(tag.group(), "")
        # A call or an answer starts a line of its own on the page; the text itself stays as it is.
        pieces.append(_span(tag.group(), "tag act" if style in ("call", "answered") and tag.start() else "tag"))
        at = tag.end()
    pieces.append(_span(text[at:], style))
    return "".join(pieces)


def _span(text: str, style: str) -> str:
    if not text:
        return ""
    return f'<span class="{style}">{escape(text)}</span>' if style else escape(text)


def seconds_text(seconds: float) -> str:
    """Seconds as the model reads them: `754.50 s`."""
    return f"{seconds:.2f} s"


def span_text(start_seconds: float, end_seconds: float) -> str:
    """`754.50–760.00 s`."""
    return f"{start_seconds:.2f}\u2013{end_seconds:.2f} s"


def clock_text(seconds: float) -> str:
    """`12:34` or `1:02:03`; with a decimal if the time has one."""
    tenths = round(seconds * 10)
    whole, tenth = divmod(tenths, 10)
    hours, rest = divmod(whole, 3600)
    minutes, secs = divmod(rest, 60)
    text = f"{hours}:{minutes:02}:{secs:02}" if hours else f"{minutes}:{secs:02}"
    return f"{text}.{tenth}" if tenth else text


def milliseconds_text(milliseconds: float) -> str:
    """`1.5 ms`, `120 ms` or `2.50 s`."""
    if milliseconds >= 1000:
        return f"{milliseconds / 1000:.2f} s"
    return f"{milliseconds:.0f} ms" if milliseconds >= 10 else f"{milliseconds:.1f} ms"


def count_text(n: int, noun: str) -> str:
    """`1 frame`, `2 frames`."""
    return f"{number_text(n)} {noun if n == 1 else noun + 's'}"


def number_text(n: int) -> str:
    """Digits with a narrow space between thousands."""
    return f"{n:,}".replace(",", "\u202f")


def picture(frame_HWC: np.ndarray, *, max_side_pixels: int) -> str:
    """A uint8 RGB frame as an <img> with a JPEG data URL, shrunk if a side is above `max_side_pixels`."""
    image = Image.fromarray(np.ascontiguousarray(frame_HWC))
    image.thumbnail((max_side_pixels, max_side_pixels), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    # Full colour resolution: small pictures of small coloured things lose what matters in 4:2:0.
    image.save(buffer, "JPEG", quality=82, subsampling=0)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img src="data:image/jpeg;base64,{data}" width="{image.width}" height="{image.height}" alt="">'


def nice_step(span: float, max_steps: int) -> float:
    """A round step (1, 2, 5, 10, 15, 30, 60 … seconds) that divides `span` into at most `max_steps`."""
    for step in (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400):
        if span / step <= max_steps:
            return float(step)
    return 3600.0 * math.ceil(span / 3600 / max_steps)
