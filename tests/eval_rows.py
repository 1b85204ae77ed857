"""Runs made by hand: items, trajectories and files as `vzoom eval` writes them, without a model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vzoom.eval.item import Item, Verdict
from vzoom.eval.runs.run import PREDICTIONS
from vzoom.eval.runs.store import ItemTiming, Prediction, PredictionRow, Store
from vzoom.eval.scores.failures import failure_of

OPTIONS = ("star", "moon", "ring", "bolt")


def make_item(number: int = 0, **changes: Any) -> Item:
    held: dict[str, Any] = {
        "id": f"q-{number}",
        "benchmark": "lvbench",
        "video": f"{number}.mp4",
        "question": f"Which shape flashes in scene {number}?\nA: star\nB: moon\nC: ring\nD: bolt",
        "options": OPTIONS,
        "reference": "B",
        "category": ("event understanding", "reasoning")[number % 2],
        "duration_bucket": "long",
        "subtitles": None,
        "source": f"video_info.meta.jsonl:{number + 1}",
        "evidence": ((30.0, 32.0),),
    }
    return Item(**{**held, **changes})


def make_story(
    *, zooms: Sequence[tuple[float, float]] = (), errors: Sequence[str] = (), stop: str = "answered", text: str = "B"
) -> dict[str, Any]:
    """A stored trajectory: zooms, then turns that were refused, then the answer (or what there was instead).

    One glance frame every 10 s of 60 s; a zoom shows a frame a second.
    """
    turns = [{"text": f'<video_zoom>{{"segment": [{a}, {b}], "fps": 1}}</video_zoom>', "error": None} for a, b in zooms]
    turns += [{"text": f"<video_zoom>{error}</video_zoom>", "error": error} for error in errors]
    if stop == "answered":
        turns.append({"text": f"<think>so</think><answer>{text}</answer>", "error": None})
    shown = [
        {
            "start_seconds": a,
            "end_seconds": b,
            "fps": 1.0,
            "frames": int(b - a),
            "pts_seconds": [a + i for i in range(int(b - a))],
        }
        for a, b in zooms
    ]
    return {
        "duration_seconds": 60.0,
        "glance_seconds": [0.0, 10.0, 20.0, 40.0, 50.0],
        "zooms": shown,
        "turns": turns,
        "stop_reason": stop,
        "answer": text if stop == "answered" else None,
    }


def settings(policy: str = "zoom", /, **changes: Any) -> dict[str, Any]:
    return {
        "benchmark": "lvbench",
        "model": "some-model",
        "model_hash": "0123",
        "protocol_hash": "4567",
        "policy": {"name": policy, "budget": None, "fps": None, "confidence": 0.9},
        "zoom": {"glance_max_frames": 64, "max_zooms": 4},
        "subtitles": False,
        "seed": 0,
        **changes,
    }


def write_run(
    folder: Path, rows: Sequence[tuple[Item, Verdict, dict[str, Any] | None]], policy: str = "zoom", /, **changes: Any
) -> Path:
    """folder, with its predictions. A story of None is an item whose video is missing."""
    with Store(folder / PREDICTIONS, settings(policy, **changes)) as store:
        store.add(
            PredictionRow(
                item,
                make_prediction(position, item, verdict, story),
                ItemTiming(position, 1.0, 2.0, 3.0, 4.0, 490.0),
                verdict.parts,
            )
            for position, (item, verdict, story) in enumerate(rows)
        )
    return folder


def make_prediction(position: int, item: Item, verdict: Verdict, story: dict[str, Any] | None) -> Prediction:
    zooms = story["zooms"] if story else []
    return Prediction(
        position=position,
        answer=story["answer"] if story else None,
        verdict=verdict.kind,
        said=verdict.said,
        detail=verdict.detail,
        stop_reason=story["stop_reason"] if story else "",
        failure=str(failure_of(item, verdict, story)),
        trajectory=json.dumps(story) if story else "",
        conversations=int(story is not None),
        frames=5 + sum(zoom["frames"] for zoom in zooms) if story else 0,
        zooms=len(zooms),
        tokens_prefilled=1000,
        tokens_sampled=50,
        flops=2e9,
        kv_bytes=1 << 20,
        confidence=-1.0,
        seed=1,
    )
