"""How far `reuse=` is from exact: one session sees a clip, another, that asked something else and looked elsewhere
first, gets it moved in. The embedded model on world videos, one-hop and multi-hop questions.

    python bench/bench_reuse.py

KL is that of the next-token distributions behind the moved clips, exact against reused, over the same tokens; "argmax"
how often both prefer the same token; "answers changed" how often the letter that the model prefers is another one.
"not rotated" moves the keys without turning them: what the rotation is worth. Kept in bench/results/reuse.json.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import vzoom
from vzoom.engine.engine import Engine
from vzoom.engine.request import Request
from vzoom.engine.scripted_session import ScriptedSession
from vzoom.synthetic import FAMILIES, ask_questions, config_for, make_video, oracle_turns, render
from vzoom.types import Trajectory
from vzoom.video import ClipCache

RESULTS = Path(__file__).parent / "results" / "reuse.json"
MODES = ("rotate", "rotate+first16", "not rotated")


class Listening(Engine):
    """Keeps the log-probabilities behind every fed token run of its one session."""

    rows: list[torch.Tensor]

    def _run_model(self, batch: list[Any]) -> torch.Tensor:
        logits = super()._run_model(batch)
        self.rows.append(logits[0].log_softmax(-1))
        return logits


def play(engine: Listening, request: Request, turns: list[str]) -> Trajectory:
    engine.rows = []
    ((outcome,),) = engine.run([replace(request, session=partial(ScriptedSession, turns))])
    return outcome.unwrap()


def behind(trajectory: Trajectory, first_turn: int) -> slice:
    """The sampled tokens from turn `first_turn` on."""
    return slice(sum(turn.num_sampled for turn in trajectory.turns[:first_turn]), None)


def measure(zoomer: vzoom.Zoomer, family: str, num_videos: int, seed: int) -> dict[str, dict[str, float]]:
    config = zoomer.config
    scores: dict[str, list[dict[str, float]]] = {mode: [] for mode in MODES}
    letters = torch.tensor([zoomer.checkpoint.tokenizer.encode(x)[0] for x in "ABCD"])
    clips = ClipCache()
    with tempfile.TemporaryDirectory() as folder:
        for i in range(num_videos):
            world = make_video(seed + i, config_for(family))
            path = Path(folder, f"{i}.mp4")
            render(world, path)
            question = ask_questions(world, family, seed + i)
            asked = Request.about(path, question.text, checkpoint=zoomer.checkpoint, clip_cache=clips, config=config)
            rng = np.random.default_rng(seed + i)
            plain = oracle_turns(world, question, config, max_zooms=config.max_zooms - 1, rng=rng)
            flawed = oracle_turns(world, question, config, max_zooms=config.max_zooms, rng=rng, flaw="elsewhere")
            donor, taker = [t.text for t in plain], [t.text for t in flawed]

            def engine(reuse: Any) -> Listening:
                return Listening(
                    zoomer.checkpoint,
                    max_total_tokens=config.max_total_tokens,
                    pool_tokens=8 * config.max_total_tokens,
                    reuse=reuse,
                )

            exact = engine("off")
            true = play(exact, asked, taker)
            for mode in MODES:
                other = engine("rotate" if mode == "not rotated" else mode)
                if mode == "not rotated":
                    other.model = _Still(other.model)
                play(other, replace(asked, question="What is shown?"), donor)
                got = play(other, asked, taker)
                moved = [n for n, turn in enumerate(got.turns) if turn.num_reused]
                if not moved:
                    continue  # the taker's calls were cut otherwise than the donor's
                p, q = torch.stack(exact.rows)[behind(true, moved[0])], torch.stack(other.rows)[behind(got, moved[0])]
                kl = torch.nn.functional.kl_div(q, p, log_target=True, reduction="none").nan_to_num(0).sum(-1)
                ids = torch.tensor([t for t, s in zip(got.ids, got.sampled, strict=True) if s][behind(got, moved[0])])
                answer = int(torch.isin(ids, letters).nonzero()[-1])  # the letter between the answer tags
                choices = [row[answer, letters[: len(question.options)]].argmax() for row in (p, q)]
                scores[mode].append(
                    {
                        "kl": float(kl.mean()),
                        "kl_answer": float(kl[answer]),
                        "argmax_equal": float((p.argmax(-1) == q.argmax(-1)).float().mean()),
                        "answers_changed": float(choices[0] != choices[1]),
                        "tokens_moved": float(sum(turn.num_reused for turn in got.turns)),
                    }
                )
    return {
        mode: {"conversations": len(rows), **{k: float(np.mean([r[k] for r in rows])) for k in rows[0]}}
        for mode, rows in scores.items()
        if rows
    }


class _Still:
    """A model whose keys are not turned when they move."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def rotation(self, delta: int) -> Any:
        return self._model.rotation(0 * delta)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--videos", type=int, default=40, help="of each family (default: 40)")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    zoomer = vzoom.load(args.model, device="cpu")
    results = {}
    columns = ("questions", "reuse", "conversations", "tokens moved", "KL", "KL of the answer", "argmax equal")
    print("| " + " | ".join((*columns, "answers changed")) + " |")
    print("|" + "---|" * (len(columns) + 1))
    for family in FAMILIES:
        results[family] = measure(zoomer, family, args.videos, args.seed)
        for mode, row in results[family].items():
            print(
                f"| {family} | {mode} | {row['conversations']} | {row['tokens_moved']:.0f} | {row['kl']:.4f} | "
                f"{row['kl_answer']:.4f} | {row['argmax_equal']:.1%} | {row['answers_changed']:.1%} |",
                flush=True,
            )
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps({"model": args.model, "seed": args.seed, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
