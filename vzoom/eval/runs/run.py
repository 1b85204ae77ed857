"""A benchmark, a model and a policy -> one file of predictions; many processes may share the work.

    RUN/shards/shard-I-of-N.sqlite   what each process has done, in whole blocks
    RUN/predictions.sqlite           all of it in order; made by the process that finishes last

The same command resumes where it was stopped, also with another number of processes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...data import LOCK, Lock
from ...protocol import Judge
from ..item import Benchmark, Item, Verdict
from ..scores.cost import ModelShape
from ..scores.failures import failure_of
from .ask import Asked, ask_block, seed_of
from .model_hash import model_hash
from .run_config import RunConfig
from .shard import Shard
from .store import ItemTiming, Prediction, PredictionRow, Store, check_same, merge, read_positions, read_settings

if TYPE_CHECKING:
    from ...zoomer import Zoomer

PREDICTIONS = "predictions.sqlite"
_MERGE = "merge"  # of shards; the name of a lock
_JUDGES = 8  # answers that are judged at once


@dataclass(frozen=True)
class RunProgress:
    """How far this process is.

    Args:
        done: items that are done, of `total`.
        total: items that this process is to do.
        fresh: items that were done since it began.
        seconds: since it began.
    """

    done: int
    total: int
    fresh: int
    seconds: float

    @property
    def seconds_left(self) -> float:
        """At the pace so far."""
        return self.seconds / max(1, self.fresh) * (self.total - self.done)


def settings_of(zoomer: Zoomer, benchmark: Benchmark, config: RunConfig, *, judge: str | None) -> dict[str, Any]:
    """All that decides what a run's file holds, as JSON gives it back.

    Names in here, the benchmark's among them, are part of every prediction's content hash: a new name is a new hash.

    Args:
        zoomer: the model.
        benchmark: what is asked.
        config: of the run.
        judge: name of the judge's model; None without one.
    """
    limits = {
        "policy": asdict(config.policy),
        "zoom": zoomer.config.to_dict(),
        "temperature": config.temperature,
        "subtitles": config.subtitles,
        "judge": judge,
    }
    settings = {
        "benchmark": benchmark.name,
        "revision": config.revision or benchmark.revision,
        "model": zoomer.name,
        "model_hash": model_hash(zoomer.checkpoint.model),
        "dtype": str(zoomer.checkpoint.model.dtype),
        "device": zoomer.checkpoint.model.device.type,
        "protocol_hash": benchmark.protocol_hash(limits, revision=config.revision),
        **limits,
        "seed": config.seed,
        "limit": config.limit,
        "sessions": config.max_sessions,
        "block": config.block_size,
    }
    return dict(json.loads(json.dumps(settings)))


def run(
    zoomer: Zoomer,
    benchmark: Benchmark,
    root: Path,
    out: Path,
    config: RunConfig,
    *,
    shard: Shard | None = None,
    judge: Judge | None = None,
    judge_name: str | None = None,
    progress: Callable[[RunProgress], None] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Path | None:
    """Ask a benchmark's questions: those of this process's blocks that are not done yet.

    Args:
        zoomer: the model.
        benchmark: what is asked.
        root: the benchmark's folder.
        out: the folder of the run; it is made if it is missing.
        config: of the run.
        shard: which blocks are this process's; None is all.
        judge: for open answers.
        judge_name: of its model, for the settings.
        progress: told after every block.
        say: gets a line if another version of vzoom began the run.

    Returns:
        The file of all predictions; None while other processes have blocks left.

    Raises:
        ValueError: `out` holds a run with other settings or a damaged one, another process works on this shard, the
            annotation does not fit its schema, or every conversation of the first block ends in an error. (Later, and
            if only some do, the verdict is "failed", and the run continues.)
        OSError: the disk is full, or may not be written. What was done before is kept.
    """
    shard = shard or Shard()
    settings = settings_of(zoomer, benchmark, config, judge=judge_name)
    items = list(islice(benchmark.load(root, subtitles=config.subtitles), config.limit))
    if not items:
        raise ValueError(f"{root} holds no item of {benchmark.name}")
    whole = out / PREDICTIONS
    if whole.exists():
        check_same(read_settings(whole), settings, whole)
        return whole
    own = out / "shards" / f"shard-{shard}.sqlite"
    with _lock(out / "shards" / _MERGE, what=out, wait=True) as lock:  # every process of a run has held it
        if told := lock.note():
            say(told)
    with _lock(own), Store(own, settings) as store:
        there = set().union(*(read_positions(path) for path in _shard_files(out, settings)))
        shape = ModelShape.of(zoomer.checkpoint.model)
        size = config.block_size
        mine = [block for block in _blocks(len(items), size) if shard.mine(block.start // size)]
        left = [block for block in mine if block.start not in there]
        total, done = sum(map(len, mine)), sum(len(b) for b in mine if b.start in there)
        started, fresh = time.monotonic(), 0
        for block in left:
            asked = [(position, *_open(benchmark, root, items[position], config.seed)) for position in block]
            ready = [one for _, one, _ in asked if one is not None]
            ask_block(zoomer, ready, config.policy, temperature=config.temperature, max_sessions=config.max_sessions)
            if not (done or fresh):
                _check_some_work(ready)
            store.add(_scored(benchmark, [(p, items[p], one, verdict) for p, one, verdict in asked], judge, shape))
            fresh += len(block)
            if progress:
                progress(RunProgress(done + fresh, total, fresh, time.monotonic() - started))
    return _merge_if_whole(out, settings, len(items))


def _blocks(num_items: int, size: int) -> Iterator[range]:
    for start in range(0, num_items, size):
        yield range(start, min(start + size, num_items))


def _open(benchmark: Benchmark, root: Path, item: Item, seed: int) -> tuple[Asked | None, Verdict | None]:
    path = benchmark.video_path(root, item)
    if path is None:
        return None, Verdict("missing_video", detail=f"no file {item.video}")
    return Asked(item, path, seed_of(item, seed)), None


def _check_some_work(block: Sequence[Asked]) -> None:
    """ValueError if no item of a run's first block could be asked: that is for the user to mend, not a result."""
    failed = [one.problem for one in block if one.problem and one.problem.kind == "failed"]
    if failed and len(failed) == len(block):
        raise ValueError(f"{block[0].item.source}: {failed[0].detail}")


