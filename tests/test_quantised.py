"""Quantised checkpoints are what their packages say that they are, or are refused by name before anything is loaded."""

from __future__ import annotations

import json
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import logits, make_checkpoint
from packaging.version import Version
from quantised_checkpoints import awq, compressed_tensors, fp8_in_blocks, fp8_per_tensor, gptq, quantise
from safetensors.torch import load_file, save_file

from vzoom.models import Checkpoint, check_trainable, compare_weights, load_checkpoint
from vzoom.models.checkpoint.names import model_name
from vzoom.models.checkpoint.quantised import QuantisedTensor, is_named

FAMILIES = ("qwen2_5_vl", "qwen3_vl")


def has_compressed_tensors() -> bool:
    try:
        return Version(version("compressed-tensors")) >= Version("0.20")
    except PackageNotFoundError:
        return False


needs_compressed_tensors = pytest.mark.skipif(
    not has_compressed_tensors(), reason="needs compressed-tensors 0.20, which needs torch 2.10"
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
    "gptq whose last group is short": (
        gptq(4, 24, symmetric=False, desc_act=False),
        gptq_settings(4, group_size=24),
    ),
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
    "int4 per group of bfloat16": (
        "pack-quantized",
        {"num_bits": 4, "strategy": "group", "group_size": 16, "symmetric": False, "dtype": torch.bfloat16},
    ),
    "fp8 per channel of bfloat16": (
        "float-quantized",
        {"num_bits": 8, "type": "float", "strategy": "channel", "dtype": torch.bfloat16},
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


def stock(path: Path) -> Any:
    from transformers import AutoModelForImageTextToText

    return AutoModelForImageTextToText.from_pretrained(path, dtype=torch.float32)


def check(folder: Path) -> Checkpoint:
    """The weights are, bit for bit, those that the package of the format multiplies out; and so are the logits."""
    checkpoint = load_checkpoint(str(folder / "quantised"), dtype="float32")
    got, plain = checkpoint.model.hf.state_dict(), stock(folder / "plain")
    want = plain.state_dict()
    assert got.keys() == want.keys()
    for name in want:
        assert torch.equal(got[name], want[name]), name
    assert torch.allclose(logits(checkpoint.model.hf), logits(plain), atol=1e-6)
    quantised = [name for name, one in checkpoint.stored.items() if isinstance(one, QuantisedTensor)]
    assert len(quantised) == 3 * 7  # layers, projections of each
    assert not compare_weights(checkpoint).differing
    return checkpoint


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", PLAIN_SCHEMES)
def test_logits_are_those_of_the_format(family: str, kind: str, bases: dict[str, Path], tmp_path: Path) -> None:
    check(quantise(bases[family], tmp_path, *PLAIN_SCHEMES[kind]))


@needs_compressed_tensors
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", COMPRESSED)
def test_logits_are_those_of_compressed_tensors(family: str, kind: str, bases: dict[str, Path], tmp_path: Path) -> None:
    layout, weights = COMPRESSED[kind]
    check(quantise(bases[family], tmp_path, *compressed_tensors(layout, **weights)))


@needs_compressed_tensors
def test_groups_of_modules_are_quantised_each_in_its_way(bases: dict[str, Path], tmp_path: Path) -> None:
    fine, config = compressed_tensors("pack-quantized", num_bits=4, strategy="group", group_size=16)
    coarse, other = compressed_tensors("int-quantized", num_bits=8, strategy="channel")
    of_attention = other["config_groups"]["group_0"] | {"targets": ["re:.*self_attn.*"], "format": "int-quantized"}
    config["config_groups"]["group_0"]["format"] = "pack-quantized"
    config |= {"config_groups": config["config_groups"] | {"group_1": of_attention}, "format": "mixed-precision"}
    check(quantise(bases["qwen2_5_vl"], tmp_path, {"self_attn": coarse, "mlp": fine}, config))


@needs_compressed_tensors
def test_a_checkpoint_that_the_package_writes_whole(bases: dict[str, Path], tmp_path: Path) -> None:
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import QuantizationConfig, QuantizationStatus, apply_quantization_config
    from compressed_tensors.quantization.utils import calculate_qparams

    _, settings = compressed_tensors("pack-quantized", num_bits=4, strategy="group", group_size=16, symmetric=False)
    model = stock(bases["qwen3_vl"])
    apply_quantization_config(model, QuantizationConfig(**settings | {"quantization_status": "frozen"}))
    for module in model.modules():
        if scheme := getattr(module, "quantization_scheme", None):
            grouped = module.weight.data.unflatten(1, (-1, 16))
            scale, zero = calculate_qparams(grouped.amin(2), grouped.amax(2), scheme.weights)
            module.weight_scale.data.copy_(scale)
            module.weight_zero_point.data.copy_(zero)
            module.quantization_status = QuantizationStatus.FROZEN
    want = logits(model)  # weights are rounded while the model runs
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    shutil.copytree(bases["qwen3_vl"], tmp_path / "it")
    model.save_pretrained(tmp_path / "it")
    compressor.update_config(tmp_path / "it")
    got = load_checkpoint(str(tmp_path / "it"), dtype="float32")
    assert sum(isinstance(one, QuantisedTensor) for one in got.stored.values()) == 3 * 7
    assert torch.allclose(logits(got.model.hf), want, atol=1e-5)


# ---------------------------------------------------------------- what a user is told


def test_the_memory_is_said(bases: dict[str, Path], tmp_path: Path) -> None:
    checkpoint = check(quantise(bases["qwen2_5_vl"], tmp_path, *PLAIN_SCHEMES["awq"]))
    in_memory = sum(one.nbytes for one in checkpoint.model.hf.parameters())
    in_files = (tmp_path / "quantised" / "model.safetensors").stat().st_size
    assert 0.3 * in_memory < in_files < 0.9 * in_memory
    assert checkpoint.notes == (
        f"{tmp_path / 'quantised'} is quantised (awq int4 in groups of 16), for which vzoom has no kernels: "
        f"{in_files / 1e9:.2f} GB in files, {in_memory / 1e9:.2f} GB in memory as float32",
    )
    checkpoint.model.hf.save_pretrained(tmp_path / "saved")
    assert "quantization_config" not in json.loads((tmp_path / "saved" / "config.json").read_text())


def test_an_adapter_on_a_quantised_base(bases: dict[str, Path], tmp_path: Path) -> None:
    """The adapter is merged into what the base stands for."""
    from peft import LoraConfig, PeftModel, get_peft_model

    folder = quantise(bases["qwen2_5_vl"], tmp_path, *PLAIN_SCHEMES["gptq int4"])
    settings = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    get_peft_model(stock(folder / "plain"), settings).save_pretrained(tmp_path / "adapter")
    want = PeftModel.from_pretrained(stock(folder / "plain"), tmp_path / "adapter").merge_and_unload()
    got = load_checkpoint(str(folder / "quantised"), dtype="float32", adapter=str(tmp_path / "adapter"))
    assert torch.allclose(logits(got.model.hf), logits(want), atol=1e-5)
    assert len(got.notes) == 2


# ---------------------------------------------------------------- what is refused


def ct(*, weights: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": {"num_bits": 4, "strategy": "channel"} | (weights or {})}
    usual = {"quant_method": "compressed-tensors", "format": "pack-quantized", "quantization_status": "compressed"}
    return usual | {"config_groups": {"group_0": group}} | more


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        *(
            ({"quant_method": method}, f"quantised as {method}, which vzoom does not read")
            for method in ("bitsandbytes", "gguf", "hqq", "aqlm", "torchao", "mxfp4", "fbgemm_fp8", "auto-round")
        ),
        ({"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, "quantised as bitsandbytes"),
        ({"bits": 4}, "quantised as unknown"),
        (AWQ | {"version": "gemv"}, "awq gemv, 4 bits"),
        (AWQ | {"version": "marlin"}, "awq marlin"),
        (AWQ | {"backend": "llm-awq"}, "of llm-awq"),
        (AWQ | {"bits": 8}, "awq gemm, 8 bits"),
        (AWQ | {"zero_point": False}, "awq without zero points"),
        (gptq_settings(3), "gptq of 3 bits"),
        (gptq_settings(4, checkpoint_format="marlin"), "gptq packed as marlin"),
        (gptq_settings(4, is_marlin_format=True), "gptq packed as marlin"),
        (gptq_settings(4, rotation="hadamard"), "gptq with a rotation"),
        (gptq_settings(4, dynamic={r"+:.*mlp.*": {"bits": 8}}), r"other settings for some modules \(dynamic: \+:"),
        (ct(format="marlin-24"), "compressed-tensors marlin-24"),
        (ct(format="nvfp4-pack-quantized"), "compressed-tensors nvfp4-pack-quantized"),
        (ct(format="dense"), "compressed-tensors dense"),
        (ct(weights={"num_bits": 3}), "pack-quantized, int3 per channel"),
        (ct(weights={"strategy": "tensor_group", "group_size": 16}), "int4 per tensor_group"),
        (ct(sparsity_config={"format": "sparse-24-bitmask"}), r"sparse weights \(sparse-24-bitmask\)"),
        (ct(kv_cache_scheme={"num_bits": 8, "type": "float"}), "quantised KV cache"),
        (ct(transform_config={"config_groups": {"u": {}}}), "transforms"),
        (ct(quantization_status="frozen"), "that are frozen, not compressed"),
    ],
)
def test_what_is_not_read_is_refused_by_name_before_anything_is_loaded(
    bases: dict[str, Path], tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    shutil.copytree(bases["qwen2_5_vl"], tmp_path / "it")
    (tmp_path / "it" / "model.safetensors").unlink()
    config = json.loads((tmp_path / "it" / "config.json").read_text())
    (tmp_path / "it" / "config.json").write_text(json.dumps({**config, "quantization_config": settings}))
    with pytest.raises(ValueError, match=message):
        load_checkpoint(str(tmp_path / "it"))


def test_training_begins_from_whole_weights(bases: dict[str, Path], tmp_path: Path) -> None:
    folder = quantise(bases["qwen2_5_vl"], tmp_path, *PLAIN_SCHEMES["awq"])
    with pytest.raises(ValueError, match=r"is quantised \(awq int4 in groups of 16\), and training begins from whole"):
        check_trainable(str(folder / "quantised"))


UP = "model.layers.1.mlp.up_proj."


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("gptq int4", {UP + "qzeros": None}, r"parts of it are missing: .*1\.mlp\.up_proj has no qzeros"),
        ("gptq int4", {UP + "qweight": None}, r"up_proj\.(weight|qzeros|scales|g_idx)"),
        ("gptq int4", {UP + "scales": torch.ones(3, 96)}, r"cannot be dequantised: .* one of 3 groups"),
        ("gptq int4", {UP + "g_idx": torch.full((64,), 9)}, r"up_proj\.weight cannot be dequantised: its g_idx"),
        ("gptq int4", {UP + "qweight": torch.ones(7, 96, dtype=torch.int32)}, r"up_proj\.weight is \[96, 56\]"),
        ("gptq int4", {UP + "qweight": torch.ones(8, 96)}, r"up_proj\.weight cannot be dequantised: .*float32"),
        ("fp8 in blocks", {UP + "weight_scale_inv": None}, r"up_proj\.weight is float8_e4m3fn without"),
        ("fp8 in blocks", {UP + "weight_scale_inv": torch.ones(2, 4)}, r"\[2, 4\] scales .*do not fit .*\[96, 64\]"),
        (
            "awq",
            {UP + "qzeros": torch.ones(4, 3, dtype=torch.int32)},
            r"cannot be dequantised: \[24, 4\] scales or zero points",
        ),
        ("awq", {"visual.blocks.0.attn.proj.qweight": torch.ones(2, 2).int()}, r"attn\.proj has no qzeros"),
    ],
)
def test_parts_that_do_not_fit_are_named(
    bases: dict[str, Path], tmp_path: Path, kind: str, change: dict[str, torch.Tensor | None], message: str
) -> None:
    path = quantise(bases["qwen2_5_vl"], tmp_path, *PLAIN_SCHEMES[kind]) / "quantised"
    tensors = load_file(path / "model.safetensors") | change
    save_file({key: value for key, value in tensors.items() if value is not None}, path / "model.safetensors")
    with pytest.raises(ValueError, match=message):
        load_checkpoint(str(path), dtype="float32")


def test_modules_that_are_said_to_be_plain_must_be(bases: dict[str, Path], tmp_path: Path) -> None:
    packer, settings = PLAIN_SCHEMES["awq"]
    folder = quantise(bases["qwen2_5_vl"], tmp_path, packer, settings | {"modules_to_not_convert": ["layers.1.mlp"]})
    with pytest.raises(ValueError, match=r"contradicts itself.*model\.layers\.1\.mlp\.(gate|up|down)_proj"):
        load_checkpoint(str(folder / "quantised"))


@pytest.mark.parametrize(
    ("module", "names", "is_there"),
    [
        ("model.visual.blocks.0.attn.qkv", ["visual"], True),
        ("visual.blocks.0.attn.qkv", ["model.visual"], True),
        ("model.layers.0.mlp.gate_proj", ["mlp.gate"], False),
        ("model.layers.0.mlp.gate", ["mlp.gate"], True),
        ("model.layers.0.mlp.up_proj", ["re:.*visual.*", "lm_head"], False),
        ("model.layers.0.mlp.up_proj", [r"re:model\.language_model\.layers\.0\..*"], True),
    ],
)
def test_lists_of_modules_are_of_either_layout(module: str, names: list[str], is_there: bool) -> None:
    assert is_named(module, names) is is_there


def test_shards_and_the_nested_layout(bases: dict[str, Path], tmp_path: Path) -> None:
    """The parts of a layer may be in different files."""
    path = quantise(bases["qwen2_5_vl"], tmp_path, *PLAIN_SCHEMES["gptq int4"]) / "quantised"
    tensors = {model_name(key): value for key, value in load_file(path / "model.safetensors").items()}
    index = {key: f"model-{i % 2}.safetensors" for i, key in enumerate(sorted(tensors))}
    for shard in set(index.values()):
        save_file({key: tensors[key] for key in tensors if index[key] == shard}, path / shard)
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    (path / "model.safetensors").unlink()
    check(tmp_path)
