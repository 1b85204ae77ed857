"""Line charts as SVG text, side by side: enough for a plot in the documentation without a plotting library."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from html import escape

# Okabe-Ito: told apart by most eyes, and dark enough on white.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
WIDTH, HEIGHT = 460, 300
LEFT, RIGHT, TOP, BOTTOM = 52, 16, 76, 40


def _ceiling(value: float) -> float:
    """The next of 1, 2, 2.5, 5, 10 times a power of ten."""
    scale = 1e-9
    while True:
        for step in (1, 2, 2.5, 5):
            if step * scale >= value:
                return step * scale
        scale *= 10


Series = Mapping[str, Mapping[float, float]]


def kilo(tokens: float) -> str:
    return f"{tokens / 1024:.0f}k"


def _panel(title: str, series: Series, shift: int, label: Callable[[float], str]) -> list[str]:
    last = max(x for row in series.values() for x in row)
    longest = max(series.values(), key=len)
    top = _ceiling(max(max(row.values()) for row in series.values()))

    def x(tokens: float) -> float:
        return shift + LEFT + tokens / last * (WIDTH - LEFT - RIGHT)

    def y(seconds: float) -> float:
        return HEIGHT - BOTTOM - seconds / top * (HEIGHT - TOP - BOTTOM)

    out = [f'<text x="{shift + LEFT}" y="44" font-weight="bold">{escape(title)}</text>']
    for i in range(6):
        value = top * i / 5
        out.append(f'<line x1="{x(0):.1f}" y1="{y(value):.1f}" x2="{x(last):.1f}" y2="{y(value):.1f}" stroke="#ddd"/>')
        out.append(f'<text x="{x(0) - 6:.1f}" y="{y(value) + 4:.1f}" text-anchor="end">{value:g}</text>')
    out += [
        f'<text x="{x(tokens):.1f}" y="{HEIGHT - 20}" text-anchor="middle">{label(tokens)}</text>'
        for tokens in sorted({0, *(t for t in longest if t >= last / 8)})
    ]
    for i, (name, row) in enumerate(series.items()):
        colour = COLOURS[i]
        points = " ".join(f"{x(tokens):.1f},{y(seconds):.1f}" for tokens, seconds in row.items())
        out.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        out += [f'<circle cx="{x(t):.1f}" cy="{y(s):.1f}" r="3" fill="{colour}"/>' for t, s in row.items()]
        where = TOP + 12 + 16 * i
        begin, end = x(0) + 10, x(0) + 30
        out.append(f'<line x1="{begin}" y1="{where}" x2="{end}" y2="{where}" stroke="{colour}" stroke-width="2"/>')
        out.append(f'<text x="{x(0) + 36:.1f}" y="{where + 4}">{escape(name)}</text>')
    return out


def lines(title: str, panels: Mapping[str, Series], *, label: Callable[[float], str] = kilo) -> str:
    """An SVG document. panels: title -> name of a line -> x -> y; both axes begin at 0. label: of an x."""
    body = [f'<text x="{LEFT}" y="20" font-size="13">{escape(title)}</text>']
    for i, (name, series) in enumerate(panels.items()):
        body += _panel(name, series, i * WIDTH, label)
    return _document(WIDTH * len(panels), HEIGHT, body)


def bars(title: str, rows: Mapping[str, tuple[float, float, float]]) -> str:
    """An SVG document with a bar a row, 0 to 1: (value, low, high), the latter two as a whisker."""
    step, left, right = 30, 150, 60
    height = TOP + step * len(rows)

    def x(value: float) -> float:
        return left + value * (WIDTH + left - left - right)

    body = [f'<text x="{left}" y="20" font-size="13">{escape(title)}</text>']
    for i in range(6):
        body.append(f'<line x1="{x(i / 5):.1f}" y1="44" x2="{x(i / 5):.1f}" y2="{height - 24}" stroke="#ddd"/>')
        body.append(f'<text x="{x(i / 5):.1f}" y="38" text-anchor="middle">{i / 5:g}</text>')
    for i, (name, (value, low, high)) in enumerate(rows.items()):
        top = 50 + step * i
        middle = top + 10
        body += [
            f'<text x="{left - 8}" y="{middle + 4}" text-anchor="end">{escape(name)}</text>',
            f'<rect x="{left}" y="{top}" width="{x(value) - left:.1f}" height="20" fill="{COLOURS[0]}"/>',
            f'<line x1="{x(low):.1f}" y1="{middle}" x2="{x(high):.1f}" y2="{middle}" stroke="#222" stroke-width="2"/>',
            f'<text x="{x(high) + 6:.1f}" y="{middle + 4}">{value:.3f}</text>',
        ]
    return _document(WIDTH + left, height, body)


def _document(width: int, height: int, body: list[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    style = 'font-family="sans-serif" font-size="11" fill="#222"'
    return "\n".join(
        [f"{head} {style}>", f'<rect width="{width}" height="{height}" fill="#fff"/>', *body, "</svg>", ""]
    )
