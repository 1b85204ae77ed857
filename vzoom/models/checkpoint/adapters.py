"""LoRA adapters in PEFT's format, merged into the weights while they are loaded, as PEFT's merge_and_unload does it.

PEFT is not needed. What changes which number (ranks, scales, targets, patterns) is read from adapter_config.json by
PEFT's rules; the rest of the file is how the adapter was trained. A setting that is not known here is refused, because
what it changes would be lost.

W + B A * alpha / r in float32, rounded to the dtype of W (`peft/tuners/lora/layer.py`); DoRA scales the rows of the sum
to its magnitudes (`dora.py`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .folder import CheckpointFolder, find_checkpoint
from .names import flat_name, model_name
from .quantised import listed
from .stored import INDEX, SINGLE, StoredTensor, read_header

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"

# Settings that change what the adapter computes, and that are followed here.
_FOLLOWED = {
    *("peft_type", "base_model_name_or_path", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "modules_to_save"),
    *("bias", "lora_bias", "use_dora", "init_lora_weights"),
}
# Settings of its training, or that only count beside one that is refused. PEFT ignores fan_in_fan_out on linear layers.
_WITHOUT_EFFECT = {
    *("task_type", "inference_mode", "auto_mapping", "revision", "peft_version", "lora_dropout", "fan_in_fan_out"),
    *("megatron_core", "loftq_config", "eva_config", "corda_config", "lora_ga_config", "qalora_group_size"),
    "runtime_config",
}
# Ways to begin that leave the base as it is. The others (pissa, olora, corda, loftq, ...) take the first product out of
# the base's weights, which are then not the ones in its files.
_PLAIN_STARTS = (True, False, "gaussian", "eva", "orthogonal")
_PART = re.compile(
    r"(?P<module>.+)\.(?P<part>lora_A\.weight|lora_B\.weight|lora_B\.bias|lora_embedding_A|lora_embedding_B"
    r"|lora_magnitude_vector)"
)


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter, opened but not yet held against a model.

    Attributes:
        name: its folder or hub id.
        settings: adapter_config.json.
        tensors: adapter_model.safetensors.
    """

    name: str
    settings: Mapping[str, Any]
    tensors: Mapping[str, StoredTensor]

    def fit(self, model: nn.Module) -> Merge:
        """Find the weight that each tensor of the adapter changes.

        Args:
            model: the base, as transformers builds it. Its weights are not read; they may be on the meta device.

        Raises:
            ValueError: tensors that fit no module, modules that the adapter should have and lacks, or wrong shapes;
                all in one message.
        """
        return _Fitting(self, model).merge()


def find_model(
    name_or_path: str, *, adapter: str | None = None, revision: str | None = None
) -> tuple[CheckpointFolder, CheckpointFolder | None]:
    """The base and the adapter that a name stands for.

    Args:
        name_or_path: a checkpoint, with or without an adapter in its folder, or an adapter, whose base is then found by
            what its settings call it.
        adapter: a folder or hub id. The checkpoint must then be without one.
        revision: a branch, a tag or a commit of `name_or_path`.

    Returns:
        Where the base is, and where the adapter is; None if there is none.

    Raises:
        OSError: one of them was not found.
        ValueError: there are two adapters, or the adapter is not one that can be merged.
    """
    folder = find_checkpoint(name_or_path, revision=revision)
    if not (folder.path / CONFIG_FILE).is_file():
        return folder, None if adapter is None else _find_other(name_or_path, "adapter", adapter)
    settings = read_settings(folder)
    if adapter is not None:
        raise ValueError(
            f"{name_or_path} has an adapter itself ({CONFIG_FILE}), and {adapter} would be a second one: name its "
            "base as the model, or merge one of the adapters before"
        )
    has_weights = any((folder.path / file).is_file() for file in (SINGLE, INDEX))
    if has_weights or (folder.is_cached and (folder.path / "config.json").is_file()):
        return folder, folder
    base = settings.get("base_model_name_or_path")
    if not base:
        raise ValueError(
            f"adapter {name_or_path} does not say what its base is: name the base as the model, and it beside"
        )
    found = _find_other(name_or_path, "base", base, revision=None if Path(base).is_dir() else settings.get("revision"))
    if (found.path / CONFIG_FILE).is_file():
        raise ValueError(
            f"the base of adapter {name_or_path} is {base}, which has an adapter itself: merge that before"
        )
    return found, folder


