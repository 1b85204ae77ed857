"""A checkpoint is what its files say: any tensor that is missing, renamed or cut short is an error that names it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import FAMILIES, as_published, make_checkpoint
from safetensors.torch import load_file, save_file
from torch import Tensor

from vzoom.models import Checkpoint, compare_weights, load_checkpoint
from vzoom.models.checkpoint.folder import find_checkpoint
from vzoom.models.checkpoint.load import _family, _without_weights
from vzoom.models.checkpoint.names import flat_name, match, model_name
from vzoom.models.checkpoint.stored import open_weights, read_header

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
Tensors = dict[str, Tensor]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {family: make_checkpoint(family, tmp_path_factory.mktemp("files") / family) for family in FAMILIES}


def copy_of(model: Path, folder: Path, *, without: tuple[str, ...] = ()) -> Path:
    folder.mkdir(exist_ok=True)
    for file in model.iterdir():
        if file.name not in without:
            shutil.copyfile(file, folder / file.name)
    return folder


def changed(model: Path, folder: Path, change: Callable[[Tensors], Tensors]) -> Path:
    """A copy of the checkpoint with other tensors in its file."""
    copy_of(model, folder, without=(WEIGHTS,))
    save_file(change(load_file(model / WEIGHTS)), folder / WEIGHTS, metadata={"format": "pt"})
    return folder


def refusal(folder: Path) -> str:
    with pytest.raises(ValueError) as caught:
        load_checkpoint(str(folder))
    text = str(caught.value)
    assert "\n" not in text
    return text


# ---------------------------------------------------------------- every tensor


@pytest.mark.parametrize("family", FAMILIES)
def test_each_tensor_that_is_removed_renamed_or_cut_short_is_named(
    family: str, models: dict[str, Path], tmp_path: Path
) -> None:
    folder = find_checkpoint(str(models[family]))
    hf = _without_weights(folder, _family(folder.read_config(), family), torch.float32)
    stored = folder.weights()
    assert len(stored) > 60
    assert match(stored, hf, "m").keys() == hf.state_dict().keys()
    for key, tensor in stored.items():
        rest = {other: one for other, one in stored.items() if other != key}
        for variant, told in (
            (rest, f"1 tensor ({key}) is missing"),
            ({**rest, f"{key}_": tensor}, f"1 tensor ({key}) is missing; 1 tensor ({key}_) is not the model's"),
            ({**rest, key: read_short(tensor, tmp_path)}, f"1 tensor ({key} is ["),
        ):
            with pytest.raises(ValueError, match=re.escape(told)):
                match(variant, hf, "m")


def read_short(tensor: Any, folder: Path) -> Any:
    """The tensor without its last row, from a file."""
    save_file({"short": tensor.read()[:-1].clone()}, folder / "short.safetensors")
    return read_header(folder / "short.safetensors")["short"]


@pytest.mark.parametrize("family", FAMILIES)
def test_loading_asks_for_every_tensor(family: str, models: dict[str, Path], tmp_path: Path) -> None:
    """The same through the front door, with a file for each."""
    for key in load_file(models[family] / WEIGHTS):
        folder = changed(models[family], tmp_path / "m", lambda all_, key=key: without(all_, re.escape(key)))
        text = refusal(folder)
        assert f"1 tensor ({key}) is missing" in text
        assert "Download the files again" in text


def without(tensors: Tensors, pattern: str) -> Tensors:
    return {key: one for key, one in tensors.items() if not re.fullmatch(pattern, key)}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "pattern",
    [r".*layers\.1\..*", r".*visual\..*", r".*visual\.blocks\.0\..*", ".*"],
    ids=["layer", "tower", "block", "all"],
)
def test_a_layer_the_tower_and_everything(family: str, pattern: str, models: dict[str, Path], tmp_path: Path) -> None:
    keys = [key for key in load_file(models[family] / WEIGHTS) if re.fullmatch(pattern, key)]
    text = refusal(changed(models[family], tmp_path / "m", lambda all_: without(all_, pattern)))
    assert f"{len(keys)} tensors (" in text
    assert f"and {len(keys) - 3} more) are missing" in text
    assert any(key in text for key in keys) or pattern == ".*"  # with no keys there is no layout to spell names in


def test_all_that_is_wrong_is_one_error(models: dict[str, Path], tmp_path: Path) -> None:
    def change(tensors: Tensors) -> Tensors:
        norm = next(key for key in tensors if key.endswith("norm1.weight"))
        head = tensors.pop("lm_head.weight")
        return {**tensors, "head.weight": head, norm: tensors[norm][:-1].clone(), "extra": torch.zeros(2)}

    text = refusal(changed(models["qwen3_vl"], tmp_path / "m", change))
    assert "1 tensor (lm_head.weight) is missing" in text
    assert re.search(r"2 tensors \((extra|head.weight), (extra|head.weight)\) are not the model's", text)
    assert re.search(r"norm1.weight is \[31\] in the files, \[32\] by config.json\) is of another shape", text)


def test_tensors_of_whole_numbers_are_refused(models: dict[str, Path], tmp_path: Path) -> None:
    folder = changed(
        models["qwen2_vl"],
        tmp_path / "m",
        lambda all_: {**all_, "lm_head.weight": torch.zeros(all_["lm_head.weight"].shape, dtype=torch.int8)},
    )
    assert "1 tensor (lm_head.weight is torch.int8) is not floating point" in refusal(folder)


# ---------------------------------------------------------------- layouts, ties, shards


def test_names_go_there_and_back() -> None:
    for flat, nested in {
        "model.layers.0.mlp.up_proj.weight": "model.language_model.layers.0.mlp.up_proj.weight",
        "model.embed_tokens.weight": "model.language_model.embed_tokens.weight",
        "visual.blocks.3.norm1.weight": "model.visual.blocks.3.norm1.weight",
        "lm_head.weight": "lm_head.weight",
    }.items():
        assert model_name(flat) == model_name(nested) == nested
        assert flat_name(nested) == flat


@pytest.mark.parametrize("style", ["flat", "nested"])
def test_both_published_layouts(style: str, models: dict[str, Path], tmp_path: Path) -> None:
    folder = as_published(models["qwen2_5_vl"], tmp_path / style, style=style)
    want = load_checkpoint(str(models["qwen2_5_vl"])).model.hf.state_dict()
    got = load_checkpoint(str(folder)).model.hf.state_dict()
    assert all(got[name].equal(want[name]) for name in want)
    key = "visual.blocks.1.norm2.weight" if style == "flat" else "model.visual.blocks.1.norm2.weight"
    assert f"1 tensor ({key}) is missing" in refusal(changed(folder, tmp_path / "m", lambda all_: without(all_, key)))


def tied(model: Path, folder: Path, change: Callable[[Tensors], Tensors]) -> Path:
    """A checkpoint whose config.json says that embeddings and head are one, as the small public ones say it."""

    def tie(tensors: Tensors) -> Tensors:
        (embeddings,) = (key for key in tensors if key.endswith("embed_tokens.weight"))
        return change({**tensors, "lm_head.weight": tensors[embeddings].clone()})

    changed(model, folder, tie)
    config = json.loads((folder / "config.json").read_text()) | {"tie_word_embeddings": True}
    if "text_config" in config:
        config["text_config"]["tie_word_embeddings"] = True
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("style", ["saved", "flat", "nested"])
@pytest.mark.parametrize("pattern", ["lm_head.weight", r".*embed_tokens\.weight", "both"])
def test_tied_weights_need_one_of_their_names(
    style: str, pattern: str, models: dict[str, Path], tmp_path: Path
) -> None:
    base = models["qwen2_5_vl"]
    base = base if style == "saved" else as_published(base, tmp_path / style, style=style)
    folder = tied(base, tmp_path / "m", lambda all_: without(all_, pattern))
    hf = load_checkpoint(str(folder)).model.hf
    assert hf.lm_head.weight is hf.model.language_model.embed_tokens.weight
    (key,) = (key for key in load_file(base / WEIGHTS) if key.endswith("embed_tokens.weight"))
    assert hf.lm_head.weight.equal(load_file(base / WEIGHTS)[key])


def test_tied_weights_that_are_both_missing_or_differ(models: dict[str, Path], tmp_path: Path) -> None:
    base = models["qwen3_vl"]
    none = tied(base, tmp_path / "none", lambda all_: without(all_, r"lm_head.weight|.*embed_tokens\.weight"))
    assert re.search(r"1 tensor \([\w.]*embed_tokens.weight\) is missing", refusal(none))
    two = tied(base, tmp_path / "two", lambda all_: {**all_, "lm_head.weight": all_["lm_head.weight"] + 1})
    assert "set tie_word_embeddings to false" in refusal(two)


def test_buffers_that_old_checkpoints_hold_are_computed(models: dict[str, Path], tmp_path: Path) -> None:
    extra = {"model.rotary_emb.inv_freq": torch.zeros(8)}
    folder = changed(as_published(models["qwen2_5_vl"], tmp_path / "flat", style="flat"), tmp_path / "m", extra.__or__)
    assert load_checkpoint(str(folder)).model.language.rotary_emb.inv_freq.all()


@pytest.fixture
def sharded(models: dict[str, Path], tmp_path: Path) -> Path:
    folder = copy_of(models["qwen2_5_vl"], tmp_path / "sharded", without=(WEIGHTS,))
    tensors = load_file(models["qwen2_5_vl"] / WEIGHTS)
    index = {}
    for part in range(3):
        shard = f"model-{part + 1:05}-of-00003.safetensors"
        held = dict(list(tensors.items())[part::3])
        save_file(held, folder / shard, metadata={"format": "pt"})
        index |= dict.fromkeys(held, shard)
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": index}))
    return folder


def test_shards_are_one_model(sharded: Path, models: dict[str, Path]) -> None:
    want = load_checkpoint(str(models["qwen2_5_vl"])).model.hf.state_dict()
    got = load_checkpoint(str(sharded)).model.hf.state_dict()
    assert all(got[name].equal(want[name]) for name in want)


def test_shards_that_are_missing_or_lack_a_key(sharded: Path, tmp_path: Path) -> None:
    second = "model-00002-of-00003.safetensors"
    tensors = load_file(sharded / second)
    key = list(tensors)[4]
    save_file({name: one for name, one in tensors.items() if name != key}, sharded / second)
    text = refusal(sharded)
    assert f"{INDEX} lists 1 tensor ({key}), which {second} does not hold" in text
    (sharded / second).unlink()
    assert f"lacks 1 shard ({second}) of its 3" in refusal(sharded)
    (sharded / INDEX).write_text("{}")
    assert "lists no tensors" in refusal(sharded)


def test_an_index_reaches_for_nothing_outside_the_folder(sharded: Path) -> None:
    shutil.move(sharded / "model-00002-of-00003.safetensors", sharded.parent / "outside.safetensors")
    text = (sharded / INDEX).read_text().replace("model-00002-of-00003", "../outside")
    (sharded / INDEX).write_text(text)
    assert "lacks 1 shard (../outside.safetensors)" in refusal(sharded)


@pytest.mark.parametrize("cut", [1, 100_000, 0.5, 0.001, "header", "nothing"])
def test_a_file_that_is_cut_short(cut: float | str, models: dict[str, Path], tmp_path: Path) -> None:
    folder = copy_of(models["qwen2_vl"], tmp_path / "m")
    whole = (folder / WEIGHTS).read_bytes()
    kept = {"header": b"\x10" + b"\0" * 7 + b"{" * 16, "nothing": b""}.get(str(cut))
    if kept is None:
        assert isinstance(cut, int | float)
        kept = whole[: -int(cut)] if cut >= 1 else whole[: int(len(whole) * cut)]
    (folder / WEIGHTS).write_bytes(kept)
    text = refusal(folder)
    assert WEIGHTS in text
    assert "download it again" in text
    assert ("is cut short" in text) == (cut not in ("header", "nothing"))
    if cut == 1:
        last = max(read_header(models["qwen2_vl"] / WEIGHTS).values(), key=lambda one: one.offset)
        assert f"1 tensor ({last.name}) is not whole" in text


def test_pickled_weights_are_never_opened(models: dict[str, Path], tmp_path: Path) -> None:
    folder = copy_of(models["qwen2_vl"], tmp_path / "m", without=(WEIGHTS,))
    assert "holds no weights, neither model.safetensors nor" in refusal(folder)
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    text = refusal(folder)
    assert "only pickled weights (1 file (pytorch_model.bin))" in text
    assert "never reads them" in text
    assert not Path("ran").exists()


def test_code_of_a_checkpoint_is_not_run_nor_asked_about(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy_of(models["qwen2_5_vl"], tmp_path / "m")
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Own: pass\n")
    names = ("AutoConfig", "AutoModel", "AutoModelForImageTextToText", "AutoTokenizer", "AutoProcessor")
    for file in ("config.json", "tokenizer_config.json", "preprocessor_config.json"):
        settings = json.loads((folder / file).read_text())
        settings["auto_map"] = {name: ["own.Own", "own.Own"] if "Tok" in name else "own.Own" for name in names}
        (folder / file).write_text(json.dumps(settings))
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asked"))
    loaded = load_checkpoint(str(folder))
    assert loaded.tokenizer.encode("a")
    assert not (tmp_path / "ran").exists()
    config = json.loads((folder / "config.json").read_text()) | {"model_type": "own"}
    (folder / "config.json").write_text(json.dumps(config))
    assert "is a 'own' model; vzoom runs qwen2_vl, qwen2_5_vl, qwen3_vl" in refusal(folder)
    assert not (tmp_path / "ran").exists()


# ---------------------------------------------------------------- what is loaded


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_what_transformers_loads(family: str, dtype: str, models: dict[str, Path]) -> None:
    from transformers import AutoModelForImageTextToText

    want = AutoModelForImageTextToText.from_pretrained(models[family], dtype=getattr(torch, dtype))
    checkpoint = load_checkpoint(str(models[family]), dtype=dtype)
    got = checkpoint.model.hf
    for name, tensor in want.state_dict().items():
        assert got.state_dict()[name].equal(tensor), name
        assert got.state_dict()[name].dtype == tensor.dtype == getattr(torch, dtype)
    buffers = dict(got.named_buffers())
    assert buffers.keys() == dict(want.named_buffers()).keys()
    assert all(buffers[name].equal(one) and buffers[name].dtype == one.dtype for name, one in want.named_buffers())
    assert got.config.to_diff_dict() == want.config.to_diff_dict()
    assert got.generation_config == want.generation_config
    assert not got.training
    found = compare_weights(checkpoint)
    assert (found.differing, found.not_finite) == ((), ())
    assert found.num_tensors == len(want.state_dict())


def test_a_weight_that_changed_and_one_that_is_not_finite_are_found(models: dict[str, Path], tmp_path: Path) -> None:
    checkpoint = load_checkpoint(str(models["qwen3_vl"]))
    head = checkpoint.model.hf.lm_head.weight
    last = float(head.detach()[-1, -1])
    with torch.no_grad():
        head[-1, -1] = torch.nextafter(torch.tensor(last), torch.tensor(9.0))
    found = compare_weights(checkpoint)
    assert (found.differing, found.not_finite) == (("lm_head.weight",), ())

    def spoil(tensors: Tensors) -> Tensors:
        for key, value in (("lm_head.weight", torch.nan), (_norm(tensors), torch.inf)):
            tensors[key].view(-1)[3] = value
        return tensors

    spoiled = load_checkpoint(str(changed(models["qwen3_vl"], tmp_path / "m", spoil)))
    found = compare_weights(spoiled)
    assert found.differing == ()
    assert sorted(found.not_finite) == ["lm_head.weight", "model.language_model.norm.weight"]


def test_how_far_loading_is_is_told(models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vzoom.models.checkpoint.load._REPORT_BYTES", 200_000)
    told: list[str] = []
    load_checkpoint(str(models["qwen2_vl"]), progress=told.append)
    size = (models["qwen2_vl"] / WEIGHTS).stat().st_size
    assert 1 < len(told) <= size / 200_000
    assert all(re.fullmatch(r"loading \S+qwen2_vl: 0\.0 of 0\.0 GB", one) for one in told)


def _norm(tensors: Tensors) -> str:
    return next(key for key in tensors if re.fullmatch(r"model\.(language_model\.)?norm\.weight", key))


@pytest.mark.parametrize(
    ("said", "stored", "has_bf16", "expected"),
    [
        ("bfloat16", "bfloat16", True, "bfloat16"),
        ("bfloat16", "bfloat16", False, "float32"),
        ("float32", "bfloat16", True, "float32"),  # the embedded model
        (None, "bfloat16", True, "bfloat16"),
        (None, "float32", True, "float32"),
        ("float16", "float16", True, "float32"),
    ],
)
def test_auto_is_the_checkpoints_dtype_if_the_cpu_multiplies_in_it(
    said: str | None, stored: str, has_bf16: bool, expected: str, models: dict[str, Path], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    folder = changed(
        models["qwen2_vl"],
        tmp_path / "m",
        lambda all_: {key: one.to(getattr(torch, stored)) for key, one in all_.items()},
    )
    config = json.loads((folder / "config.json").read_text())
    for part in (config, config["text_config"], config["vision_config"]):
        part.pop("dtype", None)
    (folder / "config.json").write_text(json.dumps(config | ({} if said is None else {"dtype": said})))
    monkeypatch.setattr("vzoom.models.checkpoint.load.cpu_has_bfloat16", lambda: has_bf16)
    model = load_checkpoint(str(folder), device="cpu").model
    assert model.dtype == getattr(torch, expected)
    assert {one.dtype for one in model.hf.parameters()} == {model.dtype}


def test_an_odd_dtype_in_config_json_is_named(models: dict[str, Path], tmp_path: Path) -> None:
    folder = copy_of(models["qwen2_vl"], tmp_path / "m")
    config = json.loads((folder / "config.json").read_text()) | {"dtype": "float8"}
    (folder / "config.json").write_text(json.dumps(config))
    assert "config.json says dtype 'float8'" in refusal(folder)


@pytest.fixture(scope="module")
def loaded(models: dict[str, Path]) -> Checkpoint:
    return load_checkpoint(str(models["qwen2_5_vl"]))


def test_no_tensor_of_the_model_is_beside_the_region(loaded: Checkpoint) -> None:
    """q, k and v of a layer are one tensor from the start: nothing was moved after it was read."""
    for layer, module in zip(loaded.model.layers, loaded.model.language.layers, strict=True):
        attention = module.self_attn
        assert layer.qkv_QC.data_ptr() == attention.q_proj.weight.data_ptr()
        assert layer.qkv_QC.untyped_storage().data_ptr() == attention.v_proj.weight.untyped_storage().data_ptr()
        assert layer.qkv_QC.equal(torch.cat([getattr(attention, f"{n}_proj").weight.detach() for n in "qkv"]))


def test_headers_are_what_safetensors_writes(tmp_path: Path) -> None:
    floats = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]
    integers = [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool]
    numbers = torch.arange(24).reshape(2, 3, 4)
    tensors = {str(dtype): numbers.to(dtype) for dtype in (*floats, *integers)}
    tensors |= {"empty": torch.zeros(0, 3), "scalar": torch.tensor(2.5)}
    save_file(tensors, tmp_path / WEIGHTS)
    for key, one in open_weights(tmp_path, "m").items():
        want = tensors[key]
        assert (one.name, one.shape, one.dtype, one.num_bytes) == (key, tuple(want.shape), want.dtype, want.nbytes)
        assert one.read().view(torch.uint8).equal(want.view(torch.uint8)) if want.ndim else one.read().equal(want)
        out = torch.full(want.shape, torch.nan)
        one.write_to(out)
        assert out.equal(want.float())


def with_header(path: Path, header: bytes, data: bytes = bytes(64), *, length: int | None = None) -> Path:
    path.write_bytes((len(header) if length is None else length).to_bytes(8, "little") + header + data)
    return path


def entry(**changes: Any) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [4], "data_offsets": [0, 16], **changes}


@pytest.mark.parametrize(
    ("header", "why"),
    [
        ([], "no JSON object"),
        ({"a": 3}, "describes a as 3"),
        ({"a": entry(shape=[-2, -2])}, "describes a as"),
        ({"a": entry(shape=[4.0])}, "describes a as"),
        ({"a": entry(shape=[True, 4])}, "describes a as"),
        ({"a": entry(shape=[2**62, 2**62])}, "for a"),
        ({"a": entry(shape=[2**70])}, "describes a as"),
        ({"a": entry(data_offsets=["0", "16"])}, "describes a as"),
        ({"a": entry(data_offsets=[-16, 0])}, "describes a as"),
        ({"a": entry(data_offsets=[16, 0])}, "for a"),
        ({"a": entry(data_offsets=[0, 16, 32])}, "describes a as"),
        ({"a": entry(data_offsets=[0, 2**64])}, "describes a as"),
        ({"a": entry(dtype="F33")}, "holds a as F33"),
        ({"a": entry(dtype=["F32"])}, "describes a as"),
        ({"a": entry(), "b": entry()}, "begins at byte"),  # two over each other
        ({"a": entry(), "b": entry(data_offsets=[8, 24])}, "begins at byte"),
        ({"a": entry(), "b": entry(data_offsets=[20, 36])}, "begins at byte"),  # a hole
        ({"a": entry(data_offsets=[60, 76])}, "begins at byte"),
        ({"a": entry(shape=[40], data_offsets=[0, 160])}, "cut short"),
    ],
)
def test_a_header_that_lies_is_refused(header: Any, why: str, tmp_path: Path) -> None:
    path = with_header(tmp_path / WEIGHTS, json.dumps(header).encode())
    with pytest.raises(ValueError, match=why) as caught:
        open_weights(tmp_path, "m")
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("length", [0, 1, 2**63, 2**64 - 1, 100_000_001])
def test_a_header_of_a_length_that_cannot_be_takes_no_memory(length: int, tmp_path: Path) -> None:
    with_header(tmp_path / WEIGHTS, b"{}", length=length)
    with pytest.raises(ValueError, match="download it again"):
        open_weights(tmp_path, "m")
    (tmp_path / WEIGHTS).write_bytes((50_000).to_bytes(8, "little") + b'{"a":' * 10_000)
    with pytest.raises(ValueError, match="its header is not JSON"):
        open_weights(tmp_path, "m")
