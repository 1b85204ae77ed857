"""Quantised checkpoints: what quantization_config says of the files, and how their weights become numbers again.

A quantised linear layer is several tensors in the files: integers or FP8, a scale for each block of them, often zero
points. They are multiplied out while the checkpoint is read, one layer at a time. vzoom has no kernels for quantised
weights, so that they save disk and download, but no memory. Activations are not quantised.

The rules of each format, and the dtype in which the product is taken, are those of the package that writes it:
compressed-tensors (`compressors/`), AutoAWQ (`utils/packing_utils.py`), AutoGPTQ and GPTQModel (`nn_modules/qlinear`),
transformers (`integrations/finegrained_fp8.py`).

O output features, I input features, G groups of input features.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .names import flat_name, model_name
from .stored import StoredTensor

READ = "fp8, awq (gemm), gptq and compressed-tensors (pack-quantized, int-quantized, float-quantized)"

Form = Callable[[str, Mapping[str, StoredTensor]], tuple[tuple[int, ...], torch.dtype]]
Restore = Callable[[str, Mapping[str, Tensor]], Tensor]

# What a layer's activations would be scaled by.
_ACTIVATION_PARTS = frozenset(
    {"input_scale", "input_zero_point", "output_scale", "output_zero_point", "activation_scale", "activation_scale_inv"}
)
_AWQ_ORDER = [0, 4, 1, 5, 2, 6, 3, 7]  # where the eight columns of an int32 are in it


@dataclass(frozen=True)
class QuantisedTensor(StoredTensor):
    """A weight whose files hold it quantised.

    Attributes:
        name: as the checkpoint spells it: "model.layers.0.mlp.up_proj.weight".
        shape: [O, I].
        dtype: in which the package that wrote it would compute its values.
        parts: what it is made of: "qweight" -> that tensor of the files.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    parts: Mapping[str, StoredTensor]
    restore: Restore

    def read(self) -> Tensor:
        """Its values, on the CPU. ValueError if the parts do not fit each other."""
        return self.restore(self.name, {part: tensor.read() for part, tensor in self.parts.items()})


