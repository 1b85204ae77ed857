"""Draws the picture of the README: a run of the embedded model, with its glance, its two zooms and its answer.

    python docs/picture.py                      writes docs/images/zoom.svg
    python docs/picture.py --out picture.svg --seed 7

Everything in it comes from the run: the frames that were seen, their times, and the words of the model.
"""

from __future__ import annotations

import argparse
import base64
import io
import re
import tempfile
from collections.abc import Iterator
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

import vzoom
from vzoom.synthetic import ask_questions, config_for, make_video, render

DEFAULT_OUT = Path(__file__).parent / "images" / "zoom.svg"
WIDTH, MARGIN, THUMB = 864, 32, 50  # pixels; 16 thumbnails fill the width
STRIP = WIDTH - 2 * MARGIN
COLOURS = ("#d9480f", "#1971c2", "#2f9e44", "#9c36b5")
STYLE = (
    "text{font:14px system-ui,sans-serif;fill:#212529}.small{font-size:12px;fill:#6c757d}"
    ".model{font-family:ui-monospace,monospace;font-size:13px}.bold{font-weight:600}"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="the SVG file to write")
    parser.add_argument("--seed", type=int, default=4, help="which video is rendered and asked about")
    args = parser.parse_args()
    made = make_video(args.seed, config_for("which"))
    question = ask_questions(made, "which", args.seed).text
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        render(made, path)
        result = vzoom.load("embedded", device="cpu").ask(path, question)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(svg(result))
    print(args.out)


def svg(result: vzoom.Result) -> str:
    """The whole picture."""
    trajectory = result.trajectory
    seconds_per_pixel = trajectory.video.duration_seconds / STRIP
    ask, *options = trajectory.question.splitlines()
    parts = [text(MARGIN, 36, f"{ask}  {' · '.join(options)}", "bold")]

    every = max(1, -(-len(result.glance) // (STRIP // THUMB)))
    shown = result.glance.frames[::every]
    times = trajectory.glance_seconds
    parts += [text(MARGIN, 66, f"glance: {len(times)} frames, one every {times[1] - times[0]:g} s", "small")]
    parts += thumbnails(shown, top=74, side=STRIP / len(shown))
    bottom = 74 + STRIP / len(shown)
    for i, t in enumerate(range(0, int(trajectory.video.duration_seconds) + 1, 8)):
        anchor = "start" if i == 0 else "end" if t >= trajectory.video.duration_seconds else "middle"
        parts.append(text(MARGIN + t / seconds_per_pixel, bottom + 15, f"{t} s", "small", anchor))

    top = bottom + 48
    for number, (turn, call, clip) in enumerate(zip(trajectory.zooms, trajectory.calls, result.clips, strict=True)):
        colour = COLOURS[number % len(COLOURS)]
        left, right = (MARGIN + t / seconds_per_pixel for t in (call.start_seconds, turn.end_seconds))
        end = MARGIN + THUMB * len(clip)
        parts.append(
            f'<rect x="{left:.1f}" y="72" width="{right - left:.1f}" height="{bottom - 70:.1f}" rx="3" fill="none" '
            f'stroke="{colour}" stroke-width="3"/>'
        )
        line = f"zoom {number + 1}: {len(clip)} frames from {call.start_seconds:g} s to {turn.end_seconds:g} s"
        parts += [text(MARGIN, top, thought(turn.text), "model"), text(end - 4, top, line, "small", "end", colour)]
        parts += thumbnails(clip.frames, top=top + 10, side=THUMB)
        parts.append(
            f'<rect x="{MARGIN}" y="{top + 10:.1f}" width="{end - MARGIN}" height="{THUMB}" rx="3" fill="none" '
            f'stroke="{colour}" stroke-width="3"/>'
        )
        top += THUMB + 42
    parts.append(text(MARGIN, top, thought(trajectory.turns[-1].text), "model"))
    parts.append(text(WIDTH - MARGIN, top, f"answer: {result.answer}", "bold", "end"))
    height = round(top + 24)
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">\n'
        f"<title>A video, the glance, {len(result.clips)} zooms, and the answer</title>\n<style>{STYLE}</style>\n"
        f'<rect width="{WIDTH}" height="{height}" rx="8" fill="#ffffff"/>\n{body}\n</svg>\n'
    )


def text(x: float, y: float, words: str, style: str, anchor: str = "start", colour: str | None = None) -> str:
    fill = f' style="fill:{colour}"' if colour else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{style}" text-anchor="{anchor}"{fill}>{escape(words)}</text>'


def thought(turn: str) -> str:
    """What the model wrote before it acted."""
    match = re.search(r"<think>(.*?)</think>", turn, flags=re.DOTALL)
    return match[1].strip() if match else turn.strip()


def thumbnails(frames_NHWC: np.ndarray, *, top: float, side: float) -> Iterator[str]:
    """The frames beside each other, from the left margin on."""
    for i, frame in enumerate(frames_NHWC):
        file = io.BytesIO()
        Image.fromarray(frame).save(file, "png", optimize=True)
        data = base64.b64encode(file.getvalue()).decode()
        yield (
            f'<image x="{MARGIN + i * side + 1:.1f}" y="{top + 1:.1f}" width="{side - 2:.1f}" height="{side - 2:.1f}" '
            'preserveAspectRatio="none" '
            f'href="data:image/png;base64,{data}"/>'
        )


if __name__ == "__main__":
    main()
