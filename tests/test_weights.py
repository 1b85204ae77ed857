"""Weights after loading: one region of memory, products fused, and still transformers' model, to train and to save."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import make_checkpoint

from vzoom.models import Checkpoint, load_checkpoint
from vzoom.models.weight_memory import WeightMemory, _MappedFiles


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint("qwen2_5_vl", tmp_path_factory.mktemp("weights"))


@pytest.fixture
def checkpoint(path: Path) -> Checkpoint:
    return load_checkpoint(str(path))


def stock(path: Path) -> Any:
    from transformers import AutoModelForImageTextToText

    return AutoModelForImageTextToText.from_pretrained(path)


def test_every_parameter_has_its_value_and_a_cache_line(checkpoint: Checkpoint, path: Path) -> None:
    want = stock(path).state_dict()
    got = checkpoint.model.hf.state_dict()
    assert got.keys() == want.keys()
    assert all(got[name].equal(want[name]) for name in want)
    layer = checkpoint.model.layers[0]
    weights = [layer.qkv_QC, layer.gate_FC, layer.down_CF, checkpoint.model.hf.lm_head.weight]
    assert [w.data_ptr() % 64 for w in weights] == [0, 0, 0, 0]


def test_saved_and_loaded_it_is_the_same(checkpoint: Checkpoint, path: Path, tmp_path: Path) -> None:
    checkpoint.model.hf.save_pretrained(tmp_path)
    size = (tmp_path / "model.safetensors").stat().st_size
    assert size == pytest.approx((path / "model.safetensors").stat().st_size, rel=0.01)
    want = stock(path).state_dict()
    got = stock(tmp_path).state_dict()
    assert all(got[name].equal(want[name]) for name in want)


def test_a_step_of_training_reaches_the_fused_weights(checkpoint: Checkpoint) -> None:
    hf, layer = checkpoint.model.hf, checkpoint.model.layers[1]
    before = layer.qkv_QC.clone()
    ids = torch.arange(20)[None]
    optimizer = torch.optim.SGD(hf.parameters(), lr=0.1)
    hf(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    attention = hf.model.language_model.layers[1].self_attn
    now = torch.cat([attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight])
    assert layer.qkv_QC.equal(now)
    assert not layer.qkv_QC.equal(before)


def test_tied_weights_stay_tied() -> None:
    class Tied(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = torch.nn.Embedding(6, 4)
            self.head = torch.nn.Linear(4, 6, bias=False)
            self.head.weight = self.embed.weight

    model = Tied()
    before = model.embed.weight.detach().clone()
    WeightMemory(model).place_rest(model)
    assert model.head.weight is model.embed.weight
    assert model.head.weight.equal(before)


def test_forgetting_a_mapped_file_changes_no_value(tmp_path: Path) -> None:
    """Pages of the file are dropped and read again; memory that no file holds is left alone."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    wanted = torch.randn(300, 1000)
    save_file({"x": wanted}, tmp_path / "x.safetensors")
    with safe_open(tmp_path / "x.safetensors", framework="pt") as file:
        mapped = file.get_tensor("x")
        assert mapped.equal(wanted)
        plain = wanted.clone()
        files = _MappedFiles()
        files.forget(mapped)
        files.forget(plain)
        assert mapped.equal(wanted)
        assert plain.equal(wanted)