@dataclass(frozen=True)
class Quantisation:
    """How the weights of one checkpoint are stored.

    Attributes:
        checkpoint: its name, for errors.
        scheme: in words: "awq int4 in groups of 128".
        parts: the parts that every quantised layer has. The first tells that a layer is quantised.
        form: (a weight's name, its parts) -> its shape (O, I) and dtype.
        restore: (a weight's name, the values of its parts) -> its values [O, I].
        optional: parts that a layer may have.
        aliases: other names of parts.
        ignored: names or patterns of the modules that are not quantised.
    """

    checkpoint: str
    scheme: str
    parts: tuple[str, ...]
    form: Form
    restore: Restore
    optional: frozenset[str] = frozenset()
    aliases: Mapping[str, str] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()

    def dequantised(self, stored: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
        """The tensors of the model that those of the files are parts of. Their values are made when they are read.

        Args:
            stored: all tensors of the files, by their keys.

        Raises:
            ValueError: a layer lacks a part, has an impossible one, or is quantised although quantization_config says
                that it is not.
        """
        modules: defaultdict[str, dict[str, str]] = defaultdict(dict)
        for key in stored:
            module, _, part = key.rpartition(".")
            modules[module][self.aliases.get(part, part)] = key
        known = {*self.parts, *self.optional}
        tensors: dict[str, StoredTensor] = {}
        incomplete: list[str] = []
        contradictory: list[str] = []
        for module, own in modules.items():
            is_quantised = self.parts[0] in own
            parts = {part: stored[key] for part, key in own.items() if is_quantised and part in known}
            if missing := [part for part in self.parts if is_quantised and part not in own]:
                incomplete.append(f"{module} has no {', '.join(missing)}")
            elif is_quantised:
                name = f"{module}.weight"
                shape, dtype = self.form(name, parts)
                tensors[name] = QuantisedTensor(name, shape, dtype, parts, self.restore)
            if is_quantised and is_named(module, self.ignored):
                contradictory.append(module)
            dropped = {*parts, *_ACTIVATION_PARTS} if is_quantised else set()
            for part, key in own.items():
                if part not in dropped:
                    tensors[key] = stored[key]
                    if stored[key].dtype.itemsize == 1:
                        incomplete.append(f"{key} is {_word(stored[key].dtype)} without {self.parts[0]}")
        if incomplete:
            raise ValueError(f"{self.checkpoint} is {self.scheme}, and parts of it are missing: {listed(incomplete)}")
        if contradictory:
            raise ValueError(
                f"{self.checkpoint} contradicts itself: its files hold modules quantised that its quantization_config "
                f"says are not: {listed(contradictory)}"
            )
        return tensors

    def note(self, stored_bytes: int, memory_bytes: int, dtype: torch.dtype) -> str:
        """What a user should know of the memory.

        Args:
            stored_bytes: size of the checkpoint's files.
            memory_bytes: size of all weights after loading.
            dtype: of the weights after loading.
        """
        return (
            f"{self.checkpoint} is quantised ({self.scheme}), for which vzoom has no kernels: "
            f"{stored_bytes / 1e9:.2f} GB in files, {memory_bytes / 1e9:.2f} GB in memory as "
            f"{_word(dtype)}"
        )


def read_quantisation(config: Mapping[str, Any], checkpoint: str) -> Quantisation | None:
    """What a config.json says of how its weights are stored.

    Args:
        config: the whole file.
        checkpoint: its name, for errors.

    Returns:
        None if the weights are plain.

    Raises:
        ValueError: vzoom does not read the scheme.
    """
    places = [config, *(config.get(part) or {} for part in ("text_config", "vision_config"))]
    found = [place.get("quantization_config") or place.get("compression_config") for place in places]
    settings = next((one for one in found if one), None)
    if settings is None:
        return None
    method = str(settings.get("quant_method") or "").lower()
    if not method:  # old bitsandbytes checkpoints do not name themselves
        method = "bitsandbytes" if settings.get("load_in_4bit") or settings.get("load_in_8bit") else "unknown"
    readers = {"fp8": _fp8, "awq": _awq, "gptq": _gptq, "compressed-tensors": _compressed_tensors}
    if method not in readers:
        raise _refusal(checkpoint, method)
    return readers[method](settings, checkpoint)


def _refusal(checkpoint: str, what: str) -> ValueError:
    return ValueError(
        f"{checkpoint} is quantised as {what}, which vzoom does not read. It reads {READ}. Name another quantisation "
        "of this model, or the model itself"
    )


def is_named(module: str, names: Iterable[str]) -> bool:
    """Whether one of the names is of this module: a name or a part of one ("visual", "mlp.gate"), or "re:" and a
    pattern. The module may be spelled either way."""
    for spelling in {module, model_name(module), flat_name(model_name(module))}:
        for name in names:
            if name.startswith("re:"):
                if re.match(name.removeprefix("re:"), spelling):
                    return True
            elif f".{name.strip('.')}." in f".{spelling}.":
                return True
    return False


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _matrix(name: str, tensor: StoredTensor) -> tuple[int, int]:
    if len(tensor.shape) != 2:
        raise ValueError(f"{name} cannot be dequantised: a part of it is {list(tensor.shape)}, not a matrix")
    return tensor.shape[0], tensor.shape[1]


def listed(items: Sequence[str], most: int = 8) -> str:
    """The first items, and how many more there are."""
    rest = f" and {len(items) - most} more" if len(items) > most else ""
    return "; ".join(items[:most]) + rest


# ---------------------------------------------------------------- FP8


def _fp8(settings: Mapping[str, Any], checkpoint: str) -> Quantisation:
    """`weight` in float8 times the scale of its block (DeepSeek, Qwen), or of its row or matrix (AutoFP8)."""
    block = settings.get("weight_block_size")

    def form(name: str, parts: Mapping[str, StoredTensor]) -> tuple[tuple[int, ...], torch.dtype]:
        return _matrix(name, parts["weight"]), torch.float32

    def restore(name: str, parts: Mapping[str, Tensor]) -> Tensor:
        return _multiplied_out(name, parts["weight"], parts["weight_scale_inv"].float(), block=block)

    ignored = [*(settings.get("modules_to_not_convert") or ()), *(settings.get("ignored_layers") or ())]
    scheme = "fp8" + (f" in blocks of {block[0]} x {block[1]}" if block else "")
    aliases = {"weight_scale": "weight_scale_inv"}  # both are multiplied with
    return Quantisation(
        checkpoint, scheme, ("weight_scale_inv", "weight"), form, restore, aliases=aliases, ignored=tuple(ignored)
    )


# ---------------------------------------------------------------- AWQ and GPTQ


def _awq(settings: Mapping[str, Any], checkpoint: str) -> Quantisation:
    """qweight [I, O / 8], qzeros [G, O / 8], scales [G, O]: eight columns in an int32, in an order of AWQ's own."""
    version = str(settings.get("version") or settings.get("format") or "gemm").lower()
    bits = settings.get("bits", settings.get("w_bit", 4))
    if version != "gemm" or bits != 4 or settings.get("backend", "autoawq") not in ("autoawq", "auto"):
        raise _refusal(checkpoint, f"awq {version}, {bits} bits, of {settings.get('backend', 'autoawq')}")
    if not settings.get("zero_point", True):
        raise _refusal(checkpoint, "awq without zero points")

    def form(name: str, parts: Mapping[str, StoredTensor]) -> tuple[tuple[int, ...], torch.dtype]:
        inputs, packed_outputs = _matrix(name, parts["qweight"])
        return (packed_outputs * 8, inputs), parts["scales"].dtype

    def restore(name: str, parts: Mapping[str, Tensor]) -> Tensor:
        scales_GO = parts["scales"]
        weight_IO, zeros_GO = (_in_awq_order(_unpack(name, parts[part], 4)) for part in ("qweight", "qzeros"))
        return _multiplied_out(name, weight_IO.T, scales_GO.T, zeros_GO.T)

    scheme = f"awq int4 in groups of {settings.get('group_size', settings.get('q_group_size', 128))}"
    ignored = tuple(settings.get("modules_to_not_convert") or ())
    return Quantisation(checkpoint, scheme, ("qweight", "qzeros", "scales"), form, restore, ignored=ignored)


def _gptq(settings: Mapping[str, Any], checkpoint: str) -> Quantisation:
    """qweight [I * bits / 32, O], qzeros [G, O * bits / 32], scales [G, O], and g_idx [I] if the groups are not in
    order (desc_act). The first version of the format stores zero points less one."""
    bits = settings.get("bits")
    version = str(settings.get("checkpoint_format") or settings.get("format") or "gptq").lower()
    if bits not in (4, 8) or settings.get("pack_dtype", "int32") != "int32":
        raise _refusal(checkpoint, f"gptq of {bits} bits in {settings.get('pack_dtype', 'int32')}")
    if version not in ("gptq", "gptq_v2") or settings.get("is_marlin_format"):
        raise _refusal(checkpoint, f"gptq packed as {'marlin' if settings.get('is_marlin_format') else version}")
    if settings.get("rotation") or settings.get("adapter"):
        raise _refusal(checkpoint, "gptq with a rotation or an adapter")
    rules: Mapping[str, Any] = settings.get("dynamic") or {}
    if changed := [rule for rule, change in rules.items() if change]:
        raise _refusal(checkpoint, f"gptq with other settings for some modules (dynamic: {changed[0]})")
    added = 1 if version == "gptq" else 0

    def form(name: str, parts: Mapping[str, StoredTensor]) -> tuple[tuple[int, ...], torch.dtype]:
        packed_inputs, outputs = _matrix(name, parts["qweight"])
        return (outputs, packed_inputs * 32 // bits), parts["scales"].dtype

    def restore(name: str, parts: Mapping[str, Tensor]) -> Tensor:
        scales_GO = parts["scales"]
        weight_OI = _unpack(name, parts["qweight"].T, bits)
        zeros_GO = (_unpack(name, parts["qzeros"], bits).to(torch.int16) + added) & (2**bits - 1)
        return _multiplied_out(name, weight_OI, scales_GO.T, zeros_GO.T, g_idx=parts.get("g_idx"))

    ignored = tuple("re:" + rule.removeprefix("-:") for rule in rules if rule.startswith("-:"))
    return Quantisation(
        checkpoint,
        f"gptq int{bits} in groups of {settings.get('group_size', 128)}",
        ("qweight", "qzeros", "scales"),
        form,
        restore,
        optional=frozenset({"g_idx"}),
        ignored=ignored,
    )


def _unpack(name: str, packed: Tensor, bits: int) -> Tensor:
    """int32 [.., n] -> the unsigned integers of `bits` bits in them, lowest first: uint8 [.., n * 32 / bits]."""
    if packed.dtype != torch.int32:
        raise ValueError(f"{name} cannot be dequantised: it is packed in {_word(packed.dtype)}, not in int32")
    low_first = packed.contiguous().view(torch.uint8)
    return low_first if bits == 8 else torch.stack([low_first & 15, low_first >> 4], dim=-1).flatten(-2)


def _in_awq_order(unpacked: Tensor) -> Tensor:
    return unpacked.unflatten(-1, (-1, 8))[..., _AWQ_ORDER].flatten(-2)


# ---------------------------------------------------------------- compressed-tensors

_PACKED, _WHOLE = "pack-quantized", ("int-quantized", "float-quantized", "naive-quantized")


@dataclass(frozen=True)
class _Group:
    """Layers that are quantised in one way: config_groups of compressed-tensors."""

    targets: tuple[str, ...]
    layout: str
    num_bits: int
    is_symmetric: bool
    strategy: str
    block: tuple[int, int] | None

    @property
    def scheme(self) -> str:
        return f"{self.num_bits} bits, one scale per {self.strategy}"

    @property
    def parts(self) -> list[str]:
        """What its layers have beside their scales."""
        whole = ["weight_packed", "weight_shape"] if self.layout == _PACKED else ["weight"]
        return whole if self.is_symmetric else [*whole, "weight_zero_point"]


def _compressed_tensors(settings: Mapping[str, Any], checkpoint: str) -> Quantisation:
    """`weight_packed` (4 or 8 bits in int32, offset by half their range) or `weight` (int8, float8), `weight_scale`,
    and `weight_zero_point` if not symmetric. One scale per tensor, channel, group of inputs, or block."""
    if settings.get("quantization_status", "compressed") != "compressed":
        raise _refusal(checkpoint, f"compressed-tensors that are {settings['quantization_status']}, not compressed")
    if settings.get("kv_cache_scheme"):
        raise _refusal(checkpoint, "compressed-tensors with a quantised KV cache (kv_cache_scheme)")
    sparsity = (settings.get("sparsity_config") or {}).get("format", "dense")
    if sparsity != "dense":
        raise _refusal(checkpoint, f"compressed-tensors with sparse weights ({sparsity})")
    if (settings.get("transform_config") or {}).get("config_groups"):
        raise _refusal(checkpoint, "compressed-tensors with transforms (transform_config)")
    groups = [
        _group(group, settings.get("format", "dense"), checkpoint)
        for group in settings["config_groups"].values()
        if group.get("weights")
    ]

    # A group that names modules comes before one that takes all linear layers.
    groups.sort(key=lambda group: "Linear" in group.targets)

    def group_of(name: str) -> _Group:
        module = name.removesuffix(".weight")
        group = next((g for g in groups if "Linear" in g.targets or is_named(module, g.targets)), None)
        if group is None:
            raise ValueError(f"{checkpoint}: {module} is quantised, and no group of its quantization_config targets it")
        return group

    def form(name: str, parts: Mapping[str, StoredTensor]) -> tuple[tuple[int, ...], torch.dtype]:
        group = group_of(name)
        if missing := [part for part in group.parts if part not in parts]:
            raise ValueError(f"{checkpoint}: {name} is quantised, and has no {', '.join(missing)}")
        if group.layout == _PACKED:
            return tuple(parts["weight_shape"].read().tolist()), parts["weight_scale"].dtype
        return _matrix(name, parts["weight"]), parts["weight_scale"].dtype

    def restore(name: str, parts: Mapping[str, Tensor]) -> Tensor:
        return _decompress(name, parts, group_of(name))

    schemes = " and ".join(dict.fromkeys(group.scheme for group in groups))
    return Quantisation(
        checkpoint,
        f"compressed-tensors {schemes}",
        ("weight_scale",),
        form,
        restore,
        optional=frozenset({"weight", "weight_packed", "weight_shape", "weight_zero_point", "weight_g_idx"}),
        ignored=tuple(settings.get("ignore") or ()),
    )


def _group(group: Mapping[str, Any], layout: str, checkpoint: str) -> _Group:
    weights, layout = group["weights"], group.get("format") or layout
    bits, kind, strategy = weights.get("num_bits", 8), weights.get("type", "int"), weights.get("strategy")
    if strategy is None:
        strategy = "group" if weights.get("group_size") else "tensor"
    is_read = (layout == _PACKED and kind == "int" and bits in (4, 8)) or (
        layout in _WHOLE and ((kind == "int" and bits <= 8) or (kind == "float" and bits == 8))
    )
    if not is_read or strategy not in ("tensor", "channel", "group", "block"):
        raise _refusal(checkpoint, f"compressed-tensors {layout}, {kind}{bits} per {strategy}")
    block = weights.get("block_structure")
    if isinstance(block, str):  # "128x128", as older versions wrote it
        block = [int(side) for side in block.split("x")]
    return _Group(
        tuple(group.get("targets") or ()),
        layout,
        bits,
        bool(weights.get("symmetric", True)),
        strategy,
        tuple(block) if strategy == "block" else None,
    )


def _decompress(name: str, parts: Mapping[str, Tensor], group: _Group) -> Tensor:
    scale, zero = parts["weight_scale"], None if group.is_symmetric else parts["weight_zero_point"]
    weight = parts["weight"] if group.layout != _PACKED else parts["weight_packed"]
    if group.layout == _PACKED:
        rows, columns = parts["weight_shape"].tolist()
        half = 2 ** (group.num_bits - 1)  # integers are stored as unsigned ones
        weight = _unpack(name, weight, group.num_bits)[:, :columns].to(torch.int16) - half
        if zero is not None and group.strategy in ("group", "channel"):  # packed along the outputs
            zero = _unpack(name, zero.T, group.num_bits)[:, :rows].T.to(torch.int16) - half
        if weight.shape != (rows, columns):
            raise ValueError(f"{name} cannot be dequantised: {list(weight.shape)} are packed of {[rows, columns]}")
    return _multiplied_out(name, weight, scale, zero, block=group.block, g_idx=parts.get("weight_g_idx"))


# ---------------------------------------------------------------- scales


def _multiplied_out(
    name: str,
    weight_OI: Tensor,
    scales: Tensor,
    zeros: Tensor | None = None,
    *,
    block: Sequence[int] | None = None,
    g_idx: Tensor | None = None,
) -> Tensor:
    """(weight - zeros) * scales, in the dtype of the scales.

    Args:
        name: of the weight, for errors.
        weight_OI: integers or FP8.
        scales: one; or one for each row; or [O, G]; or one for each block.
        zeros: as the scales.
        block: rows and columns of a block. The last ones may be cut.
        g_idx: the group of each column [I], if groups are not in order.
    """
    values_OI = weight_OI.to(scales.dtype)
    if zeros is not None:
        view, spread = _against(name, values_OI, zeros.to(scales.dtype), block, g_idx)
        view.sub_(spread)
    view, spread = _against(name, values_OI, scales, block, g_idx)
    view.mul_(spread)
    return values_OI


def _against(
    name: str, values_OI: Tensor, scales: Tensor, block: Sequence[int] | None, g_idx: Tensor | None
) -> tuple[Tensor, Tensor]:
    """A view of the values, and the scales in a shape that broadcasts with it. See `_multiplied_out`."""
    rows, columns = values_OI.shape
    if scales.numel() == 1:
        return values_OI, scales.reshape(1, 1)
    if block is not None and scales.shape == (-(-rows // block[0]), -(-columns // block[1])):
        high, wide = block
        if rows % high or columns % wide:
            return values_OI, scales.repeat_interleave(high, 0)[:rows].repeat_interleave(wide, 1)[:, :columns]
        return values_OI.unflatten(1, (-1, wide)).unflatten(0, (-1, high)), scales[:, None, :, None]
    if block is None and scales.ndim > 0 and len(scales) == rows:
        scales_OG = scales.reshape(rows, -1)
        groups = scales_OG.shape[1]
        if g_idx is not None and (g_idx.shape != (columns,) or int(g_idx.min()) < 0 or int(g_idx.max()) >= groups):
            raise ValueError(f"{name} cannot be dequantised: its g_idx does not name one of {groups} groups each")
        size = columns // groups
        if columns % groups == 0 and (g_idx is None or g_idx.equal(torch.arange(columns, dtype=g_idx.dtype) // size)):
            return values_OI.unflatten(1, (groups, size)), scales_OG[:, :, None]
        if g_idx is not None:
            return values_OI, scales_OG[:, g_idx.long()]
    raise ValueError(
        f"{name} cannot be dequantised: {list(scales.shape)} scales or zero points do not fit a weight of "
        f"{[rows, columns]}"
    )
