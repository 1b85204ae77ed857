"""Small checkpoints in the quantised formats, and the same weights multiplied out.

compressed-tensors makes its own. FP8, AWQ and GPTQ are packed here by the rules of the packages that write them, in
their words and loops: transformers' FP8 (`integrations/finegrained_fp8.py`), AutoAWQ (`awq/modules/linear/gemm.py`) and
AutoGPTQ (`auto_gptq/nn_modules/qlinear/qlinear_cuda_old.py`).

O output features, I input features, G groups.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

Tensors = dict[str, Tensor]
# weight [O, I] -> (what the files hold of it, the values that these stand for)
Packer = Callable[[Tensor], tuple[Tensors, Tensor]]

AWQ_PACK_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def quantise(base: Path, folder: Path, packer: Packer | Mapping[str, Packer], settings: dict[str, Any]) -> Path:
    """Write `base` quantised to folder/"quantised", and what that stands for to folder/"plain". Returns `folder`.

    Args:
        base: a checkpoint of `make_checkpoint`.
        packer: of one linear layer; or of those whose names contain a word, by that word.
        settings: quantization_config.
    """
    stored, plain = {}, {}
    for name, weight in load_file(base / "model.safetensors").items():
        if weight.ndim == 2 and ".layers." in name and "proj" in name:
            chosen = packer if callable(packer) else next(p for word, p in packer.items() if word in name)
            parts, plain[name] = chosen(weight)
            stored |= {f"{name.removesuffix('weight')}{part}": value.contiguous() for part, value in parts.items()}
        else:
            stored[name] = plain[name] = weight
    config = json.loads((base / "config.json").read_text())
    for kind, tensors in (("quantised", stored), ("plain", plain)):
        (folder / kind).mkdir(parents=True)
        for file in base.iterdir():
            if file.suffix == ".json":
                (folder / kind / file.name).write_bytes(file.read_bytes())
        save_file({k: v.contiguous() for k, v in tensors.items()}, folder / kind / "model.safetensors")
    (folder / "quantised" / "config.json").write_text(json.dumps({**config, "quantization_config": settings}))
    return folder


# ---------------------------------------------------------------- FP8


def fp8_in_blocks(high: int, wide: int) -> Packer:
    """float8_e4m3fn, one `weight_scale_inv` for each block of high x wide; the last blocks may be smaller."""

    def pack(weight: Tensor) -> tuple[Tensors, Tensor]:
        rows, columns = weight.shape
        scales = torch.empty(-(-rows // high), -(-columns // wide))
        stored, plain = torch.empty_like(weight, dtype=torch.float8_e4m3fn), torch.empty_like(weight)
        for i in range(scales.shape[0]):
            for j in range(scales.shape[1]):
                place = slice(i * high, (i + 1) * high), slice(j * wide, (j + 1) * wide)
                scales[i, j] = weight[place].abs().max() / 448.0
                stored[place] = (weight[place] / scales[i, j]).to(torch.float8_e4m3fn)
                plain[place] = stored[place].to(torch.float32) * scales[i, j]
        return {"weight": stored, "weight_scale_inv": scales}, plain

    return pack


def fp8_per_tensor(scale_name: str) -> Packer:
    """One scale for a matrix, and one for its inputs, which are not quantised here."""

    def pack(weight: Tensor) -> tuple[Tensors, Tensor]:
        scale = weight.abs().max() / 448.0
        stored = (weight / scale).to(torch.float8_e4m3fn)
        return {"weight": stored, scale_name: scale, "input_scale": torch.tensor(0.1)}, stored.float() * scale

    return pack


# ---------------------------------------------------------------- AWQ and GPTQ


def integers(weight: Tensor, bits: int, group_I: Tensor, *, symmetric: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Round to unsigned integers: (q [I, O], zero points [G, O], scales [G, O] in float16)."""
    most, groups = 2**bits - 1, int(group_I.max()) + 1
    w_IO = weight.T
    scales = torch.empty(groups, w_IO.shape[1], dtype=torch.float16)
    zeros = torch.empty(groups, w_IO.shape[1], dtype=torch.int64)
    q = torch.empty(w_IO.shape, dtype=torch.int64)
    for g in range(groups):
        own = group_I == g
        low, high = w_IO[own].amin(0).clamp(max=0), w_IO[own].amax(0).clamp(min=0)
        if symmetric:
            high = torch.maximum(-low, high)
            low = -high
        scales[g] = ((high - low) / most).half()
        zeros[g] = 2 ** (bits - 1) if symmetric else (-low / scales[g]).round().clamp(1, most).long()
        q[own] = ((w_IO[own] / scales[g]).round() + zeros[g]).clamp(0, most).long()
    return q, zeros, scales


