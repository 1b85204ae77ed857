"""Quantised checkpoints are what their packages say that they are, or are refused by name before anything is loaded."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import make_checkpoint
from packaging.version import Version
from quantised_checkpoints import awq, compressed_tensors, fp8_in_blocks, fp8_per_tensor, gptq, quantise
from safetensors.torch import load_file

from vzoom.models.checkpoint.quantised import read_quantisation
from vzoom.models.checkpoint.stored import open_weights

FAMILIES = ("qwen2_5_vl", "qwen3_vl")
needs_compressed_tensors = pytest.mark.skipif(
    Version(version("compressed-tensors")) < Version("0.20"), reason="an older compressed-tensors, for an older torch"
)


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    return {family: make_checkpoint(family, folder / family) for family in FAMILIES}


def gptq_settings(bits: int, **more: Any) -> dict[str, Any]:
    return {"quant_method": "gptq", "bits": bits, "group_size": 16, "sym": True, "desc_act": False} | more


FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3"}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 16, "version": "gemm", "zero_point": True}
PLAIN_SCHEMES: dict[str, tuple[Any, dict[str, Any]]] = {
    "fp8 in blocks": (
        fp8_in_blocks(32, 16),
        FP8 | {"weight_block_size": [32, 16], "modules_to_not_convert": ["model.visual", "lm_head"]},
    ),
    "fp8, blocks that do not divide": (fp8_in_blocks(40, 20), FP8 | {"weight_block_size": [40, 20]}),
    "fp8 per tensor": (fp8_per_tensor("weight_scale"), FP8 | {"ignored_layers": ["lm_head"]}),
    "awq": (awq(16), AWQ | {"modules_to_not_convert": ["visual"]}),
    "gptq int4": (gptq(4, 16, symmetric=True, desc_act=False), gptq_settings(4)),
    "gptq int4 asymmetric": (gptq(4, 16, symmetric=False, desc_act=False), gptq_settings(4, sym=False)),
    "gptq int4 by importance": (
        gptq(4, 16, symmetric=False, desc_act=True),
        gptq_settings(4, sym=False, desc_act=True, dynamic={"-:.*visual.*": {}}),
    ),
    "gptq int8": (gptq(8, 16, symmetric=True, desc_act=False), gptq_settings(8)),
    "gptq int8 by importance": (gptq(8, 32, symmetric=False, desc_act=True), gptq_settings(8, group_size=32)),
    "gptq of one group": (gptq(4, -1, symmetric=False, desc_act=False), gptq_settings(4, group_size=-1)),
    "gptq_v2": (
        gptq(4, 16, symmetric=False, desc_act=False, version=2),
        gptq_settings(4, checkpoint_format="gptq_v2"),
    ),
}
COMPRESSED: dict[str, tuple[str, dict[str, Any]]] = {
    "int4 per group": ("pack-quantized", {"num_bits": 4, "strategy": "group", "group_size": 16}),
    "int4 per group, asymmetric": (
        "pack-quantized",
        {"num_bits": 4, "strategy": "group", "group_size": 16, "symmetric": False},
    ),
    "int4 per channel, asymmetric": ("pack-quantized", {"num_bits": 4, "strategy": "channel", "symmetric": False}),
    "int4 per tensor": ("pack-quantized", {"num_bits": 4, "strategy": "tensor"}),
    "int8 per group, packed": ("pack-quantized", {"num_bits": 8, "strategy": "group", "group_size": 32}),
    "int8 per channel, packed, asymmetric": (
        "pack-quantized",
        {"num_bits": 8, "strategy": "channel", "symmetric": False},
    ),
    "int8 per channel": ("int-quantized", {"num_bits": 8, "strategy": "channel"}),
    "int8 per tensor, asymmetric": ("int-quantized", {"num_bits": 8, "strategy": "tensor", "symmetric": False}),
    "fp8 per channel": ("float-quantized", {"num_bits": 8, "type": "float", "strategy": "channel"}),
    "fp8 per tensor": ("float-quantized", {"num_bits": 8, "type": "float", "strategy": "tensor"}),
    "fp8 in blocks": (
        "float-quantized",
        {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [32, 16]},
    ),
}


def check(folder: Path) -> None:
    """The quantised weights are, bit for bit, those that its package multiplies out."""
    config = json.loads((folder / "quantised" / "config.json").read_text())
    quantisation = read_quantisation(config, "it")
    assert quantisation is not None
    got = quantisation.dequantised(open_weights(folder / "quantised", "it"))
    want = load_file(folder / "plain" / "model.safetensors")
    assert got.keys() == want.keys()
    for name, tensor in want.items():
        assert got[name].shape == tensor.shape, name
        read = got[name].read()
        assert read.dtype == got[name].dtype
        assert read.shape == tensor.shape
        assert torch.equal(read.float(), tensor.float()), name


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", PLAIN_SCHEMES)
def test_weights_are_those_of_the_format(family: str, kind: str, bases: dict[str, Path], tmp_path: Path) -> None:
    check(quantise(bases[family], tmp_path, *PLAIN_SCHEMES[kind]))


@needs_compressed_tensors
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", COMPRESSED)
def test_weights_are_those_of_compressed_tensors(
    family: str, kind: str, bases: dict[str, Path], tmp_path: Path
) -> None:
    layout, weights = COMPRESSED[kind]
    check(quantise(bases[family], tmp_path, *compressed_tensors(layout, **weights)))
