"""LoRA adapters, merged while the base is loaded: PEFT's own merge is the truth. (PEFT is not needed to load them.)"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import make_checkpoint
from safetensors.torch import load_file, save_file

from vzoom.models.checkpoint.adapters import Adapter, read_adapter

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
MLP = ["gate_proj", "up_proj", "down_proj"]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    return {family: make_checkpoint(family, folder / family) for family in ("qwen2_5_vl", "qwen3_vl")}


def stock(path: Path | str) -> Any:
    from transformers import AutoModelForImageTextToText

    return AutoModelForImageTextToText.from_pretrained(path, dtype=torch.float32)


def train(base: Path, folder: Path, **settings: Any) -> Any:
    """Write an adapter with random weights, as training leaves it. Returns PEFT's merged model."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    model = get_peft_model(stock(base), LoraConfig(**{"r": 4, "lora_alpha": 8} | settings))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter += 0.2 * torch.randn_like(parameter) * (1 if "magnitude" in name else 0.5)
    model.save_pretrained(folder)
    return model.merge_and_unload()


def read(folder: Path) -> Adapter:
    return read_adapter(str(folder), folder / "adapter_config.json", folder / "adapter_model.safetensors")


def merged(base: Path, folder: Path) -> Any:
    """The base with the adapter in it, as the loader puts it there."""
    model = stock(base)
    merge = read(folder).fit(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(merge.apply(name, parameter.detach()))
    return model


KINDS: dict[str, dict[str, Any]] = {
    "attention": {"target_modules": ATTENTION},
    "mlp, which the tower of Qwen2.5 also has": {"target_modules": MLP},
    "one module by its whole name": {"target_modules": ["model.language_model.layers.1.mlp.up_proj"]},
    "all linear": {"target_modules": "all-linear"},
    "pattern": {"target_modules": r".*language_model.*(q_proj|down_proj)"},
    "excluded": {"target_modules": MLP, "exclude_modules": r".*visual.*"},
    "tower": {"target_modules": ["attn.qkv", "attn.proj", "mlp.0", "linear_fc1"]},
    "patch embedding, a convolution": {"target_modules": ["patch_embed.proj"]},
    "input embedding": {"target_modules": ["embed_tokens", "q_proj"]},
    "ranks": {
        "target_modules": ATTENTION,
        "rank_pattern": {"k_proj": 2, r"layers\.1\.self_attn\.q_proj": 6},
        "alpha_pattern": {"v_proj": 3},
    },
    "rslora": {"target_modules": ATTENTION + MLP, "use_rslora": True, "rank_pattern": {"v_proj": 9}},
    "layers": {"target_modules": ATTENTION, "layers_to_transform": [0, 2], "layers_pattern": "layers"},
    "one layer": {"target_modules": ["q_proj"], "layers_to_transform": 1},
    "dora": {"target_modules": [*ATTENTION, "mlp.down_proj"], "use_dora": True},
    "bias of the pairs": {"target_modules": ["q_proj", "v_proj"], "lora_bias": True},
    "biases of the targets": {"target_modules": ["q_proj", "v_proj"], "bias": "lora_only"},
    "all biases": {"target_modules": ["q_proj"], "bias": "all"},
    "modules trained whole": {"target_modules": ATTENTION, "modules_to_save": ["lm_head", "embed_tokens"]},
    "fan_in_fan_out": {"target_modules": ["q_proj", "mlp.down_proj"], "fan_in_fan_out": True},
}
NOT_QWEN3 = ("bias of the pairs",)  # its projections have no bias, so that PEFT cannot merge it either


@pytest.mark.filterwarnings("ignore")  # PEFT's own
@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_those_that_peft_merges(family: str, kind: str, bases: dict[str, Path], tmp_path: Path) -> None:
    if family == "qwen3_vl" and kind in NOT_QWEN3:
        pytest.skip("PEFT cannot merge it")
    want = train(bases[family], tmp_path, **KINDS[kind]).state_dict()
    got = merged(bases[family], tmp_path).state_dict()
    base = stock(bases[family]).state_dict()
    assert got.keys() == want.keys()
    assert max(float((got[name] - want[name]).abs().max()) for name in want) < 1e-6
    assert any(not torch.equal(base[name], want[name]) for name in want)