def words(values: list[int], bits: int) -> int:
    """Values to one int32, the first lowest."""
    word = 0
    for i, value in enumerate(values):
        word |= value << (bits * i)
    return word - 2**32 if word >= 2**31 else word


def pack_columns(values: Tensor, bits: int, order: tuple[int, ...] | None = None) -> Tensor:
    """[rows, n] -> int32 [rows, n * bits / 32]: neighbours of a row share a word, in their order or another."""
    per = 32 // bits
    chosen = order or tuple(range(per))
    return torch.tensor(
        [[words([row[c + i] for i in chosen], bits) for c in range(0, len(row), per)] for row in values.tolist()],
        dtype=torch.int32,
    )


def awq(group_size: int) -> Packer:
    """AutoAWQ's GEMM version."""

    def pack(weight: Tensor) -> tuple[Tensors, Tensor]:
        group_I = torch.arange(weight.shape[1]) // group_size
        q, zeros, scales = integers(weight, 4, group_I)
        parts = {
            "qweight": pack_columns(q, 4, AWQ_PACK_ORDER),
            "qzeros": pack_columns(zeros, 4, AWQ_PACK_ORDER),
            "scales": scales,
        }
        # dequantize_gemm: integers less their zero points, times scales, in float16.
        plain = (q - zeros.repeat_interleave(group_size, 0)).to(torch.int8) * scales.repeat_interleave(group_size, 0)
        return parts, plain.T.float()

    return pack


def gptq(bits: int, group_size: int, *, symmetric: bool, desc_act: bool, version: int = 1) -> Packer:
    """AutoGPTQ. With desc_act inputs are in groups by their importance, here by chance."""

    def pack(weight: Tensor) -> tuple[Tensors, Tensor]:
        inputs = weight.shape[1]
        group_I = torch.arange(inputs) // (inputs if group_size == -1 else group_size)
        if desc_act:
            group_I = group_I[torch.randperm(inputs, generator=torch.Generator().manual_seed(inputs))]
        q, zeros, scales = integers(weight, bits, group_I, symmetric=symmetric)
        parts = {
            "qweight": pack_columns(q.T, bits).T,
            "qzeros": pack_columns(zeros - (1 if version == 1 else 0), bits),
            "scales": scales,
            "g_idx": group_I.int(),
        }
        plain = scales[group_I] * (q - zeros[group_I]).to(torch.int16)
        return parts, plain.T.float()

    return pack


# ---------------------------------------------------------------- compressed-tensors


def compressed_tensors(
    layout: str, *, dtype: torch.dtype = torch.float32, **weights: Any
) -> tuple[Packer, dict[str, Any]]:
    """The package's own compressor of a layout, for weights of a dtype, and its quantization_config."""
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import (
        QuantizationArgs,
        QuantizationConfig,
        QuantizationScheme,
        QuantizationStatus,
    )
    from compressed_tensors.quantization.utils import calculate_qparams

    args = QuantizationArgs(**weights)
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    compressor = BaseCompressor.get_value_from_registry(layout)

    def pack(weight: Tensor) -> tuple[Tensors, Tensor]:
        weight = weight.to(dtype)
        if args.strategy == "block":
            high, wide = args.block_structure
            blocks = torch.nn.functional.pad(weight, (0, -weight.shape[1] % wide, 0, -weight.shape[0] % high))
            blocks = blocks.unflatten(1, (-1, wide)).unflatten(0, (-1, high)).transpose(1, 2).flatten(2)
            low, top = blocks.amin(2), blocks.amax(2)
        elif args.strategy == "group":
            grouped = weight.unflatten(1, (-1, args.group_size))
            low, top = grouped.amin(2), grouped.amax(2)
        elif args.strategy == "channel":
            low, top = weight.amin(1, keepdim=True), weight.amax(1, keepdim=True)
        else:
            low, top = weight.min().reshape(1), weight.max().reshape(1)
        scale, zero = calculate_qparams(low, top, args)
        stored = compressor.compress(
            {"weight": weight, "weight_scale": scale, "weight_zero_point": zero.float().round().to(torch.int8)}, scheme
        )
        plain = compressor.decompress(dict(stored), scheme)["weight"]
        return stored, plain.float()

    config = QuantizationConfig(
        config_groups={"group_0": scheme},
        format=layout,
        quantization_status=QuantizationStatus.COMPRESSED,
        ignore=["lm_head", "re:.*visual.*"],
    )
    return pack, json.loads(config.model_dump_json())