def _find_other(name: str, part: str, other: str, *, revision: str | None = None) -> CheckpointFolder:
    try:
        return find_checkpoint(other, revision=revision)
    except OSError as error:
        raise FileNotFoundError(f"{name}: its {part} was not found: {error}") from error


def open_adapter(folder: CheckpointFolder) -> Adapter:
    """Open a LoRA adapter. Its weights are not read.

    Raises:
        ValueError: it is not a LoRA adapter, has a setting that cannot be merged exactly, or has no such weights.
        OSError: there is no adapter, or its weights cannot be fetched.
    """
    settings = read_settings(folder)
    path = folder.file(WEIGHTS_FILE)
    if path is None:
        raise ValueError(
            f"adapter {folder.name} has no {WEIGHTS_FILE} (pickled weights are never read): save it again with PEFT's "
            "save_pretrained"
        )
    return Adapter(folder.name, settings, read_header(path))


def read_settings(folder: CheckpointFolder) -> dict[str, Any]:
    """adapter_config.json, if all it asks for can be merged. See `open_adapter`."""
    name, settings = folder.name, folder.read_json(CONFIG_FILE)
    if settings is None:
        raise FileNotFoundError(f"{name} is no adapter: it has no {CONFIG_FILE}")
    kind = settings.get("peft_type")
    if kind != "LORA":
        raise ValueError(f"adapter {name} is {kind or 'of no named type'}, not LORA: vzoom merges LoRA adapters only")
    strange = [key for key, value in settings.items() if value and key not in _FOLLOWED | _WITHOUT_EFFECT]
    if strange:
        raise ValueError(
            f"adapter {name} uses {', '.join(strange)}, which vzoom cannot merge exactly: merge it with PEFT "
            "(merge_and_unload, then save_pretrained) and load the result"
        )
    start = settings.get("init_lora_weights", True)
    if start not in _PLAIN_STARTS:
        raise ValueError(
            f"adapter {name} was begun with init_lora_weights={start!r}, which changes the base: convert it to a plain "
            "LoRA with PEFT (save_pretrained(..., path_initial_model_for_weight_conversion=...))"
        )
    if settings.get("bias", "none") not in ("none", "all", "lora_only"):
        raise ValueError(f"adapter {name} has bias={settings['bias']!r}; LoRA knows none, all and lora_only")
    return settings


# ---------------------------------------------------------------- merging


@dataclass
class _Change:
    """What becomes of one weight: another one in its place, a product that is added, or both."""

    replaced_by: StoredTensor | None = None
    a: StoredTensor | None = None
    b: StoredTensor | None = None
    scale: float = 1.0
    is_transposed: bool = False
    magnitude: StoredTensor | None = None
    added: StoredTensor | None = None

    def apply_to(self, weight: Tensor) -> None:
        """Change the base's weight in place; in float32, rounded to its own dtype at the end."""

        def read(tensor: StoredTensor) -> Tensor:
            return tensor.read().to(weight.device).float()

        if self.replaced_by is not None:
            self.replaced_by.write_to(weight)
        if self.added is not None:
            weight.copy_(weight.float() + read(self.added) * self.scale)
        if self.a is not None and self.b is not None:
            product = read(self.b).flatten(1) @ read(self.a).flatten(1)
            product = product.T if self.is_transposed else product.view(weight.shape)
            merged = weight.float() + product * self.scale
            if self.magnitude is not None:
                merged *= (read(self.magnitude) / torch.linalg.norm(merged, dim=1))[:, None]
            weight.copy_(merged)


class AdaptedTensor(StoredTensor):
    """A weight of the base with an adapter in it."""

    def __init__(self, base: StoredTensor, change: _Change) -> None:
        self.base, self.change = base, change
        self.shape, self.dtype = base.shape, base.dtype

    def read(self) -> Tensor:
        """Merged in the dtype that the base's file has."""
        weight = self.base.read()
        self.change.apply_to(weight)
        return weight

    def write_to(self, out: Tensor) -> None:
        """Merged in the dtype that the model runs in, as PEFT does."""
        self.base.write_to(out)
        self.change.apply_to(out)