def _scored(
    benchmark: Benchmark,
    asked: Sequence[tuple[int, Item, Asked | None, Verdict | None]],
    judge: Judge | None,
    shape: ModelShape,
) -> list[PredictionRow]:
    """The rows of a block. A judge is asked about several answers at once."""

    def score(one: tuple[int, Item, Asked | None, Verdict | None]) -> PredictionRow:
        position, item, held, verdict = one
        if held is None or held.problem:
            verdict = held.problem if held and held.problem else verdict
            assert verdict is not None, "an item that was not asked says why"
            nothing = ItemTiming(position, 0.0, 0.0, 0.0, 0.0, 0.0)
            return PredictionRow(item, _not_asked(position, item, verdict), nothing)
        verdict = benchmark.score(item, held.last.answer, judge)
        timing = ItemTiming(position, **held.milliseconds())
        return PredictionRow(item, _prediction(position, held, verdict, shape), timing, verdict.parts)

    with ThreadPoolExecutor(_JUDGES if judge else 1) as pool:
        return list(pool.map(score, asked))


def _not_asked(position: int, item: Item, verdict: Verdict) -> Prediction:
    why = str(failure_of(item, verdict, None))
    return Prediction(
        position, None, verdict.kind, None, verdict.detail, "", why, "", 0, 0, 0, 0, 0, 0.0, 0, -1.0, 0
    )  # fmt: skip


def _prediction(position: int, held: Asked, verdict: Verdict, shape: ModelShape) -> Prediction:
    story = lean(held.last.to_json(), held.item)
    turns = [turn for trajectory in held.held for turn in trajectory.turns]
    flops, kv_bytes = held.cost(shape)
    return Prediction(
        position=position,
        answer=held.last.answer,
        verdict=verdict.kind,
        said=verdict.said,
        detail=verdict.detail,
        stop_reason=story["stop_reason"],
        failure=str(failure_of(held.item, verdict, story)),
        trajectory=json.dumps(story),
        conversations=len(held.held),
        frames=sum(trajectory.num_frames for trajectory in held.held),
        zooms=sum(len(trajectory.zooms) for trajectory in held.held),
        tokens_prefilled=sum(turn.num_prefilled for turn in turns),
        tokens_sampled=sum(turn.num_sampled for turn in turns),
        flops=flops,
        kv_bytes=kv_bytes,
        confidence=held.confidence,
        seed=held.seed,
    )


def lean(story: dict[str, Any], item: Item) -> dict[str, Any]:
    """`Trajectory.to_json` without what differs between two runs (times), or is in the item (question, folder)."""

    def without(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: without(one) for key, one in value.items() if key not in ("milliseconds", "question")}
        return [without(one) for one in value] if isinstance(value, list) else value

    kept = {**without(story), "video": item.video}
    if not kept["answer_is_untagged"]:
        del kept["answer_is_untagged"]  # as in runs of before there was such a thing: their hash stays
    return kept


def _shard_files(out: Path, settings: dict[str, Any]) -> list[Path]:
    paths = sorted((out / "shards").glob("shard-*.sqlite"))
    for path in paths:
        check_same(read_settings(path), settings, path)
    return paths


def _merge_if_whole(out: Path, settings: dict[str, Any], num_items: int) -> Path | None:
    with _lock(out / "shards" / _MERGE, wait=True):
        shards = _shard_files(out, settings)
        if len(set().union(*map(read_positions, shards))) < num_items:
            return None
        if not (out / PREDICTIONS).exists():
            merge(shards, out / PREDICTIONS, settings)
        return out / PREDICTIONS


def _lock(path: Path, *, what: Path | None = None, wait: bool = False) -> Lock:
    return Lock(path.with_name(f".{path.name}{LOCK}"), what=what or path, wait=wait)
