"""docs/results/ablation.json -> the tables of docs/results/ablation.md and the plots beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import chart

_LABELS = {
    "uniform": "uniform frames, no zooms",
    "sft": "SFT only",
    "no_reflection": "without reflection",
    "no_cold_start": "without cold start",
    "no_tool_reward": "without R_tool",
    "full": "full",
}


def rows(held: dict[str, Any]) -> str:
    """The ablation table, and what it was measured on."""
    lines = [
        "| row | | accuracy | 95 % interval | by seed | zooms | zoomed at all | frames | saw the evidence |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in held["rows"]:
        low, high = row["interval"]
        seeds = ", ".join(f"{a:.3f}" for a in row["by_seed"])
        lines.append(
            f"| `{row['name']}` | {_LABELS[row['name']]} | **{row['accuracy']:.3f}** | {low:.3f} to {high:.3f} "
            f"| {seeds} | {row['zooms']:.2f} | {row['zoom_rate']:.2f} | {row['frames']:.1f} | {row['hit_rate']:.2f} |"
        )
    return "\n".join(
        [
            *lines,
            "",
            f"{held['num_questions']} fresh questions a row and seed, greedy; seeds "
            f"{', '.join(map(str, held['seeds']))}. {held['cpu_hours']} CPU hours in all, "
            f"{held['cpu']}, one thread a process, {held['date'][:10]}.",
        ]
    )


def budgets(held: dict[str, Any]) -> str:
    """Accuracy and frames against zooms allowed, and against the number of uniform frames."""
    lines = ["| | accuracy | 95 % interval | frames used | zooms made |", "|---|---|---|---|---|"]

    def line(name: str, row: dict[str, Any]) -> str:
        low, high = row["interval"]
        return (
            f"| {name} | {row['accuracy']:.3f} | {low:.3f} to {high:.3f} | {row['frames']:.1f} | {row['zooms']:.2f} |"
        )

    for model, label in (("full", "full"), ("sft", "SFT only")):
        lines += [line(f"{label}, at most {k} zooms", row) for k, row in held["zooms"][model].items()]
    for frames, row in held["uniform"].items():
        best = held["uniform_ceiling"][frames]
        lines.append(line(f"{frames} uniform frames (one seed; a perfect reader: {best:.2f})", row))
    return "\n".join(lines)


def plots(held: dict[str, Any]) -> dict[str, str]:
    """File name -> SVG."""
    bars = {row["name"]: (row["accuracy"], *row["interval"]) for row in held["rows"]}
    allowed = {
        label: {int(k): row["accuracy"] for k, row in held["zooms"][model].items()}
        for model, label in (("full", "full"), ("sft", "SFT only"))
    }
    frames: dict[str, dict[float, float]] = {
        label: {row["frames"]: row["accuracy"] for row in held["zooms"][model].values()}
        for model, label in (("full", "full, 0 to 4 zooms"), ("sft", "SFT only, 0 to 4 zooms"))
    }
    frames["uniform"] = {row["frames"]: row["accuracy"] for row in held["uniform"].values()}
    curves = {
        row: {point["step"]: point["eval/accuracy"] for point in seeds[0] if "eval/accuracy" in point}
        for row, seeds in held["curves"].items()
    }
    rates = {
        row: {point["step"]: point["zoom_rate"] for point in seeds[0] if "zoom_rate" in point}
        for row, seeds in held["curves"].items()
    }
    return {
        "ablation.svg": chart.bars("Accuracy by row, with 95 % intervals", bars),
        "budgets.svg": chart.lines(
            "Accuracy on fresh questions",
            {"against zooms allowed": allowed, "against frames seen": frames},
            label=lambda x: f"{x:.0f}",
        ),
        "learning.svg": chart.lines(
            f"Reinforcement learning, seed {held['seeds'][0]}",
            {"held-out accuracy by step": curves, "share of rollouts that zoom, by step": rates},
            label=lambda x: f"{x:.0f}",
        ),
    }


def write_plots(held: dict[str, Any], folder: Path) -> None:
    for name, text in plots(held).items():
        (folder / name).write_text(text)