@dataclass(frozen=True)
class Merge:
    """An adapter that fits a model.

    Attributes:
        name: the adapter's.
        changes: what becomes of each weight, by the name that the model's parameter has.
    """

    name: str
    changes: Mapping[str, _Change]

    def into(self, stored: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
        """The base's tensors with the adapter in them, merged when they are read.

        Args:
            stored: the base's tensor for each name of the model's state.
        """
        adapted = {name: AdaptedTensor(stored[name], change) for name, change in self.changes.items()}
        return {**stored, **adapted}

    @property
    def note(self) -> str:
        """What a user should know of it."""
        return f"adapter {self.name} is merged into {len(self.changes)} weights"


# ---------------------------------------------------------------- which module, which shape


@dataclass
class _Fitting:
    """An adapter held against a model; collects all that is wrong before it says so."""

    adapter: Adapter
    model: nn.Module
    unknown: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    misshapen: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.settings = self.adapter.settings
        self.modules = dict(self.model.named_modules())
        self.parameters = dict(self.model.named_parameters(remove_duplicate=False))
        self.replaced, self.parts = self._sorted_tensors()
        # Patterns in adapter_config.json are of the names that modules had when it was trained.
        self.is_flat = any(model_name(key) != key for key in map(_plain, self.adapter.tensors))
        self.changes: dict[str, _Change] = {}

    def _sorted_tensors(self) -> tuple[dict[str, StoredTensor], dict[str, dict[str, StoredTensor]]]:
        """Whole parameters by name, and the parts of low-rank pairs by module."""
        replaced: dict[str, StoredTensor] = {}
        parts: dict[str, dict[str, StoredTensor]] = {}
        for key, tensor in self.adapter.tensors.items():
            name = _plain(key)
            if match := _PART.fullmatch(name):
                parts.setdefault(model_name(match["module"]), {})[match["part"]] = tensor
            else:
                replaced[model_name(name.replace(".base_layer.", "."))] = tensor
        return replaced, parts

    def merge(self) -> Merge:
        for name, tensor in self.replaced.items():
            if name not in self.parameters:
                self.unknown.append(name)
            elif self._has_shape(name, tensor, self.parameters[name].shape):
                self.changes[name] = _Change(replaced_by=tensor)
        targets = [name for name in self.modules if name and self._is_target(name)]
        for module in targets:
            self._adapt(module, self.parts.get(module, {}))
        self.unknown += [
            f"{module}.{part}" for module in self.parts.keys() - set(targets) for part in self.parts[module]
        ]
        self.missing += [name for name in self._trained_whole(targets) if name not in self.replaced]
        if not self.changes and not self.unknown and not self.missing:
            self.missing.append("any tensor")
        wrong = [
            f"{text}: {listed(sorted(names))}"
            for text, names in (
                ("it changes what the model does not have, or target_modules does not name", self.unknown),
                ("it lacks", self.missing),
                ("wrong shapes", self.misshapen),
            )
            if names
        ]
        if wrong:
            raise ValueError(f"adapter {self.adapter.name} does not fit the model. " + ". ".join(wrong))
        self._check_tied()
        return Merge(self.adapter.name, self.changes)

    def _adapt(self, module: str, parts: Mapping[str, StoredTensor]) -> None:
        """The pair of one target module -> the change of its weight."""
        target = self.modules[module]
        kinds = (nn.Linear, nn.Embedding, nn.Conv3d)
        if not isinstance(target, kinds):
            self.unknown.append(f"{module} ({type(target).__name__} cannot be adapted)")
            return
        weight = f"{module}.weight"
        rows, *rest = target.weight.shape
        rank, scale = self._rank_and_scale(module)
        is_embedding = isinstance(target, nn.Embedding)  # its pair stands for the transposed weight
        if is_embedding:
            a, b = "lora_embedding_A", "lora_embedding_B"
            shapes = {a: [rank, rows], b: [*rest, rank]}
        else:
            a, b = "lora_A.weight", "lora_B.weight"
            shapes = {a: [rank, *rest], b: [rows, rank, *[1] * (len(rest) - 1)]}
        if self.settings.get("use_dora"):
            shapes["lora_magnitude_vector"] = [rows]
            if not isinstance(target, nn.Linear):
                self.unknown.append(f"{module} ({type(target).__name__} with DoRA is not merged)")
                return
        if self.settings.get("lora_bias"):
            shapes["lora_B.bias"] = [rows]
        self.missing += [f"{module}.{part}" for part in shapes if part not in parts]
        self.unknown += [f"{module}.{part}" for part in parts if part not in shapes]
        if parts.keys() != shapes.keys():
            return
        fits = [self._has_shape(f"{module}.{part}", parts[part], shape) for part, shape in shapes.items()]
        if not all(fits):
            return
        change = self.changes.setdefault(weight, _Change())
        change.a, change.b, change.scale, change.is_transposed = parts[a], parts[b], scale, is_embedding
        change.magnitude = parts.get("lora_magnitude_vector")
        if "lora_B.bias" in parts:
            if f"{module}.bias" not in self.parameters:
                self.unknown.append(f"{module}.lora_B.bias (the module has no bias)")
                return
            bias = self.changes.setdefault(f"{module}.bias", _Change())
            bias.added, bias.scale = parts["lora_B.bias"], scale

    def _has_shape(self, name: str, tensor: StoredTensor, shape: Sequence[int]) -> bool:
        is_right = list(tensor.shape) == list(shape)
        if not is_right:
            self.misshapen.append(f"{name} is {list(tensor.shape)}, not {list(shape)}")
        return is_right

    def _check_tied(self) -> None:
        """Input and output embeddings may be one parameter, of which PEFT changes one use, or both, or makes two."""
        names: dict[int, list[str]] = {}
        for name, parameter in self.parameters.items():
            names.setdefault(id(parameter), []).append(name)
        for tied in names.values():
            changed = [name for name in tied if name in self.changes]
            if len(tied) == 1:
                continue
            values = [self.replaced[name].read() for name in changed if name in self.replaced]
            is_same = len(values) == len(changed) == len(tied) and all(v.equal(values[0]) for v in values)
            if changed and not is_same:
                raise ValueError(
                    f"adapter {self.adapter.name} changes {changed[0]}, which the model ties to "
                    f"{next(name for name in tied if name != changed[0])}: merge it with PEFT, set tie_word_embeddings "
                    "to false, and load the result"
                )

    # ------------------------------------------------------------ PEFT's rules

    def _spelled(self, module: str) -> str:
        return flat_name(module) if self.is_flat else module

    def _is_target(self, module: str) -> bool:
        """peft.tuners.tuners_utils.check_target_module_exists."""
        key, settings = self._spelled(module), self.settings
        excluded, targets = settings.get("exclude_modules"), settings.get("target_modules")
        if excluded and (re.fullmatch(excluded, key) if isinstance(excluded, str) else _ends(key, excluded)):
            return False
        if any(re.match(rf"(^|.*\.){saved}($|\..*)", key) for saved in settings.get("modules_to_save") or ()):
            return False
        if isinstance(targets, str):
            if targets.lower() == "all-linear":
                return isinstance(self.modules[module], nn.Linear) and module != "lm_head"
            return re.fullmatch(targets, key) is not None
        if targets is None or not _ends(key, targets):
            return False
        layers = settings.get("layers_to_transform")
        if key in targets or layers is None or layers == []:
            return True
        patterns = settings.get("layers_pattern") or [r"[^.]*"]
        patterns = [patterns] if isinstance(patterns, str) else patterns
        found = (re.match(rf"(?:^|.*?\.){pattern}\.(?P<index>\d+)\.", key) for pattern in patterns)
        match = next((match for match in found if match), None)
        return match is not None and int(match["index"]) in ([layers] if isinstance(layers, int) else layers)

    def _rank_and_scale(self, module: str) -> tuple[int, float]:
        key, settings = self._spelled(module), self.settings

        def by_pattern(name: str, usual: int) -> int:
            patterns: Mapping[str, int] = settings.get(name) or {}
            return next((value for p, value in patterns.items() if re.match(rf"(.*\.)?({p})$", key)), usual)

        rank = by_pattern("rank_pattern", settings.get("r", 8))
        alpha = by_pattern("alpha_pattern", settings.get("lora_alpha", 8))
        return rank, alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)

    def _trained_whole(self, targets: Sequence[str]) -> list[str]:
        """Parameters that were trained beside the pairs, which the adapter must hold whole."""
        saved = tuple(self.settings.get("modules_to_save") or ())
        whole = [m for m in self.modules if m and saved and self._spelled(m).endswith(saved)]
        names = [name for name in self.parameters if any(name.startswith(f"{module}.") for module in whole)]
        bias = self.settings.get("bias", "none")
        if bias == "all":
            names += [name for name in self.parameters if name.endswith("bias")]
        if bias == "lora_only":
            names += [name for module in targets if (name := f"{module}.bias") in self.parameters]
        return names


def _plain(key: str) -> str:
    """A key without what versions of PEFT add to it."""
    return key.removeprefix("base_model.model.").replace("lora_magnitude_vector.weight", "lora_magnitude_vector")


def _ends(key: str, names: Sequence[str]) -> bool:
    """Whether the key is one of the names, or ends with a dot and one of them."""
    return any(f".{key}".endswith(f".{name}") for name in names)
