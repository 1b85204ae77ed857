"""Weights after loading: one region of memory, products fused, and still transformers' model, to train and to save."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import make_checkpoint

from vzoom.models import Checkpoint, load_checkpoint
from vzoom.models.weight_memory import fuse, new_weights


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


def test_tied_weights_stay_tied_and_each_other_tensor_has_memory_of_its_own() -> None:
    class Tied(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = torch.nn.Embedding(6, 4)
            self.head = torch.nn.Linear(4, 6, bias=False)
            self.head.weight = self.embed.weight
            self.first, self.second = torch.nn.Linear(4, 5), torch.nn.Linear(4, 3)
            self.register_buffer("seen", torch.zeros(2))

    with torch.device("meta"):
        model = Tied()
    model.head.weight = model.embed.weight  # the meta device unties them
    group = [model.first.weight, model.second.weight]
    placed = new_weights(model, [group], torch.device("cpu"))
    model.load_state_dict(placed, assign=True)
    for number, tensor in enumerate({id(one): one for one in placed.values()}.values()):
        tensor.detach().fill_(number)
    assert model.head.weight is model.embed.weight
    assert len({float(one.detach().unique()) for one in placed.values()}) == 6
    place = model.first.weight.data_ptr()
    whole = fuse([model.first.weight, model.second.weight])
    assert whole.shape == (8, 4)
    assert whole.data_ptr() == place == model.first.weight.data_ptr()  # nothing was moved
    whole.zero_()
    assert not model.second.weight.any()
    assert not isinstance(model.seen, torch.nn.Parameter)


def test_parameters_that_are_apart_are_moved_below_each_other() -> None:
    first, second = torch.nn.Linear(4, 5), torch.nn.Linear(4, 3)
    before = torch.cat([first.weight, second.weight]).detach()
    whole = fuse([first.weight, second.weight])
    assert whole.equal(before)
    assert second.weight.data_ptr() == whole[5:].data_ptr()
