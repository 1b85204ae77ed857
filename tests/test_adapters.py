"""LoRA adapters, merged while the base is loaded: PEFT's own merge is the truth. (PEFT is not needed to load them.)"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import as_published, logits, make_checkpoint
from safetensors.torch import load_file, save_file

from vzoom.cli.loading import load_zoomer
from vzoom.cli.options import add_model_options
from vzoom.models import (
    Checkpoint,
    check_modules,
    check_trainable,
    compare_weights,
    load_checkpoint,
    load_patch_spec,
    load_vocabulary,
    vocabulary_of,
)
from vzoom.models.checkpoint.stored import FileTensor

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


def load(model: Path, **settings: Any) -> Checkpoint:
    return load_checkpoint(str(model), dtype="float32", **settings)


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


@pytest.fixture(autouse=True)
def _quiet_peft() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.parametrize(
    ("family", "kind"),
    [("qwen2_5_vl", kind) for kind in KINDS] + [("qwen3_vl", kind) for kind in KINDS if kind not in NOT_QWEN3],
)
def test_weights_and_logits_are_those_that_peft_merges(
    family: str, kind: str, bases: dict[str, Path], tmp_path: Path
) -> None:
    merged = train(bases[family], tmp_path, **KINDS[kind])
    checkpoint = load(bases[family], adapter=str(tmp_path))
    want, got = merged.state_dict(), checkpoint.model.hf.state_dict()
    base = stock(bases[family]).state_dict()
    assert got.keys() == want.keys() == base.keys()
    changed = {name for name in want if not torch.equal(base[name], want[name])}
    assert changed == {name for name in got if not torch.equal(base[name], got[name])} != set()
    assert max(float((got[name] - want[name]).abs().max()) for name in want) < 1e-6
    assert float((logits(checkpoint.model.hf) - logits(merged)).abs().max()) < 1e-5
    assert checkpoint.notes == (f"adapter {tmp_path} is merged into {len(changed)} weights",)
    assert not compare_weights(checkpoint).differing


def test_the_engine_runs_the_merged_weights(bases: dict[str, Path], tmp_path: Path) -> None:
    """Its own copies of weights (q, k and v in one, the folded patch embedding) have the adapter in them."""
    targets = [*ATTENTION, *MLP, "qkv", "patch_embed.proj"]
    merged = train(bases["qwen2_5_vl"], tmp_path / "adapter", target_modules=targets)
    merged.save_pretrained(tmp_path / "merged")
    for file in ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"):
        shutil.copyfile(bases["qwen2_5_vl"] / file, tmp_path / "merged" / file)
    one, other = load(bases["qwen2_5_vl"], adapter=str(tmp_path / "adapter")), load(tmp_path / "merged")
    patches = torch.randn(64, 588, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(
        one.model.encode_images(patches, [(8, 8)]).embeds,
        other.model.encode_images(patches, [(8, 8)]).embeds,
        atol=1e-6,
    )
    for layer, wanted in zip(one.model.layers, other.model.layers, strict=True):
        assert torch.allclose(layer.qkv_QC, wanted.qkv_QC, atol=1e-6)
        assert torch.allclose(layer.down_CF, wanted.down_CF, atol=1e-6)


def test_half_precision_is_merged_as_peft_does(bases: dict[str, Path], tmp_path: Path) -> None:
    from peft import PeftModel

    base = bases["qwen2_5_vl"]
    train(base, tmp_path, target_modules=ATTENTION)
    want = PeftModel.from_pretrained(stock(base).bfloat16(), tmp_path).merge_and_unload().state_dict()
    got = load_checkpoint(str(base), dtype="bfloat16", adapter=str(tmp_path)).model.hf.state_dict()
    assert all(torch.equal(got[name], want[name]) for name in want)


# ---------------------------------------------------------------- where it is


def test_an_adapter_finds_its_base(bases: dict[str, Path], tmp_path: Path) -> None:
    base = bases["qwen2_5_vl"]
    want = train(base, tmp_path, target_modules=ATTENTION).state_dict()
    checkpoint = load(tmp_path)
    assert torch.allclose(checkpoint.model.hf.lm_head.weight, want["lm_head.weight"])
    name = "model.language_model.layers.0.self_attn.q_proj.weight"
    assert torch.allclose(checkpoint.model.hf.state_dict()[name], want[name], atol=1e-6)
    assert checkpoint.folder.path == base
    plain = load_vocabulary(str(base))
    assert load_vocabulary(str(tmp_path)).end_ids == plain.end_ids == vocabulary_of(checkpoint).end_ids
    assert load_patch_spec(str(tmp_path)) == checkpoint.patch_spec


def test_an_adapter_beside_the_weights_is_merged(bases: dict[str, Path], tmp_path: Path) -> None:
    want = train(bases["qwen3_vl"], tmp_path / "adapter", target_modules=MLP).state_dict()
    shutil.copytree(bases["qwen3_vl"], tmp_path / "both")
    for file in (tmp_path / "adapter").glob("adapter_*"):
        shutil.copy(file, tmp_path / "both")
    got = load(tmp_path / "both").model.hf.state_dict()
    assert all(torch.allclose(got[name], want[name], atol=1e-6) for name in want)


def test_old_names_of_modules(bases: dict[str, Path], tmp_path: Path) -> None:
    """Adapters from before transformers 4.52, in its names, patterns of them included, on either layout of the base."""
    base = bases["qwen2_5_vl"]
    want = train(
        base, tmp_path / "new", target_modules=r"model\.language_model\.layers\.\d+\.(self_attn|mlp)\..*_proj"
    ).state_dict()
    (tmp_path / "old").mkdir()
    tensors = load_file(tmp_path / "new" / "adapter_model.safetensors")
    old = {key.replace("model.language_model.", "model."): value for key, value in tensors.items()}
    save_file(old, tmp_path / "old" / "adapter_model.safetensors")
    settings = json.loads((tmp_path / "new" / "adapter_config.json").read_text())
    settings["target_modules"] = r"model\.layers\.\d+\.(self_attn|mlp)\..*_proj"
    (tmp_path / "old" / "adapter_config.json").write_text(json.dumps(settings))
    for model in (base, as_published(base, tmp_path / "flat", style="flat")):
        got = load(model, adapter=str(tmp_path / "old")).model.hf.state_dict()
        assert all(torch.allclose(got[name], want[name], atol=1e-6) for name in want)


def test_every_command_that_loads_a_model_takes_an_adapter(
    bases: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = str(bases["qwen2_5_vl"])
    train(bases["qwen2_5_vl"], tmp_path, target_modules=ATTENTION)
    parser = argparse.ArgumentParser()
    add_model_options(parser)
    zoomer = load_zoomer(parser.parse_args(["--model", base, "--adapter", str(tmp_path)]))
    assert zoomer.name == f"{base} with {tmp_path}"
    assert f"adapter {tmp_path} is merged into 12 weights" in capsys.readouterr().err
    with pytest.raises(OSError, match=rf"--model {base}: its adapter was not found: \./gone: no such folder"):
        load_zoomer(parser.parse_args(["--model", base, "--adapter", "./gone"]))


def test_training_begins_from_whole_weights(bases: dict[str, Path], tmp_path: Path) -> None:
    train(bases["qwen2_5_vl"], tmp_path, target_modules=ATTENTION)
    check_trainable(str(bases["qwen2_5_vl"]))
    with pytest.raises(ValueError, match="has an adapter, and training begins from whole weights"):
        check_trainable(str(tmp_path))


def test_the_package_need_not_be_there(bases: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(bases["qwen2_5_vl"], tmp_path, target_modules=ATTENTION)
    monkeypatch.setitem(sys.modules, "peft", None)
    assert load(tmp_path).notes


# ---------------------------------------------------------------- what is refused


@pytest.fixture
def adapter(bases: dict[str, Path], tmp_path: Path) -> Path:
    train(bases["qwen2_5_vl"], tmp_path / "adapter", target_modules=ATTENTION)
    return tmp_path / "adapter"


def rewrite(adapter: Path, **settings: Any) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


KEY = "base_model.model.model.language_model.layers.1.self_attn.q_proj.lora_A.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: {k: v for k, v in t.items() if k != KEY},
            r"it lacks: .*layers\.1\.self_attn\.q_proj\.lora_A\.weight",
        ),
        (lambda t: {k: v for k, v in t.items() if ".1.self_attn.k_proj" not in k}, r"it lacks: .*1\.self_attn\.k_proj"),
        (
            lambda t: t | {KEY.replace("layers.1", "layers.7"): t[KEY].clone()},
            r"does not have.*layers\.7\.self_attn\.q_proj",
        ),
        (lambda t: t | {KEY.replace("q_proj", "qq_proj"): t[KEY].clone()}, r"does not have.*self_attn\.qq_proj"),
        (
            lambda t: t | {KEY.replace("self_attn.q", "mlp.up"): t[KEY].clone()},
            r"target_modules does not name: .*mlp\.up_proj",
        ),
        (lambda t: t | {KEY.replace("lora_A", "lora_Q"): t[KEY].clone()}, r"does not have.*q_proj\.lora_Q"),
        (lambda t: t | {KEY: t[KEY][:2]}, r"wrong shapes: .*q_proj\.lora_A\.weight is \[2, 64\], not \[4, 64\]"),
        (lambda t: {}, r"it lacks: "),
    ],
)
def test_what_does_not_fit_is_named(bases: dict[str, Path], adapter: Path, change: Any, message: str) -> None:
    file = adapter / "adapter_model.safetensors"
    save_file(change(load_file(file)), file)
    with pytest.raises(ValueError, match=message):
        load(bases["qwen2_5_vl"], adapter=str(adapter))


def test_everything_wrong_is_in_one_message(bases: dict[str, Path], adapter: Path) -> None:
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    tensors[KEY.replace("layers.1", "layers.9")] = tensors.pop(KEY)
    tensors[KEY.replace("lora_A", "lora_B")] = torch.zeros(3, 3)
    save_file(tensors, file)
    with pytest.raises(ValueError, match=r"(?s)does not have.*layers\.9.*it lacks: .*layers\.1.*q_proj\.lora_A"):
        load(bases["qwen2_5_vl"], adapter=str(adapter))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        *(
            ({"peft_type": kind}, f"is {kind}, not LORA")
            for kind in ("IA3", "PROMPT_TUNING", "ADALORA", "VERA", "LOHA")
        ),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights='pissa_niter_4', which changes the base"),
        ({"trainable_token_indices": [1]}, "uses trainable_token_indices, which vzoom cannot merge exactly"),
        ({"layer_replication": [[0, 2]]}, "uses layer_replication"),
        ({"target_parameters": ["x"], "use_qalora": True}, "uses target_parameters, use_qalora"),
        ({"a_setting_of_next_year": True}, "uses a_setting_of_next_year"),
        ({"rank_pattern": {"q_proj": 3}}, r"wrong shapes: .*q_proj\.lora_A\.weight is \[4, 64\], not \[3, 64\]"),
        ({"modules_to_save": ["lm_head"]}, r"it lacks: lm_head\.weight"),
        ({"bias": "lora_only"}, r"it lacks: .*q_proj\.bias"),
        ({"use_dora": True}, r"it lacks: .*q_proj\.lora_magnitude_vector"),
        ({"target_modules": [*ATTENTION, "up_proj"]}, r"it lacks: .*up_proj\.lora_A\.weight"),
        ({"target_modules": ["q_proj"]}, r"target_modules does not name: .*k_proj\.lora_A\.weight"),
        ({"layers_to_transform": [0]}, r"target_modules does not name: .*layers\.1\."),
    ],
)
def test_what_cannot_be_merged_is_refused_by_name(
    bases: dict[str, Path], adapter: Path, settings: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FileTensor, "write_to", lambda *_: pytest.fail("weights were read"))
    rewrite(adapter, **settings)
    with pytest.raises(ValueError, match=message):
        load(bases["qwen2_5_vl"], adapter=str(adapter))


def test_the_base_of_an_adapter_must_be_there(bases: dict[str, Path], adapter: Path) -> None:
    rewrite(adapter, base_model_name_or_path="./gone")
    with pytest.raises(OSError, match=r"its base was not found: \./gone: no such folder"):
        load(adapter)
    rewrite(adapter, base_model_name_or_path=None)
    with pytest.raises(ValueError, match="does not say what its base is"):
        load(adapter)
    with pytest.raises(ValueError, match="would be a second one"):
        load(adapter, adapter=str(adapter))
    with pytest.raises(OSError, match=r"is no adapter: it has no adapter_config\.json"):
        load(bases["qwen2_5_vl"], adapter=str(bases["qwen3_vl"]))


def test_pickled_adapters_are_not_opened(bases: dict[str, Path], adapter: Path) -> None:
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(ValueError, match=r"has no adapter_model\.safetensors \(pickled weights are never read\)"):
        load(bases["qwen2_5_vl"], adapter=str(adapter))


def test_another_tokenizer_is_told(bases: dict[str, Path], adapter: Path) -> None:
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(bases["qwen2_5_vl"] / file, adapter / file)
    assert load(adapter).notes
    tokenizer = json.loads((adapter / "tokenizer.json").read_text())
    tokenizer["added_tokens"].append({**tokenizer["added_tokens"][-1], "id": 264, "content": "<clip>"})
    (adapter / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ValueError, match=r"another tokenizer than .* has: 1 tokens differ, the first is '<clip>'"):
        load(adapter)


def test_tied_embeddings_are_not_told_apart_by_guess(bases: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(bases["qwen2_5_vl"], tmp_path / "tied")
    config = json.loads((tmp_path / "tied" / "config.json").read_text())
    config["tie_word_embeddings"] = config["text_config"]["tie_word_embeddings"] = True
    (tmp_path / "tied" / "config.json").write_text(json.dumps(config))
    weights = load_file(tmp_path / "tied" / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, tmp_path / "tied" / "model.safetensors", metadata={"format": "pt"})
    train(tmp_path / "tied", tmp_path / "whole", target_modules=ATTENTION, modules_to_save=["lm_head"])
    with pytest.raises(ValueError, match=r"changes lm_head\.weight, which the model ties to .*embed_tokens"):
        load(tmp_path / "whole")


# ---------------------------------------------------------------- wrapped models


def test_wrapped_models_are_refused(bases: dict[str, Path]) -> None:
    from peft import LoraConfig, get_peft_model

    import vzoom

    checkpoint = load(bases["qwen2_5_vl"])
    wrapped = get_peft_model(checkpoint.model.hf, LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(ValueError, match=r"wrapped by PEFT .*merge_and_unload"):
        vzoom.enable(wrapped)
    with pytest.raises(ValueError, match="wrapped by PEFT"):
        vzoom.enable(checkpoint.model.hf)  # its modules were replaced in place
    with pytest.raises(ValueError, match=r"q_proj \(peft\.tuners\.lora\.layer\.Linear\).*merge_and_unload"):
        vzoom.Engine(checkpoint, max_total_tokens=256)
    with pytest.raises(ValueError, match="wrapped or replaced"):
        type(checkpoint.model)(checkpoint.model.hf)
    plain = wrapped.merge_and_unload()
    vzoom.Engine(checkpoint, max_total_tokens=256).close()
    with vzoom.enable(plain):
        pass


def test_a_replaced_module_is_refused(bases: dict[str, Path]) -> None:
    class Quantised(torch.nn.Linear):
        pass

    model = stock(bases["qwen3_vl"])
    model.model.visual.merger.linear_fc1 = Quantised(4, 4)
    with pytest.raises(ValueError, match=r"1 modules are wrapped or replaced.*merger\.linear_fc1 \(.*Quantised"):
        check_modules(model)
    model = stock(bases["qwen3_vl"])
    model.lm_head.forward = lambda x: x
    with pytest.raises(ValueError, match=r"lm_head \(its forward is replaced\)"):
        check_modules(model)
