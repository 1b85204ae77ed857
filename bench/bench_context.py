"""What a zoom turn costs against the length of the conversation in front of it.

    python bench/bench_context.py                      small model, float32, 2k to 32k tokens: about 4 minutes
    pytest bench/bench_context.py --benchmark-only     tiny model, 2k and 4k

A turn is 16 frames of 168x168 (881 tokens with their text, and the pending one) and, apart, the 60 tokens that are
written behind them. Times are CPU seconds of the calling thread, medians; contexts take turns. Attention is what
`append_and_attend` takes in all layers (rotation and the write of K and V included), vision the frames' patches and the
tower; the rest of the model's run is "linear". The context's pages are filled with random keys and values: what
attention costs does not depend on them, and 32k tokens need not be fed for it.
Figures go to bench/results/context.json, a plot to context.svg.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import command
import numpy as np
import torch
from harness import HERE, Entry
from peers import Phases
from workload import ControlIds, Shape, Workload
from write_tables import PARTS, context

from vzoom.config import ZoomConfig
from vzoom.engine.kv_cache import BlockTable, PagePool
from vzoom.models import FeatureCache, encode_clips, load_checkpoint
from vzoom.models.attention import Ragged
from vzoom.protocol import builtin_protocol
from vzoom.protocol.mrope import text_positions
from vzoom.types import Clip
from vzoom.video.patches import PatchBuffer

CONTEXTS = (2048, 4096, 8192, 16384, 32768)
DECODED = 60

_DIRECT = builtin_protocol("vzoom").override(name="direct", pixels={"resize": "direct"})


class Turn:
    """A zoom turn behind a context of any length, with nothing but the model's own code in it."""

    def __init__(self, folder: Path, dtype: str, longest: int) -> None:
        self.checkpoint = load_checkpoint(str(folder), device="cpu", dtype=dtype)
        self.model = model = self.checkpoint.model
        self.work = Workload.make(Shape(glance_frames=1, zooms=1), ControlIds.of_checkpoint(folder), seed=0)
        self.ids = [self.work.prompt_ids[0], *self.work.expanded(self.work.turn_ids[0, 0])]
        times = tuple(float(i) for i in range(self.work.shape.clip_frames))
        frames = self.work.clips[0, 0]
        self.clip = Clip(frames, times, tuple(range(len(times))), (False,) * len(times))
        block = 32
        self.pool = PagePool(
            num_layers=model.num_layers,
            num_kv_heads=model.num_kv_heads,
            head_dim=model.head_dim,
            num_blocks=-(-(longest + len(self.ids) + DECODED) // block),
            block_size=block,
            dtype=model.dtype,
        )
        for pages in (*self.pool.k_pages, *self.pool.v_pages):
            pages.normal_()
        self.phases = Phases()
        holders = [
            m for name, m in sys.modules.items() if name.startswith("vzoom.models") and hasattr(m, "append_and_attend")
        ]
        assert holders, "no module of vzoom.models calls append_and_attend: what attention takes cannot be told apart"
        for module in holders:
            self.phases.watch(module, "append_and_attend", "attention")

    def feed(self, table: BlockTable, ids: list[int], images: Any = None) -> torch.Tensor:
        """Logits behind `ids`, which are appended. Their positions are those of text, which costs the same."""
        positions, _ = text_positions(table.length, len(ids))
        slots = table.extend(len(ids))
        held = torch.tensor(ids)
        rows = None if images is None else torch.nonzero(held == self.model.image_token_id)[:, 0]
        batch = Ragged.pack([table], [slots], [positions], self.model.device)
        logits: torch.Tensor = self.model.forward(held, batch, self.pool, rows, images)
        return logits

    def check(self) -> None:
        """Fed in two parts or in one: the same logits. A bench of wrong numbers is worth nothing."""
        ids = self.work.expanded(self.work.turn_ids[0, 0])[:400]
        ids = [i if i != self.model.image_token_id else 300 for i in ids]
        found = []
        for parts in ([ids], [ids[:250], ids[250:]]):
            table = BlockTable(self.pool)
            found.append([self.feed(table, part) for part in parts][-1].float())
            table.truncate(0)
        bound = 2e-4 if self.model.dtype == torch.float32 else 0.1
        torch.testing.assert_close(found[0], found[1], atol=bound * float(found[0].abs().max()), rtol=0)

    def run(self, context_tokens: int) -> dict[str, float]:
        """CPU seconds by PARTS."""
        table = BlockTable(self.pool)
        table.extend(context_tokens)
        parts: dict[str, float] = {}
        self.phases.reset()
        with self.phases.stage("vision"):
            features, _ = encode_clips(
                [(self.clip, ZoomConfig(protocol=_DIRECT))],
                self.model,
                spec=self.checkpoint.patch_spec,
                cache=FeatureCache(),
                buffer=PatchBuffer(),
            )
        parts["vision"] = self.phases.seconds["vision"]
        for part, runs in (("turn", 1), ("decode", DECODED)):
            self.phases.reset()
            with self.phases.stage("whole"):
                for _ in range(runs):
                    if part == "turn":
                        token = int(self.feed(table, self.ids, features[0]).argmax())
                    else:
                        token = int(self.feed(table, [token]).argmax())
            seconds = self.phases.seconds
            parts[f"{part}_attention"] = seconds["attention"]
            parts[f"{part}_linear"] = seconds["whole"] - seconds["attention"]
        table.truncate(0)
        return parts


def measure(turn: Turn, contexts: tuple[int, ...], repeats: int) -> dict[str, dict[int, float]]:
    """Medians: part -> context -> CPU seconds. The contexts take turns; the first run is not counted."""
    turn.check()
    turn.run(contexts[0])
    taken: dict[str, dict[int, list[float]]] = {part: {c: [] for c in contexts} for part in PARTS}
    for _ in range(repeats):
        for c in contexts:
            for part, seconds in turn.run(c).items():
                taken[part][c].append(seconds)
    return {part: {c: statistics.median(times) for c, times in row.items()} for part, row in taken.items()}


def fit(row: dict[int, float]) -> dict[str, float]:
    """Least squares over contexts: CPU seconds at no context, more for each 1024 tokens, and what it explains (R²)."""
    x, y = np.array(list(row)) / 1024, np.array(list(row.values()))
    slope, start = np.polyfit(x, y, 1)
    spread = float(((y - y.mean()) ** 2).sum())
    left = float(((y - (slope * x + start)) ** 2).sum())
    return {"at_none": float(start), "per_1024_tokens": float(slope), "r2": 1 - left / spread}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="small", choices=["tiny", "small"])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--models", type=Path, help="folder with MODEL-DTYPE checkpoints; made where there is none")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder; default: %(default)s")
    options = parser.parse_args()
    options.peers = None
    torch.set_num_threads(options.threads)
    place = command.machine(options.threads)
    turn = Turn(
        command.checkpoint(options, Entry("single", options.model, options.dtype)), options.dtype, max(CONTEXTS)
    )
    parts = measure(turn, CONTEXTS, options.repeats)
    fits = {part: fit(row) for part, row in parts.items()}
    options.out.mkdir(parents=True, exist_ok=True)
    what = {"model": options.model, "dtype": options.dtype, "turn_tokens": len(turn.ids), "decoded_tokens": DECODED}
    held = {**place, "torch": torch.__version__, "repeats": options.repeats, **what, "cpu_seconds": parts, "fits": fits}
    (options.out / "context.json").write_text(json.dumps(held, indent=1) + "\n")
    import chart

    series = {
        "One zoom turn: 16 frames": {PARTS[p]: parts[p] for p in ("vision", "turn_linear", "turn_attention")},
        f"Its {DECODED} tokens": {PARTS[p]: parts[p] for p in ("decode_linear", "decode_attention")},
    }
    title = f"{options.model} model, {options.dtype}, {options.threads} thread: CPU seconds against tokens of context"
    (options.out / "context.svg").write_text(chart.lines(title, series))
    print(context(held))


def test_context(benchmark: Any, tmp_path: Path) -> None:
    import make_models

    torch.set_num_threads(1)
    make_models.make("tiny", "float32", tmp_path)
    turn = Turn(tmp_path, "float32", 4096)
    turn.check()
    benchmark.pedantic(turn.run, args=(4096,), rounds=3, warmup_rounds=1)
    benchmark.extra_info |= {f"cpu_ms_at_{c}": {k: v * 1e3 for k, v in turn.run(c).items()} for c in (2048, 4096)}


if __name__ == "__main__":
    main()
