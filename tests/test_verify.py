"""`vzoom verify`: it passes where splicing is exact and says so where it is not."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
import transformers
from checkpoints import FAMILIES, make_checkpoint
from packaging.version import Version
from protocols import VZOOM
from safetensors.torch import load_file, save_file

from vzoom.cli import main
from vzoom.cli.commands.verify import summary
from vzoom.cli.exactness import Exactness, replay, zoom_calls
from vzoom.config import ZoomConfig
from vzoom.engine import session
from vzoom.engine.kv_cache import BlockTable
from vzoom.models.checkpoint import load as load_module
from vzoom.protocol import mrope as positions
from vzoom.protocol.frame_times import glance_timestamps, zoom_timestamps
from vzoom.protocol.tokenize import TokenSpan
from vzoom.types import VideoInfo
from vzoom.zoomer import load

LIMITS = ZoomConfig(glance_max_frames=6, zoom_max_frames=4, max_pixels=9408, max_total_tokens=4096, max_new_tokens=16)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {family: make_checkpoint(family, tmp_path_factory.mktemp("models") / family) for family in FAMILIES}
    for folder in made.values():
        LIMITS.save(folder / "vzoom.json")
    return made


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise, wider than high: a position rule that swaps rows and columns shows."""
    path = tmp_path_factory.mktemp("video") / "noise.mp4"
    noise = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 112, 84, "yuv420p"
        for _ in range(96):
            pixels = noise.integers(0, 256, (84, 112, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels)))
        container.mux(stream.encode())
    return path


