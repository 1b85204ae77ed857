"""bench/results/*.json -> the tables of docs/benchmarks.md, docs/results/ablation.json -> those of its page: the
documents show what was measured.

    python bench/write_tables.py

A table stands between `<!-- NAME: how it was measured -->` and `<!-- end -->`.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import ablation_page
import bench_video
import report

HERE = Path(__file__).parent
DOCUMENT = HERE.parent / "docs" / "benchmarks.md"
ABLATION = HERE.parent / "docs" / "results" / "ablation.md"
PARTS = {
    "vision": "vision tower, 16 frames",
    "turn_linear": "prefill, all but attention",
    "turn_attention": "prefill, attention",
    "decode_linear": "decode, all but attention",
    "decode_attention": "decode, attention",
}


def _session(held: dict[str, Any]) -> str:
    names = list(held["entries"])
    lines = [
        report.table(held, names),
        "",
        "| entry | measured | processor | load before → after | repeats | versions |",
    ]
    lines.append("|---|---|---|---|---|---|")
    for name, entry in held["entries"].items():
        versions = ", ".join(
            f"{package} {version}"
            for system in ("vzoom", "vllm", "hf_cache")
            for package, version in entry["systems"].get(system, {"versions": {}})["versions"].items()
            if package not in ("python", "torch")
        )
        torch = entry["systems"]["vzoom"]["versions"]["torch"] if "vzoom" in entry["systems"] else "–"
        load = f"{entry['load_average'][0]} → {entry['load_average_after'][0]}"
        lines.append(
            f"| {name} | {entry['date']} | {entry['cpu']}, {entry['threads']} thread | {load} | {entry['repeats']} "
            f"| {versions}, torch {torch} |"
        )
    return "\n".join(lines)


def context(held: dict[str, Any]) -> str:
    """The table of bench_context.py from what it keeps."""
    parts = held["cpu_seconds"]
    lines = [
        "| CPU s at a context of | " + " | ".join(f"{int(c):,}" for c in parts["vision"]) + " | largest / smallest |"
    ]
    lines.append("|---" * (len(parts["vision"]) + 2) + "|")
    for part, label in PARTS.items():
        row = list(parts[part].values())
        cells = " | ".join(f"{seconds:.3f}" for seconds in row)
        lines.append(f"| {label} | {cells} | {max(row) / min(row):.2f} |")
    lines.append("")
    for part in ("turn_attention", "decode_attention"):
        fit = held["fits"][part]
        lines.append(
            f"- {PARTS[part]}: {fit['at_none']:.3f} s + {fit['per_1024_tokens']:.4f} s for each 1024 tokens "
            f"of context, R² {fit['r2']:.4f}"
        )
    what = f"{held['model']} model, {held['dtype']}, {held['threads']} thread of {held['cpu']}"
    lines.append(
        f"- {what}, torch {held['torch']}, {held['repeats']} repeats, {held['date']}, load {held['load_average'][0]}"
    )
    return "\n".join(lines)


def tables() -> dict[str, str]:
    """Mark -> table, of the results that are there."""
    makers = {"session": _session, "context": context, "video": bench_video.table}
    found = {name: HERE / "results" / f"{name}.json" for name in makers}
    return {name: makers[name](json.loads(path.read_text())) for name, path in found.items() if path.is_file()}


def ablation_tables() -> dict[str, str]:
    path = ABLATION.with_suffix(".json")
    if not path.is_file():
        return {}
    held = json.loads(path.read_text())
    return {"rows": ablation_page.rows(held), "budgets": ablation_page.budgets(held)}


def fill(text: str, made: dict[str, str]) -> str:
    """`text` with the tables put in. ValueError where a mark is missing."""
    for name, rows in made.items():
        pattern = re.compile(rf"(<!-- {name}: [^\n]*-->\n).*?(<!-- end -->)", re.DOTALL)
        if not pattern.search(text):
            raise ValueError(f"the document has no mark for {name!r}")
        text = pattern.sub(lambda found, rows=rows: f"{found[1]}\n{rows}\n\n{found[2]}", text, count=1)
    return text


if __name__ == "__main__":
    DOCUMENT.write_text(fill(DOCUMENT.read_text(), tables()))
    ABLATION.write_text(fill(ABLATION.read_text(), ablation_tables()))
    if ABLATION.with_suffix(".json").is_file():
        ablation_page.write_plots(json.loads(ABLATION.with_suffix(".json").read_text()), ABLATION.parent)
