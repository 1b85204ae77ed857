"""Random Qwen2.5-VL checkpoints of the sizes that the workloads are measured on, in Hugging Face layout.

    python bench/make_models.py --size small --dtype bfloat16 FOLDER

The tokenizer has an entry for every id and no merges: the workloads are token ids, nothing is read from text. Rows of
control tokens are small, so that greedy decoding never samples one.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CONTROL += ["<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"]
VOCABULARY = {"tiny": 8192, "small": 32768}
ROOM_FOR_CONTROL = 64
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for c in m.content %}{% if c.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ c.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# layers, width, query heads, key/value heads, head_dim, MLP of the language model; depth, width, heads, MLP of vision
SIZES = {"tiny": ((6, 192, 6, 2, 32, 640), (2, 160, 2, 320)), "small": ((8, 512, 8, 2, 64, 2816), (4, 320, 4, 856))}


def control_id(size: str, token: str) -> int:
    return VOCABULARY[size] - ROOM_FOR_CONTROL + CONTROL.index(token)


def config(size: str) -> Any:
    """A Qwen2_5_VLConfig."""
    from transformers import Qwen2_5_VLConfig

    (layers, width, heads, kv_heads, head_dim, mlp), (depth, v_width, v_heads, v_mlp) = SIZES[size]
    eighth = head_dim // 16
    ids = {f"{kind}_token_id": control_id(size, f"<|{kind}_pad|>") for kind in ("image", "video")}
    ids |= {f"vision_{kind}_token_id": control_id(size, f"<|vision_{kind}|>") for kind in ("start", "end")}
    text = {
        "vocab_size": VOCABULARY[size],
        "hidden_size": width,
        "intermediate_size": mlp,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "max_position_embeddings": 131072,
        "rope_theta": 1e6,
        "rope_scaling": {"type": "mrope", "mrope_section": [2 * eighth, 3 * eighth, 3 * eighth]},
        "tie_word_embeddings": True,
        "bos_token_id": control_id(size, "<|endoftext|>"),
        "eos_token_id": control_id(size, "<|im_end|>"),
        "pad_token_id": control_id(size, "<|endoftext|>"),
    }
    vision = {
        "depth": depth,
        "hidden_size": v_width,
        "num_heads": v_heads,
        "intermediate_size": v_mlp,
        "out_hidden_size": width,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": 112,
        "fullatt_block_indexes": [depth - 1] if depth < 4 else [1, 3],
    }
    return Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **ids)


def write_tokenizer(size: str, folder: Path) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    texts = sorted(pre_tokenizers.ByteLevel.alphabet())
    texts += [f"w{i}" for i in range(VOCABULARY[size] - ROOM_FOR_CONTROL - len(texts))]
    tokenizer = Tokenizer(models.BPE(vocab={text: i for i, text in enumerate(texts)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in CONTROL])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "chat_template": CHAT,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1))
    preprocessor = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2_5_VLProcessor",
        "min_pixels": 3136,
        "max_pixels": 100352,
        "patch_size": 14,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=1))


def make(size: str, dtype: str, folder: Path) -> None:
    """Write the checkpoint. Every matrix keeps the variance of what it is fed, so no activation dies or overflows."""
    import torch
    from transformers import GenerationConfig, Qwen2_5_VLForConditionalGeneration

    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(size, folder)
    torch.manual_seed(0)
    model = Qwen2_5_VLForConditionalGeneration(config(size)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                parameter.normal_(0, 1 / math.sqrt(parameter[0].numel()))
        embedding = model.get_input_embeddings().weight
        embedding.normal_(0, 0.02)
        embedding[VOCABULARY[size] - ROOM_FOR_CONTROL :] *= 0.1
    model.generation_config = GenerationConfig(
        eos_token_id=[control_id(size, "<|im_end|>"), control_id(size, "<|endoftext|>")],
        pad_token_id=control_id(size, "<|endoftext|>"),
    )
    model.to(getattr(torch, dtype)).save_pretrained(folder)


def in_own_process(size: str, dtype: str, folder: Path) -> None:
    """The same, so that the caller's process stays small."""
    command = [sys.executable, __file__, "--size", size, "--dtype", dtype, str(folder)]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"no checkpoint {folder}:\n{done.stderr[-2000:]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=list(SIZES), default="small")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    make(options.size, options.dtype, options.folder)


if __name__ == "__main__":
    main()
