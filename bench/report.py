"""bench/results/session.json: runs -> medians, ratios, targets, and the table of them.

Entries are written one by one; those of an earlier call stay until they are measured again.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any, NamedTuple

STAGES = ("patches", "vision", "prefill", "decode")


class Target(NamedTuple):
    """`figure` of `entry` must not be above `limit`, or, where `at_least`, not below."""

    figure: str
    entry: str
    limit: float
    at_least: bool = False


TARGETS = (
    Target("ratio_to_vllm", "single/small/float32", 0.90),
    Target("ratio_to_vllm", "single/small/bfloat16", 0.70),
    Target("ratio_to_vllm", "single/tiny/float32", 0.70),
    Target("ratio_to_vllm", "group/tiny/float32", 0.80),
    Target("ratio_to_vllm", "group/small/bfloat16", 0.65),
    Target("decode_tokens_per_cpu_second", "single/small/bfloat16", 100, at_least=True),
    Target("peak_rss_mib", "single/small/float32", 900),
    Target("ready_seconds", "single/small/float32", 3),
    Target("ready_seconds", "single/small/bfloat16", 3),
)


def medians(system: dict[str, Any]) -> dict[str, Any]:
    """Of a system's runs: CPU and wall seconds, CPU seconds by stage, decode rate; memory and start-up as they were."""
    runs = system["runs"]

    def median(values: list[float]) -> float:
        return round(statistics.median(values), 4)

    stages = {name: median([run["phases"].get(name, 0.0) for run in runs]) for name in STAGES}
    stages["other"] = median([run["cpu"] - sum(run["phases"].get(name, 0.0) for name in STAGES) for run in runs])
    return {
        "cpu_seconds": median([run["cpu"] for run in runs]),
        "cpu_seconds_min_max": [round(pick(run["cpu"] for run in runs), 4) for pick in (min, max)],
        "wall_seconds": median([run["wall"] for run in runs]),
        "stages_cpu_seconds": stages,
        "decode_tokens_per_cpu_second": median([run["decode_tokens"] / run["phases"]["decode"] for run in runs]),
        "runs_that_agree": sum(run["agrees"] for run in runs),
        "peak_rss_mib": round(system["peak_rss_mib"], 1),
        "ready_seconds": round(system["ready_wall"], 3),
        "ready_cpu_seconds": round(system["ready_cpu"], 3),
        "versions": system["versions"],
        "settings": system["settings"],
    }


def load(path: Path) -> dict[str, Any]:
    """What the file holds, or an empty report."""
    return json.loads(path.read_text()) if path.is_file() else {"entries": {}}


def merge(path: Path, name: str, entry: dict[str, Any]) -> dict[str, Any]:
    """Put `entry` in the file, derive ratios and targets again, write it whole, and return it."""
    entries = {**load(path)["entries"], name: entry}
    report = derive(dict(sorted(entries.items())))
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = path.with_suffix(".new")
    whole.write_text(json.dumps(report, indent=1) + "\n")
    whole.replace(path)  # a reader, or an interrupted run, never sees half a file
    return report


def derive(entries: dict[str, Any]) -> dict[str, Any]:
    """The figures that targets are set for, by entry, and whether each target is met (null: not measured)."""
    figures: dict[str, dict[str, float]] = {
        "ratio_to_vllm": {},
        "decode_tokens_per_cpu_second": {},
        "peak_rss_mib": {},
        "ready_seconds": {},
    }
    for name, entry in entries.items():
        systems = entry["systems"]
        if "vzoom" not in systems:
            continue
        for figure in ("decode_tokens_per_cpu_second", "peak_rss_mib", "ready_seconds"):
            figures[figure][name] = systems["vzoom"][figure]
        if "vllm" in systems:
            ratio = systems["vzoom"]["cpu_seconds"] / systems["vllm"]["cpu_seconds"]
            figures["ratio_to_vllm"][name] = round(ratio, 4)
    targets = []
    for target in TARGETS:
        value = figures[target.figure].get(target.entry)
        met = None if value is None else (value >= target.limit if target.at_least else value <= target.limit)
        targets.append({**target._asdict(), "value": value, "met": met})
    return {**figures, "targets": targets, "entries": entries}


def table(report: dict[str, Any], names: list[str]) -> str:
    """The measured entries as a markdown table, and the targets below it."""
    lines = [
        "| entry | system | CPU s (min–max) | to vLLM | wall s | patches | vision | prefill | decode | other "
        "| decode tok / CPU s | peak RSS MiB | ready s | equal runs |",
        "|" + "---|" * 14,
    ]
    for name in names:
        systems = report["entries"][name]["systems"]
        base = systems.get("vllm", {}).get("cpu_seconds")
        for system, row in systems.items():
            low, high = row["cpu_seconds_min_max"]
            stages = " | ".join(f"{row['stages_cpu_seconds'][stage]:.2f}" for stage in (*STAGES, "other"))
            ratio = f"{row['cpu_seconds'] / base:.2f}" if base else "–"
            lines.append(
                f"| {name} | {system} | {row['cpu_seconds']:.2f} ({low:.2f}–{high:.2f}) | {ratio} "
                f"| {row['wall_seconds']:.2f} | {stages} "
                f"| {row['decode_tokens_per_cpu_second']:.1f} | {row['peak_rss_mib']:.0f} | {row['ready_seconds']:.1f} "
                f"| {row['runs_that_agree']}/{report['entries'][name]['repeats']} |"
            )
    lines += ["", "| target | entry | limit | measured | met |", "|---|---|---|---|---|"]
    for target in report["targets"]:
        sign = "≥" if target["at_least"] else "≤"
        value = "–" if target["value"] is None else f"{target['value']:.3g}"
        met = {True: "yes", False: "**no**", None: "not measured"}[target["met"]]
        lines.append(f"| {target['figure']} | {target['entry']} | {sign} {target['limit']:g} | {value} | {met} |")
    return "\n".join(lines)