def verified(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, dict[str, Any]]:
    """Exit code and JSON of the command."""
    code = main(["verify", "--model", *map(str, words), "--json"])
    return code, json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_passes(
    family: str, dtype: str, models: dict[str, Path], video: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, found = verified(capsys, models[family], "--video", video, "--dtype", dtype, "--num-zooms", "2")
    assert code == 0, found
    assert found["passed"]
    assert found["same_positions"]
    assert 0 < found["ratio"] <= found["limit"]
    assert (found["dtype"], found["device"]) == (dtype, "cpu")
    assert (found["num_zooms"], found["num_frames"]) == (2, 6 + 4 + 4)
    assert found["num_sampled"] > 100
    assert found["largest_logit"] > 1
    if dtype == "float32":
        assert found["equal_argmax"] == found["num_sampled"]
        assert (found["splice_error"], found["limit"]) == (None, 1e-5)
    else:
        assert found["ratio"] == found["splice_error"] / found["stock_error"]
        assert found["difference"] > 1e-3  # it did run in half precision


def test_the_embedded_model_and_a_rendered_video(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify"]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0] == "model       embedded, float32 on cpu"
    assert lines[1] == "weights     81 tensors, all as the files hold them"
    assert lines[2].startswith("replayed    glance and 4 zooms, 96 frames")
    assert lines[3] == "positions   equal to transformers'"
    assert lines[-1] == "pass"
    stages = err.splitlines()
    assert stages[:4] == ["loading embedded", "comparing the weights with the files", "glance", "zoom 1 of 4"]
    assert stages[-1].startswith("one prefill of ")


@pytest.mark.parametrize("family", FAMILIES)
def test_video_tokens_pass(
    family: str, models: dict[str, Path], video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if family == "qwen2_5_vl" and Version(transformers.__version__) < Version("5.23"):
        pytest.skip("transformers 5.0 rounds the seconds of a temporal patch down to whole ones")
    folder = shutil.copytree(models[family], tmp_path / family)
    shown = LIMITS.protocol.override(name="video tokens", frame={"encoding": "video"})
    dataclasses.replace(LIMITS, protocol=shown).save(folder / "vzoom.json")
    code, found = verified(capsys, folder, "--video", video, "--num-zooms", "2", "--dtype", "float32")
    assert code == 0, found
    assert found["same_positions"]
    assert found["num_frames"] == 6 + 4 + 4
    as_images = verified(capsys, models[family], "--video", video, "--num-zooms", "2", "--dtype", "float32")[1]
    assert found["num_tokens"] < as_images["num_tokens"]


# ---------------------------------------------------------------- what it must not let pass


def _plain_positions(start: int, grid: tuple[int, int, int], **rule: Any) -> tuple[np.ndarray, int]:
    return positions.text_positions(start, grid[1] * grid[2])


def _forget_pending(self: session.Session, *turn: Any) -> TokenSpan:
    run = _TOOL_TURN(self, *turn)
    run.ids[0] = run.ids[1]
    return run


def _swap_blocks(self: BlockTable, count: int) -> np.ndarray:
    slots = _EXTEND(self, count)
    self.blocks[:2] = self.blocks[1::-1]
    return slots


_TOOL_TURN, _EXTEND = session.Session._tool_turn, BlockTable.extend
MUTANTS = [
    (positions, "block_positions", _plain_positions, False),
    (session.Session, "_tool_turn", _forget_pending, True),
    (BlockTable, "extend", _swap_blocks, True),
]


@pytest.mark.parametrize(
    ("target", "name", "mutant", "same_positions"), MUTANTS, ids=["position rule", "pending token", "block table"]
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_mutation_exits_with_1(
    target: Any, name: str, mutant: Any, same_positions: bool, dtype: str, models: dict[str, Path], video: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(target, name, mutant)
    code, found = verified(capsys, models["qwen2_5_vl"], "--video", video, "--dtype", dtype, "--num-zooms", "1")
    assert code == 1
    assert not found["passed"]
    assert found["same_positions"] == same_positions
    assert found["ratio"] > found["limit"] * (100 if dtype == "float32" else 1.2)


GOOD = Exactness(
    model="m", device="cpu", dtype="float32", num_tensors=3, differing_tensors=(), not_finite_tensors=(),
    num_zooms=1, num_frames=2, num_tokens=3, num_sampled=2,
    same_positions=True, equal_argmax=2, largest_logit=10.0, difference=1e-5, splice_error=None, stock_error=None,
)  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "ratio", "passed"),
    [
        ({}, 1e-6, True),
        ({"difference": 1.1e-4}, 1.1e-5, False),
        ({"same_positions": False}, 1e-6, False),
        ({"differing_tensors": ("lm_head.weight",)}, 1e-6, False),
        ({"not_finite_tensors": ("lm_head.weight",)}, 1e-6, False),
        ({"largest_logit": float("nan"), "difference": float("nan")}, None, False),
        ({"splice_error": 0.2, "stock_error": 0.1}, 2.0, True),
        ({"splice_error": 0.3, "stock_error": 0.1}, 3.0, False),
        ({"splice_error": 0.0, "stock_error": 0.0}, 0.0, True),
        ({"splice_error": 0.1, "stock_error": 0.0}, None, False),
        ({"splice_error": float("nan"), "stock_error": 0.1}, None, False),
    ],
)
def test_what_passes(changes: dict[str, Any], ratio: float | None, passed: bool) -> None:
    found = summary(dataclasses.replace(GOOD, **changes))
    assert found["passed"] == passed
    assert found["ratio"] == (None if ratio is None else pytest.approx(ratio))
    json.dumps(found, allow_nan=False)


def test_logits_that_are_not_finite_fail_and_say_so(
    models: dict[str, Path], video: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from vzoom.engine.engine import Engine

    run_model = Engine._run_model
    monkeypatch.setattr(Engine, "_run_model", lambda self, batch: run_model(self, batch) * torch.inf)
    code, found = verified(capsys, models["qwen2_vl"], "--video", video, "--num-zooms", "0")
    assert (code, found["ratio"], found["passed"]) == (1, None, False)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(
    value: float, models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(models["qwen3_vl"], tmp_path / "m")
    tensors = load_file(folder / "model.safetensors")
    key = next(key for key in tensors if key.endswith("blocks.1.mlp.linear_fc1.bias"))
    tensors[key][5] = value
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    code, found = verified(capsys, folder)
    assert (code, found["passed"], found["ratio"]) == (1, False, None)
    assert found["not_finite_tensors"] == ["model.visual.blocks.1.mlp.linear_fc1.bias"]
    assert found["differing_tensors"] == []
    assert main(["verify", "--model", str(folder)]) == 1
    out = capsys.readouterr().out.splitlines()
    assert out[1].endswith("1 are NOT FINITE: model.visual.blocks.1.mlp.linear_fc1.bias")
    assert out[2:] == ["replayed    nothing: the weights come first", "FAIL"]


def test_weights_that_are_not_the_files_are_named(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fill = load_module._fill

    def fill_wrongly(hf: Any, *rest: Any) -> None:
        fill(hf, *rest)
        hf.model.language_model.layers[0].self_attn.k_proj.weight.data[0, 0] += 1

    monkeypatch.setattr(load_module, "_fill", fill_wrongly)
    code, found = verified(capsys, models["qwen2_vl"])
    assert (code, found["passed"]) == (1, False)
    assert found["differing_tensors"] == ["model.language_model.layers.0.self_attn.k_proj.weight"]


# ---------------------------------------------------------------- calls that fit any video


@pytest.mark.parametrize("policy", ["exact", "videozoomer"])
@pytest.mark.parametrize("fps", [1.0, 8.0, 29.97, 59.94])
@pytest.mark.parametrize("duration", [1.5, 7.3, 64.0, 3600.0])
def test_calls_fit(duration: float, fps: float, policy: Any) -> None:
    config = ZoomConfig(protocol=VZOOM.override(zoom={"rule": policy}), max_zooms=4)
    info = VideoInfo("v.mp4", duration_seconds=duration, fps=fps, width=64, height=64)
    calls = zoom_calls(info, config)
    assert len(calls) == 4
    frames = [zoom_timestamps(call, info, config) for call in calls]
    assert all(isinstance(times, list) for times in frames), frames
    assert all(1 <= len(times) <= 16 for times in frames if isinstance(times, list))
    assert sum(map(len, frames)) + len(glance_timestamps(info, config)) <= config.max_frames  # type: ignore[arg-type]
    assert all(call.start_seconds < call.end_seconds <= duration + 1 for call in calls)
    if duration > 60:
        assert calls != sorted(calls, key=lambda call: call.start_seconds)  # back and forth


def test_zooms_that_do_not_fit(models: dict[str, Path], video: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tight = dataclasses.replace(LIMITS, max_frames=8)
    with pytest.raises(ValueError, match="leaves none for each of 3 zooms"):
        zoom_calls(VideoInfo("v.mp4", 64.0, 8.0, 64, 64), dataclasses.replace(tight, max_zooms=3))
    zoomer = load(models["qwen2_vl"])
    short = dataclasses.replace(zoomer.checkpoint, config=dataclasses.replace(LIMITS, max_total_tokens=2048))
    with pytest.raises(ValueError, match=r"[123] of 4 zooms did not fit \(over_budget"):
        replay(short, video, num_zooms=4)


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["./nowhere"], "./nowhere: no such folder"),
        (["embedded", "--num-zooms", "-1"], "--num-zooms must be 0 or more, got -1"),
        (["embedded", "--video", "/nowhere.mp4"], "nowhere.mp4"),
        (["embedded", "--device", "bogus"], "device must be auto"),
        (["no-such-owner/no-such-model"], "no-such-owner/no-such-model: name a folder"),
    ],
)
def test_wrong_use(words: list[str], hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--model", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert hint in err.splitlines()[-1]
