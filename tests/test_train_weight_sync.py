"""The weights in training reach the engine."""

from __future__ import annotations

import copy
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from vzoom.config import Sampling
from vzoom.models import load_checkpoint
from vzoom.models.feature_cache import FeatureCache
from vzoom.train.common.checkpoints import save_model
from vzoom.train.common.policy import load_policy
from vzoom.train.common.weight_sync import sync_weights
from vzoom.train.recipes.recipe import GRPORecipe, Lora
from vzoom.zoomer import Zoomer, embedded_path, load

from .training import small_video

PLAIN = GRPORecipe(gradient_checkpointing=False)
BASE = str(embedded_path())


def disturb(model: Any, scale: float = 0.02) -> None:
    """Other weights, as training would leave them."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                spread = parameter.std() if parameter.numel() > 1 else 0.0
                parameter += scale * (spread + 0.01) * torch.randn(parameter.shape, generator=generator)


def weights(checkpoint: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in checkpoint.model.hf.named_parameters()}


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> str:
    return small_video(tmp_path_factory.mktemp("video")).path


def test_the_engine_answers_as_the_exported_policy_does(tmp_path: Path, video: str) -> None:
    policy, checkpoint = load_policy(BASE, PLAIN), load_checkpoint(BASE)
    before = weights(checkpoint)
    disturb(policy.model)
    sync_weights(policy.model, checkpoint)
    assert any(not torch.equal(before[name], now) for name, now in weights(checkpoint).items())
    save_model(checkpoint, checkpoint.config, tmp_path / "kept")
    question = "Which shape flashes in the red scene?\nA: star\nB: heart\nC: moon\nD: ring"
    found = [
        model.ask(video, question, sampling=Sampling()).trajectory
        for model in (Zoomer(checkpoint), load(tmp_path / "kept"))
    ]
    assert found[0].ids == found[1].ids
    assert found[0].logprobs == found[1].logprobs
    for name, weight in policy.model.named_parameters():
        assert torch.equal(weights(checkpoint)[name], weight), name


def test_adapters_are_merged_on_the_way_and_stay_in_the_policy() -> None:
    policy, checkpoint = load_policy(BASE, GRPORecipe(gradient_checkpointing=False, lora=Lora(4, 8))), None
    checkpoint = load_checkpoint(BASE)
    base = weights(checkpoint)
    disturb(policy.model, 1.0)
    held = {n: p.clone() for n, p in policy.model.named_parameters()}
    num_all = sync_weights(policy.model, checkpoint)
    assert all(torch.equal(held[n], p) for n, p in policy.model.named_parameters())
    merged = dict(copy.deepcopy(policy.model).merge_and_unload().named_parameters())
    assert merged.keys() == {n for n in base if ".visual." not in n}
    moved = 0
    for name, weight in merged.items():
        assert torch.allclose(weights(checkpoint)[name], weight, atol=1e-6), name
        moved += not torch.equal(base[name], weight)
    assert moved == 4 * 7  # layers, matrices of each
    again = load_checkpoint(BASE)
    assert sync_weights(policy.model, again, only_trained=True) == 4 * 7 < num_all
    assert all(torch.equal(w, weights(checkpoint)[n]) for n, w in weights(again).items())


def test_a_tower_in_training_goes_along_and_clears_the_features() -> None:
    whole = GRPORecipe(gradient_checkpointing=False, freeze_vision=False, cache_features=False)
    policy, checkpoint, cache = load_policy(BASE, whole), load_checkpoint(BASE), FeatureCache()
    disturb(policy.model)
    cache.keep("frame", checkpoint.model.encode_images(torch.zeros(16, 588), [(4, 4)]))
    sync_weights(policy.model, checkpoint, feature_cache=cache)
    assert cache.lookup("frame") is None
    now = weights(checkpoint)
    assert all(torch.equal(now[n], p) for n, p in policy.model.named_parameters())
    cache.keep("frame", checkpoint.model.encode_images(torch.zeros(16, 588), [(4, 4)]))
    sync_weights(load_policy(BASE, PLAIN).model, checkpoint, feature_cache=cache)
    assert cache.lookup("frame") is not None


def test_another_model_is_refused() -> None:
    policy, checkpoint = load_policy(BASE, PLAIN), load_checkpoint(BASE)
    policy.model.model.language_model.layers.append(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"not the same model: 2 weights are in one .*layers\.4"):
        sync_weights(policy.model, checkpoint)
    policy = load_policy(BASE, PLAIN)
    policy.model.lm_head.weight = torch.nn.Parameter(torch.zeros(7, 128))
    with pytest.raises(ValueError, match=r"lm_head\.weight is \[7, 128\] in one"):
        sync_weights(policy.model, checkpoint)


def test_sharded_by_fsdp2() -> None:
    from torch import distributed as dist
    from torch.distributed.fsdp import fully_shard

    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    try:
        policy, checkpoint = load_policy(BASE, PLAIN), load_checkpoint(BASE)
        disturb(policy.model)
        expected = {n: p.clone() for n, p in policy.model.named_parameters()}
        mesh = dist.init_device_mesh("cpu", (1,))
        for layer in policy.model.model.language_model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(policy.model, mesh=mesh)
        assert hasattr(policy.model.lm_head.weight, "full_tensor")
        sync_weights(policy.model, checkpoint)
    finally:
        dist.destroy_process_group()
    now = weights(checkpoint)
    assert all(torch.equal(now[name], weight) for name, weight in expected.items())


def test_zero_3_gathers_each_weight_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """As DeepSpeed has it: a parameter is empty but inside of GatheredParameters."""
    policy, checkpoint = load_policy(BASE, PLAIN), load_checkpoint(BASE)
    disturb(policy.model)
    whole = {n: p.detach().clone() for n, p in policy.model.named_parameters()}
    by_id: dict[int, torch.Tensor] = {}
    for number, parameter in enumerate(policy.model.parameters()):
        by_id[number] = parameter.data
        parameter.ds_id = number
        parameter.data = torch.empty(0)

    @contextmanager
    def gathered(parameters: list[Any]) -> Iterator[None]:
        for parameter in parameters:
            parameter.data = by_id[parameter.ds_id]
        yield
        for parameter in parameters:
            parameter.data = torch.empty(0)

    fake = types.SimpleNamespace(zero=types.SimpleNamespace(GatheredParameters=gathered))
    monkeypatch.setitem(sys.modules, "deepspeed", fake)
    sync_weights(policy.model, checkpoint)
    now = weights(checkpoint)
    assert all(torch.equal(now[name], weight) for name, weight in whole.items())
