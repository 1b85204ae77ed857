"""The engine on CUDA tensors that no machine here has: mixed devices and hidden waits for the GPU fail.

What this lane sees ends at the ops: what their CUDA kernels do is tested in tests/kernels. `overlap` is off, because
what a thread of its own does would not be fake.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
import torch
from checkpoints import FAMILIES, make_checkpoint
from exactness import CONFIG, FakeReader
from fake_cuda import DEVICE, Sampler, Watch, fake_cuda, index_of, on_fake_cuda

from vzoom.config import Sampling
from vzoom.engine import engine as engine_module
from vzoom.engine.engine import Engine
from vzoom.engine.kv_cache import BlockTable, PagePool
from vzoom.engine.request import Request
from vzoom.engine.scripted_session import ScriptedSession
from vzoom.models import Checkpoint, load_checkpoint
from vzoom.models.attention import Ragged
from vzoom.models.base import VisionLanguageModel
from vzoom.types import Failed, Finished, Trajectory

OPEN, BETWEEN, CLOSE = '<video_zoom>{"segment": [', '], "fps": ', "}</video_zoom>"
ANSWER = "<answer>B</answer>"
COPIES_A_STEP = 8  # to the GPU: ids, what Ragged holds, and the sampler's temperatures


def zoom(start: int, end: int, fps: int) -> str:
    return f"{OPEN}{start}, {end}{BETWEEN}{fps}{CLOSE}"


TURNS = [zoom(8, 16, 2), zoom(12, 20, 2), ANSWER]
GROUP = [TURNS, [zoom(100, 104, 4), ANSWER], [zoom(8, 16, 2), "?<|im_end|>", ANSWER], [ANSWER]]


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture
def checkpoint(folder: Path) -> Iterator[Checkpoint]:
    """On fake CUDA, like everything else in the test."""
    real = replace(load_checkpoint(str(folder)), knows_tags=True)  # "?" is to be refused, not taken for an answer
    real.tokenizer.add_tokens([OPEN, BETWEEN, CLOSE, ANSWER])  # one token a byte would make every turn many steps
    with fake_cuda():
        yield on_fake_cuda(real, torch.bfloat16)


@pytest.fixture
def sampler(monkeypatch: pytest.MonkeyPatch) -> Sampler:
    counted = Sampler()
    monkeypatch.setattr(engine_module, "choose", counted.choose)
    return counted


class Rollout(ScriptedSession):
    """A rollout of a group writes the turns of its own seed."""

    scripts: list[list[int]]

    @classmethod
    def job(cls, tokenizer: Any, group: list[list[str]]) -> Request:
        cls.scripts = [[t for turn in turns for t in tokenizer.encode(turn)] for turns in group]
        sampling = Sampling(temperature=0.7, top_p=0.9, top_k=5)
        return Request(FakeReader, "Q?", CONFIG, sampling, num_rollouts=len(group), session=partial(cls, group[0]))

    def fork(self, sampling: Sampling) -> Self:
        other = super().fork(sampling)
        other.script = self.scripts[sampling.seed]
        return other


def run(engine: Engine, sampler: Sampler, watch: Watch, count: int = 1) -> list[Trajectory]:
    """Trajectories of `count` sessions, in order. A step samples once, and reads of the GPU only what it samples."""
    found: dict[int, Trajectory] = {}
    while len(found) < count:
        before = (sampler.calls, sampler.transfers, watch.to_gpu, len(watch.ops))
        fed = engine.tokens_fed
        for event in engine.step():
            assert not isinstance(event, Failed), event
            if isinstance(event, Finished):
                found[event.request_id] = event.trajectory
        assert watch.to_host == 0
        if engine.tokens_fed > fed:
            assert (sampler.calls, sampler.transfers) == (before[0] + 1, before[1] + 1)
        parts = any("vzoom.copy_blocks" in op for op in watch.ops[before[3] :])
        if engine.tokens_fed - fed <= count and not parts:  # a decode step
            assert watch.to_gpu - before[2] <= COPIES_A_STEP
    return [found[number] for number in sorted(found)]


def test_a_conversation_with_zooms_runs_whole(checkpoint: Checkpoint, sampler: Sampler) -> None:
    engine = Engine(checkpoint, max_total_tokens=CONFIG.max_total_tokens, overlap=False)
    engine.add(Request(FakeReader, "Q?", CONFIG, Sampling(), session=partial(ScriptedSession, TURNS)))
    with Watch() as watch:
        (trajectory,) = run(engine, sampler, watch)
    assert (trajectory.answer, len(trajectory.zooms), trajectory.num_frames) == ("B", 2, 64 + 16 + 16)
    assert engine.tokens_fed == len(trajectory.ids) - 1
    assert sampler.transfers == sum(trajectory.sampled)
    assert engine.pool.k_pages.device == DEVICE
    assert engine.pool.num_free == engine.pool.num_blocks
    ran = {op.rpartition(".default ")[0] for op in watch.ops}
    assert {"vzoom.mrope_append", "vzoom.paged_attention"} <= ran  # ours, by their fakes


def test_a_group_with_different_zooms_runs_whole(checkpoint: Checkpoint, sampler: Sampler) -> None:
    engine = Engine(checkpoint, max_total_tokens=CONFIG.max_total_tokens, max_sessions=len(GROUP), overlap=False)
    engine.add(Rollout.job(checkpoint.tokenizer, GROUP))
    with Watch() as watch:
        trajectories = run(engine, sampler, watch, len(GROUP))
    assert [len(t.zooms) for t in trajectories] == [2, 1, 1, 0]
    assert {t.answer for t in trajectories} == {"B"}
    assert any(op.startswith("vzoom.copy_blocks") for op in watch.ops)  # the page that all of them write behind
    assert engine.pool.num_free == engine.pool.num_blocks


@pytest.mark.parametrize("folder", ["qwen2_5_vl"], indirect=True)
def test_a_clip_is_moved_from_one_session_to_another(checkpoint: Checkpoint, sampler: Sampler) -> None:
    settings: dict[str, Any] = {"max_total_tokens": CONFIG.max_total_tokens, "max_sessions": 2, "overlap": False}
    engine = Engine(checkpoint, reuse="rotate+first16", **settings)
    for turns in (TURNS[:1], ["later", *TURNS[:1]]):
        script = ["".join(turns), ANSWER]
        engine.add(Request(FakeReader, "Q?", CONFIG, Sampling(), session=partial(ScriptedSession, script)))
    with Watch() as watch:
        first, second = run(engine, sampler, watch, 2)
    assert (first.is_exact, second.is_exact) == (True, False)
    assert any(op.startswith("vzoom.splice_move") for op in watch.ops)


# ---------------------------------------------------------------- the decode step


def decode(model: VisionLanguageModel, lengths: list[int]) -> Watch:
    """What one token each of sessions with so many tokens makes the GPU do."""
    pool = PagePool(
        num_layers=model.num_layers, num_kv_heads=model.num_kv_heads, head_dim=model.head_dim, num_blocks=16,
        block_size=256, dtype=model.dtype, device=DEVICE,
    )  # fmt: skip
    tables = [BlockTable(pool) for _ in lengths]
    for table, length in zip(tables, lengths, strict=True):
        table.extend(length - 1)
    slots = [table.extend(1) for table in tables]
    batch = Ragged.pack(tables, slots, [np.full((3, 1), length) for length in lengths], DEVICE)
    ids = torch.tensor(lengths, device=DEVICE)
    with Watch() as watch:
        logits = model.forward(ids, batch, pool)
    assert logits.shape == (len(lengths), model.hf.lm_head.out_features)
    assert logits.device == DEVICE
    return watch


def captures(watch: Watch) -> bool:
    """Whether a CUDA graph could hold it: nothing crosses between host and GPU, nothing runs on the host."""
    return watch.to_gpu == watch.to_host == len(watch.on_host) == 0


def test_a_decode_step_can_be_captured_as_a_cuda_graph(checkpoint: Checkpoint) -> None:
    one, other = decode(checkpoint.model, [300, 257, 290]), decode(checkpoint.model, [511, 400, 260])
    assert captures(one)
    assert len(one.ops) > 10 * checkpoint.model.num_layers
    assert one.ops == other.ops  # the same work on the same shapes, whatever the values


# ---------------------------------------------------------------- that this lane would notice


def _item(original: Callable[..., Any]) -> Callable[..., Any]:
    def mutant(self: Any, positions: torch.Tensor, dtype: torch.dtype) -> Any:
        positions.max().item()
        return original(self, positions, dtype)

    return mutant


def _boolean_index(original: Callable[..., Any]) -> Callable[..., Any]:
    def mutant(self: Any, positions: torch.Tensor, dtype: torch.dtype) -> Any:
        positions[positions > 0]
        return original(self, positions, dtype)

    return mutant


def _on_the_host(original: Callable[..., Any]) -> Callable[..., Any]:
    def mutant(self: Any, positions: torch.Tensor, dtype: torch.dtype) -> Any:
        cos, sin = original(self, positions, dtype)
        return cos.cpu(), sin

    return mutant


@pytest.mark.parametrize(
    ("mutate", "complaint"),
    [(_item, "_local_scalar_dense"), (_boolean_index, "boolean index"), (_on_the_host, "move one of them")],
    ids=["item", "boolean index", "mixed devices"],
)
@pytest.mark.parametrize("folder", ["qwen2_5_vl"], indirect=True)
def test_a_planted_wait_fails(
    mutate: Callable[..., Any], complaint: str, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(VisionLanguageModel, "rotary", mutate(VisionLanguageModel.rotary))
    with pytest.raises(Exception, match=complaint):
        decode(checkpoint.model, [300, 257])


@pytest.mark.parametrize("folder", ["qwen2_5_vl"], indirect=True)
def test_a_planted_copy_is_seen(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    rotary = VisionLanguageModel.rotary

    def mutant(self: Any, positions: torch.Tensor, dtype: torch.dtype) -> Any:
        cos, sin = rotary(self, positions, dtype)
        return cos * torch.tensor([1.0] * cos.shape[1], device=DEVICE, dtype=dtype), sin

    monkeypatch.setattr(VisionLanguageModel, "rotary", mutant)
    watch = decode(checkpoint.model, [300, 257])
    assert watch.to_gpu == 1
    assert not captures(watch)


@pytest.mark.parametrize("folder", ["qwen2_5_vl"], indirect=True)
def test_a_second_transfer_in_a_step_fails(
    checkpoint: Checkpoint, sampler: Sampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_model = Engine._run_model

    def mutant(self: Engine, batch: Any) -> torch.Tensor:
        logits = run_model(self, batch)
        logits.cpu()
        return logits

    monkeypatch.setattr(Engine, "_run_model", mutant)
    engine = Engine(checkpoint, max_total_tokens=CONFIG.max_total_tokens, overlap=False)
    engine.add(Request(FakeReader, "Q?", CONFIG, Sampling(), session=partial(ScriptedSession, [ANSWER])))
    with Watch() as watch, pytest.raises(AssertionError):
        run(engine, sampler, watch)


@pytest.mark.parametrize(
    "index",
    [
        slice(1, 3), 2, -1, None, ..., (..., -1), (slice(None), None, 1), (0, ..., slice(None, None, 2)), [2, 0],
        torch.tensor([1, 1]), (slice(None), torch.tensor([3, 0])), (torch.tensor([0, 2]), 1), slice(-2, None),
    ],
    ids=str,
)  # fmt: skip
def test_indices_are_spelled_right(index: Any) -> None:
    x = torch.arange(60).view(3, 4, 5)
    torch.testing.assert_close(index_of(x, index), x[index], rtol=0, atol=0)
