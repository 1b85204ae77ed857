"""Line charts as SVG text, side by side: enough for a plot in the documentation without a plotting library."""

from __future__ import annotations

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


def _panel(title: str, series: dict[str, dict[int, float]], shift: int) -> list[str]:
    first = next(iter(series.values()))
    last = max(first)
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
        f'<text x="{x(tokens):.1f}" y="{HEIGHT - 20}" text-anchor="middle">{tokens // 1024}k</text>'
        for tokens in (0, *(t for t in first if t >= last / 8))
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


def lines(title: str, panels: dict[str, dict[str, dict[int, float]]]) -> str:
    """An SVG document. panels: title -> name of a line -> x -> y; both axes begin at 0."""
    body = [f'<text x="{LEFT}" y="20" font-size="13">{escape(title)}</text>']
    for i, (name, series) in enumerate(panels.items()):
        body += _panel(name, series, i * WIDTH)
    width = WIDTH * len(panels)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{HEIGHT}" viewBox="0 0 {width} {HEIGHT}"'
    style = 'font-family="sans-serif" font-size="11" fill="#222"'
    return "\n".join(
        [f"{head} {style}>", f'<rect width="{width}" height="{HEIGHT}" fill="#fff"/>', *body, "</svg>", ""]
    )
