"""Random checkpoints of the three families, saved with the config files and key names of the public ones."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
SPECIALS += ["<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"]
FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
VOCAB = 256 + len(SPECIALS)


def token_id(token: str) -> int:
    return 256 + SPECIALS.index(token)


def write_tokenizer(folder: Path) -> None:
    """A byte-level BPE without merges: every text has an encoding, one token a byte."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIALS])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def config_of(family: str, layers: int = 3, *, head_dim: int = 16) -> Any:
    """A small config of the family: 4 query heads, 2 key heads."""
    import transformers

    width, eighth = 4 * head_dim, head_dim // 8

    ids = {f"{kind}_token_id": token_id(f"<|{kind}_pad|>") for kind in ("image", "video")}
    ids |= {f"vision_{kind}_token_id": token_id(f"<|vision_{kind}|>") for kind in ("start", "end")}
    text: dict[str, Any] = {
        "vocab_size": VOCAB + 11, "hidden_size": width, "intermediate_size": 96, "num_hidden_layers": layers,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 32768, "rope_theta": 1e6,
        "bos_token_id": token_id("<|endoftext|>"), "eos_token_id": token_id("<|im_end|>"), "tie_word_embeddings": False,
    }  # fmt: skip
    if family == "qwen3_vl":
        text |= {
            "head_dim": head_dim,
            "rope_scaling": {
                "rope_type": "default",
                "mrope_section": [2 * eighth, eighth, eighth],
                "mrope_interleaved": True,
            },
        }
        vision = {
            "depth": 3,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "out_hidden_size": width,
            "patch_size": 14,
        }
        vision |= {
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 1],
        }
        return transformers.Qwen3VLConfig(text_config=text, vision_config=vision, **ids)
    text["rope_scaling"] = {"type": "mrope", "mrope_section": [eighth, 3 * eighth // 2, 3 * eighth // 2]}
    if family == "qwen2_vl":
        vision = {
            "depth": 2,
            "embed_dim": 32,
            "num_heads": 2,
            "mlp_ratio": 2,
            "hidden_size": width,
            "patch_size": 14,
        }
        return transformers.Qwen2VLConfig(text_config=text, vision_config=vision, **ids)
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "out_hidden_size": width,
        "patch_size": 14,
    }
    vision |= {"window_size": 56, "fullatt_block_indexes": [1]}
    return transformers.Qwen2_5_VLConfig(text_config=text, vision_config=vision, **ids)


def make_checkpoint(family: str, folder: Path, *, seed: int = 0, head_dim: int = 16) -> Path:
    """Save a random model of the family with tokenizer and preprocessor file. Weights have unit gain, so that
    logits depend on everything before them and an error in a position shows."""
    from transformers import AutoModelForImageTextToText

    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    model = AutoModelForImageTextToText.from_config(config_of(family, head_dim=head_dim))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim >= 2 and "embed" not in name:
                weight.normal_(0, weight[0].numel() ** -0.5)
            elif "embed_tokens" in name:
                weight.normal_(0, 1)
    model.save_pretrained(folder)
    write_tokenizer(folder)
    preprocessor = {
        "min_pixels": 3136, "max_pixels": 100352, "patch_size": 14, "temporal_patch_size": 2, "merge_size": 2,
        "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
        "image_processor_type": "Qwen2VLImageProcessor",
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return folder


def as_published(source: Path, folder: Path, *, style: str) -> Path:
    """The same Qwen2.5-VL weights under the names that public checkpoints use.

    "flat": text settings at the top of config.json and keys `model.…`, `visual.…`, as Qwen/Qwen2.5-VL-7B-Instruct has
    them. "nested": a text_config and keys `model.language_model.…`, `model.visual.…`, as later fine-tunes have them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for file in source.iterdir():
        if file.name not in ("config.json", "model.safetensors"):
            (folder / file.name).write_bytes(file.read_bytes())
    weights = load_file(source / "model.safetensors")
    short = {k.replace("model.visual.", "visual.").replace("model.language_model.", "model."): k for k in weights}
    long = {k.replace("model.", "model.language_model.").replace("visual.", "model.visual."): k for k in short}
    names = short if style == "flat" else {k: short[v] for k, v in long.items()}
    save_file(
        {name: weights[key] for name, key in names.items()}, folder / "model.safetensors", metadata={"format": "pt"}
    )

    new = json.loads((source / "config.json").read_text())
    rope = {"type": "mrope", "mrope_section": new["text_config"]["rope_parameters"]["mrope_section"]}
    dropped = ("rope_parameters", "layer_types", "model_type")
    text = {k: v for k, v in new["text_config"].items() if k not in dropped} | {"rope_scaling": rope, "rope_theta": 1e6}
    vision = {k: v for k, v in new["vision_config"].items() if k != "rope_parameters"} | {"model_type": "qwen2_5_vl"}
    top = {k: v for k, v in new.items() if k.endswith("_token_id")}
    top |= {
        "model_type": "qwen2_5_vl",
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "torch_dtype": "float32",
    }
    texts = text if style == "flat" else {"text_config": text | {"model_type": "qwen2_5_vl_text"}}
    (folder / "config.json").write_text(json.dumps({**texts, **top, "vision_config": vision}))
    return folder


def logits(hf: Any) -> torch.Tensor:
    """Of transformers' own forward, for one image of 8 x 8 patches and some text."""
    ids = torch.tensor([[1, 2, token_id("<|vision_start|>"), *[hf.config.image_token_id] * 16, 7, 8, 9, 10]])
    patches = torch.randn(64, 3 * 2 * 14 * 14, generator=torch.Generator().manual_seed(0))
    inputs: dict[str, Any] = {"pixel_values": patches, "image_grid_thw": torch.tensor([[1, 8, 8]])}
    if "mm_token_type_ids" in inspect.signature(hf.model.get_rope_index).parameters:
        inputs["mm_token_type_ids"] = (ids == hf.config.image_token_id).int()
    with torch.inference_mode():
        return hf(input_ids=ids, use_cache=False, **inputs).logits


def stock_processor(folder: str | Path) -> Any:
    """transformers' own image processor on Pillow. It once had the plain name, which now stands for torchvision's."""
    try:
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil as Processor
    except ModuleNotFoundError:
        from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor as Processor
    return Processor.from_pretrained(str(folder))
