"""Load a checkpoint: every tensor of transformers' modules from a file, patch geometry from its preprocessor file."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from ...config import Sampling, ZoomConfig
from ...kernels import extension
from ...protocol import Protocol
from ...video import PatchSpec
from ..base import VisionLanguageModel
from ..layers import qkv_parameters
from ..qwen2_5_vl import Qwen25VL
from ..qwen2_vl import Qwen2VL
from ..qwen3_vl import Qwen3VL
from ..weight_memory import new_weights
from .adapters import find_model, open_adapter
from .folder import CheckpointFolder
from .free_memory import MemoryNeed, check_memory
from .generation import end_ids_of, sampling_of
from .names import match
from .protocol import choose_protocol
from .quantised import read_quantisation
from .stored import FileTensor, StoredTensor

FAMILIES: tuple[type[VisionLanguageModel], ...] = (Qwen2VL, Qwen25VL, Qwen3VL)

# Control tokens that only `protocol` may place: sampled, they would stand for an image that is not there.
_VISUAL_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>")
END_OF_TURN = "<|im_end|>"
END_OF_TEXT = "<|endoftext|>"
_START_OF_TURN = "<|im_start|>"
_DTYPES = ("auto", "float32", "bfloat16", "float16")
_REPORT_BYTES = 1 << 28  # progress is told so often

Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
    """All that a conversation needs of a model but its weights. See `vocabulary_of` for what a session must know of it.

    Attributes:
        name: the folder or hub id that it was loaded from.
        folder: its files; those of the base, if it is an adapter.
        adapter: the files of a LoRA adapter that belongs to it and is not merged, if there is one.
        tokenizer: transformers' own.
        patch_spec: the patch geometry of its vision tower.
        config: the settings of its conversations, its protocol among them (`choose_protocol`).
        knows_tags: whether it was trained in that protocol's grammar, as far as its files or its hub id say.
        banned_ids: tokens that are never sampled.
        sampling: how its generation_config.json wants tokens chosen; greedy if it has none.
        generation_end_ids: the ids that end a generation by its generation_config.json.
        notes: sentences for the user about how it was loaded: a merged adapter, what quantised weights take in memory.
        warnings: sentences for the user: that it is prompted in a protocol that it was not trained in.
    """

    name: str
    folder: CheckpointFolder
    adapter: CheckpointFolder | None = None
    tokenizer: Any
    patch_spec: PatchSpec
    config: ZoomConfig
    knows_tags: bool
    banned_ids: tuple[int, ...]
    sampling: Sampling = field(default_factory=Sampling)
    generation_end_ids: frozenset[int] = frozenset()
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Checkpoint(CheckpointInfo):
    """A checkpoint with its weights.

    Attributes:
        model: the weights and their forward pass.
        stored: what its files hold for each tensor of the model, by transformers' names. `compare_weights` reads them.
    """

    model: VisionLanguageModel
    stored: Mapping[str, StoredTensor]


@contextmanager
def _garbage_left_alone() -> Iterator[None]:
    """transformers' import makes objects by the hundred thousand, all of which stay: searching them for garbage again
    and again takes a fifth of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@_garbage_left_alone()
def load_checkpoint(
    name_or_path: str,
    *,
    device: str = "auto",
    dtype: str = "auto",
    revision: str | None = None,
    adapter: str | None = None,
    protocol: Protocol | None = None,
    system: str | None = None,
    limits: Mapping[str, Any] | None = None,
    max_sessions: int = 1,
    progress: Progress | None = None,
) -> Checkpoint:
    """Load a Qwen2-VL, Qwen2.5-VL or Qwen3-VL checkpoint.

    Args:
        name_or_path: a folder in Hugging Face layout, or a hub id.
        device: "cpu", "cuda" or "cuda:N"; "auto" takes CUDA if there is one.
        dtype: "float32", "bfloat16" or "float16"; "auto" is the checkpoint's own, on a CPU that does not multiply in it
            float32.
        revision: a branch, a tag or a commit of a hub id.
        adapter: a LoRA adapter of PEFT, a folder or hub id, to merge into the weights. One in the checkpoint's folder
            is merged without being named. `name_or_path` may be an adapter, too: its base is then looked for.
        protocol: how the model is prompted and read, in place of the protocol that it was trained in.
        system: a system text that replaces that of the protocol.
        limits: fields of `ZoomConfig` that will replace the checkpoint's own: how long conversations are.
        max_sessions: conversations at once that memory must suffice for.
        progress: called with a line of text while weights are read.

    Raises:
        OSError: nothing was found, or the hub does not answer. The message is one line and says what to do.
        ValueError: the family is not one of the three; there is no such device or dtype; weights and KV pool do not fit
            in the free memory; the files do not hold what config.json describes, tensor for tensor; they are quantised
            in a way that is not read; the adapter is not one that can be merged, or does not fit; or the texts of its
            protocol are not all known.
    """
    folder, adapter_folder = find_model(name_or_path, adapter=adapter, revision=revision)
    settings = folder.read_config()
    family = _family(settings, folder.name)
    quantisation = read_quantisation(settings, folder.name)
    opened = None if adapter_folder is None else open_adapter(adapter_folder)
    if adapter_folder is not None:
        _check_same_tokens(folder, adapter_folder)
    target = _device(device)
    hf = _without_weights(folder, family, _dtype(dtype, settings, folder, target))
    tokenizer = load_tokenizer(folder)
    for control in (END_OF_TURN, END_OF_TEXT):
        token_id(tokenizer, control, name_or_path)  # better known now than at the first question
    chosen = choose_protocol(
        [folder] if adapter_folder is None else [adapter_folder, folder],
        tokenizer,
        name=name_or_path,
        recorded_names=[one for one in (adapter, folder.name, settings.get("_name_or_path")) if one],
        protocol=protocol,
        system=system,
    )
    config = chosen.config
    generation = folder.read_json("generation_config.json") or {}
    merge = None if opened is None else opened.fit(hf)
    check_memory(_need(hf, config.override(**(limits or {})), max_sessions), name_or_path, target)
    files = folder.weights()
    stored = match(files if quantisation is None else quantisation.dequantised(files), hf, folder.name)
    if merge is not None:
        stored = merge.into(stored)
    _fill(hf, stored, target, name_or_path, progress)
    model = family(hf)

    notes = [] if merge is None else [merge.note]
    if quantisation is not None:
        in_files, in_memory = sum(one.num_bytes for one in files.values()), sum(one.nbytes for one in hf.parameters())
        notes.append(quantisation.note(in_files, in_memory, hf.dtype))
    return Checkpoint(
        name=name_or_path,
        folder=folder,
        model=model,
        tokenizer=tokenizer,
        patch_spec=patch_spec_of(folder),
        config=config,
        knows_tags=chosen.knows_tags,
        banned_ids=never_sampled(tokenizer, hf.lm_head.out_features, name_or_path),
        stored=stored,
        sampling=sampling_of(generation, name_or_path),
        generation_end_ids=end_ids_of(generation),
        notes=tuple(notes),
        warnings=chosen.warnings,
    )


@_garbage_left_alone()
def load_checkpoint_info(
    name_or_path: str,
    *,
    revision: str | None = None,
    adapter: str | None = None,
    protocol: Protocol | None = None,
    system: str | None = None,
) -> CheckpointInfo:
    """What a conversation needs of a checkpoint whose weights another program holds. Of any family with the image
    processor and the control tokens of Qwen-VL.

    Args:
        name_or_path: a folder in Hugging Face layout, or a hub id; so are the others as for `load_checkpoint`.

    Raises:
        OSError: nothing was found, or the hub does not answer.
        ValueError: its tokenizer or image processor is not one of Qwen-VL, or the texts of its protocol are not known.
    """
    folder, adapter_folder = find_model(name_or_path, adapter=adapter, revision=revision)
    settings = folder.read_config()
    if adapter_folder is not None:
        _check_same_tokens(folder, adapter_folder)
    tokenizer = load_tokenizer(folder)
    chosen = choose_protocol(
        [folder] if adapter_folder is None else [adapter_folder, folder],
        tokenizer,
        name=name_or_path,
        recorded_names=[one for one in (adapter, folder.name, settings.get("_name_or_path")) if one],
        protocol=protocol,
        system=system,
    )
    generation = folder.read_json("generation_config.json") or {}
    num_logits = (settings.get("text_config") or settings).get("vocab_size", len(tokenizer))
    return CheckpointInfo(
        name=name_or_path,
        folder=folder,
        adapter=adapter_folder,
        tokenizer=tokenizer,
        patch_spec=patch_spec_of(folder),
        config=chosen.config,
        knows_tags=chosen.knows_tags,
        banned_ids=never_sampled(tokenizer, num_logits, name_or_path),
        sampling=sampling_of(generation, name_or_path),
        generation_end_ids=end_ids_of(generation),
        warnings=chosen.warnings,
    )


def is_known_family(name_or_path: str, *, revision: str | None = None) -> bool:
    """Whether a checkpoint is of one of `FAMILIES`. OSError if nothing was found."""
    kind = find_model(name_or_path, revision=revision)[0].read_config().get("model_type")
    return any(kind in family.model_types for family in FAMILIES)


def _family(settings: Mapping[str, Any], name: str) -> type[VisionLanguageModel]:
    """The family of a config.json. ValueError names those that there are."""
    kind = settings.get("model_type")
    found = next((family for family in FAMILIES if kind in family.model_types), None)
    if found is None:
        known = ", ".join(t for family in FAMILIES for t in family.model_types)
        raise ValueError(f"{name} is a {kind!r} model; vzoom runs {known}")
    return found


def _dtype(asked: str, settings: Mapping[str, Any], folder: CheckpointFolder, device: torch.device) -> torch.dtype:
    """The dtype to load in. ValueError if there is none of this name."""
    if asked not in _DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(_DTYPES)}, got {asked!r}")
    if asked != "auto":
        return getattr(torch, asked)
    own = _own_dtype(settings, folder)
    if device.type == "cpu" and not (own == torch.bfloat16 and cpu_has_bfloat16()):
        return torch.float32
    return own


def _own_dtype(settings: Mapping[str, Any], folder: CheckpointFolder) -> torch.dtype:
    """What config.json says, else the dtype of the first tensor of the files."""
    text = settings.get("text_config") or {}
    said = [part[key] for part in (settings, text) for key in ("dtype", "torch_dtype") if part.get(key)]
    if said:
        if str(said[0]) not in _DTYPES[1:]:
            raise ValueError(
                f"{folder.name}: its config.json says dtype {said[0]!r}: name one of {', '.join(_DTYPES[1:])}"
            )
        return getattr(torch, said[0])
    floating = (one.dtype for one in folder.weights().values() if str(one.dtype).removeprefix("torch.") in _DTYPES)
    return next(floating, torch.float32)


def cpu_has_bfloat16() -> bool:
    """Whether our kernels multiply bfloat16 on this CPU as fast as the memory gives it (AVX512_BF16)."""
    native = extension.native()
    return native is not None and native.isa() == "avx512bf16"


def _without_weights(folder: CheckpointFolder, family: type[VisionLanguageModel], dtype: torch.dtype) -> Any:
    """transformers' model as config.json describes it, on the meta device: tensors with shapes and no values."""
    # Imported here: transformers takes seconds, and `vzoom --help` must not.
    import transformers

    config = getattr(transformers, family.config_class).from_pretrained(folder.path)
    for part in (config, config.text_config, config.vision_config):
        part.dtype = dtype  # a saved model says its dtype, and that it is not quantised any more
        if hasattr(part, "quantization_config"):
            del part.quantization_config
    for part in (config, config.text_config, config.vision_config):  # a saved model says its dtype
        part.dtype = dtype
    with torch.device("meta"):
        # Never trust_remote_code: with False, an auto_map is passed over and nothing is asked.
        hf = transformers.AutoModelForImageTextToText.from_config(config, dtype=dtype, trust_remote_code=False)
    hf.tie_weights()  # transformers 5.0 does not tie on the meta device
    hf.config.name_or_path = hf.name_or_path = folder.name
    if (folder.path / "generation_config.json").is_file():
        hf.generation_config = transformers.GenerationConfig.from_pretrained(folder.path)
    return hf


def _need(hf: Any, config: ZoomConfig, max_sessions: int) -> MemoryNeed:
    text = hf.config.text_config
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return MemoryNeed(
        num_weights=sum(one.numel() for one in hf.parameters()),  # tied ones once
        values_per_token=2 * text.num_hidden_layers * text.num_key_value_heads * head_dim,
        max_total_tokens=config.max_total_tokens,
        max_sessions=max_sessions,
        dtype=hf.dtype,
    )


def _fill(
    hf: Any, stored: Mapping[str, StoredTensor], device: torch.device, name: str, progress: Progress | None
) -> None:
    """Give a model of the meta device its memory, and read every tensor to its place, in the order of the files."""
    placed = new_weights(hf, qkv_parameters(hf.model.language_model.layers), device)
    hf.load_state_dict(placed, strict=True, assign=True)
    waiting = {id(one): (stored[name], one) for name, one in placed.items()}.values()
    total = sum(one.nbytes for _, one in waiting)
    done = told = 0
    for source, one in sorted(waiting, key=lambda pair: _place(pair[0])):
        source.write_to(one.detach())
        done += one.nbytes
        if progress is not None and done - told >= _REPORT_BYTES:
            told = done
            progress(f"loading {name}: {done / 1e9:.1f} of {total / 1e9:.1f} GB")
    _compute_buffers(hf, device)
    unread = [name for name, one in (*hf.named_parameters(), *hf.named_buffers()) if one.is_meta]
    assert not unread, f"{unread} have no values"


def _place(source: StoredTensor) -> tuple[str, int]:
    return (str(source.path), source.offset) if isinstance(source, FileTensor) else ("", 0)


def _compute_buffers(hf: Any, device: torch.device) -> None:
    """Compute what no file holds: the frequencies of rotary embeddings, on the CPU as transformers does."""
    for module in hf.modules():
        names = module._non_persistent_buffers_set
        if not names:
            continue
        assert not list(module.parameters(recurse=False)), "its weights would be made anew"
        for name in names:
            empty = torch.full_like(getattr(module, name), torch.nan, device="cpu")
            module.register_buffer(name, empty, persistent=False)
        hf._init_weights(module)
        for name in names:
            setattr(module, name, getattr(module, name).to(device))


def _check_same_tokens(folder: CheckpointFolder, adapter: CheckpointFolder) -> None:
    """ValueError if the adapter brings a tokenizer that has other tokens: it was trained with those."""
    file = adapter.path / "tokenizer.json"
    if not file.is_file() or adapter.path == folder.path:
        return
    if (base := folder.path / file.name).is_file() and base.read_bytes() == file.read_bytes():
        return
    own, other = (load_tokenizer(one).get_vocab() for one in (folder, adapter))
    if differing := sorted(token for token, _ in own.items() ^ other.items()):
        raise ValueError(
            f"adapter {adapter.name} was trained with another tokenizer than {folder.name} has: {len(differing)} "
            f"tokens differ, the first is {differing[0]!r}. Load a copy of the base with the adapter's tokenizer in it"
        )


def check_trainable(name_or_path: str) -> None:
    """Hold a checkpoint to being whole weights, as training reads them (by transformers) and writes them.

    Raises:
        OSError: nothing was found.
        ValueError: it is quantised, or an adapter or has one.
    """
    folder, adapter = find_model(name_or_path)
    if adapter is not None:
        raise ValueError(
            f"{name_or_path} has an adapter, and training begins from whole weights: merge it with PEFT "
            "(merge_and_unload, then save_pretrained) and train the result"
        )
    quantisation = read_quantisation(folder.read_config(), name_or_path)
    if quantisation is not None:
        raise ValueError(
            f"{name_or_path} is quantised ({quantisation.scheme}), and training begins from whole weights: name the "
            "model that was not quantised"
        )


def load_tokenizer(folder: CheckpointFolder) -> Any:
    """transformers' tokenizer of a checkpoint. Code that it brings is not run, nor asked about.

    Raises:
        ValueError: it is a slow one.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder.path, trust_remote_code=False)
    backend_of(tokenizer, folder.name)  # better known now than at the first question
    return tokenizer


def backend_of(tokenizer: Any, name: str) -> Any:
    """What a fast tokenizer of transformers is made around. ValueError if the tokenizer of `name` is a slow one."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ValueError(
            f"the tokenizer of {name} is a slow one ({type(tokenizer).__name__}): vzoom needs its tokenizer.json"
        )
    return backend


def load_patch_spec(name_or_path: str) -> PatchSpec:
    """The patch geometry of a folder or hub id. ValueError if it is no Qwen-VL checkpoint."""
    return patch_spec_of(find_model(name_or_path)[0])


def patch_spec_of(folder: CheckpointFolder) -> PatchSpec:
    """The patch geometry of a checkpoint. ValueError if it is no Qwen-VL checkpoint, or images and videos differ."""
    both = folder.read_json("processor_config.json") or {}
    preprocessor = folder.read_json("preprocessor_config.json") or both.get("image_processor")
    if preprocessor is None:
        raise ValueError(
            f"{folder.name} has neither preprocessor_config.json nor processor_config.json: copy one from the base"
        )
    spec = PatchSpec.from_dict(preprocessor, folder.name)
    of_videos = folder.read_json("video_preprocessor_config.json") or both.get("video_processor") or {}
    known = ("patch_size", "temporal_patch_size", "merge_size", "image_mean", "image_std", "rescale_factor")
    stated = {name: of_videos[name] for name in known if name in of_videos}
    if PatchSpec.from_dict(preprocessor | stated, folder.name) != spec:
        raise ValueError(f"{folder.name}: its files cut images and videos into different patches, which vzoom does not")
    return replace(spec, enlarges_videos=(folder.read_json("config.json") or {}).get("model_type") == "qwen3_vl")


def never_sampled(tokenizer: Any, num_logits: int, name: str) -> tuple[int, ...]:
    """Ids that no model may write. A trainer leaves them out of its probabilities as the sampler does.

    Args:
        tokenizer: transformers' own.
        num_logits: how many ids the model scores.
        name: the checkpoint's, for errors.

    Raises:
        ValueError: the tokenizer has no such control tokens.
    """
    control = (token_id(tokenizer, token, name) for token in (*_VISUAL_TOKENS, _START_OF_TURN))
    # Rows of the embedding beyond the tokenizer's vocabulary are padding and decode to nothing.
    return (*control, *range(len(tokenizer), num_logits))


def _device(name: str) -> torch.device:
    """ValueError if there is no such device here."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdigit()):
        raise ValueError(f"device must be auto, cpu, cuda or cuda:N, got {name!r}")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count() if torch.cuda.is_available() else "no"
        raise ValueError(f"device {name!r}: torch sees {found} CUDA device (`vzoom doctor` says why); use cpu")
    return torch.device(name)


def token_id(tokenizer: Any, token: str, name: str) -> int:
    """The one id of a control token. ValueError if the tokenizer of `name` has none."""
    ids = tokenizer.encode(token, add_special_tokens=False)
    if len(ids) != 1:
        raise ValueError(f"the tokenizer of {name} has no token {token}: it is not a Qwen-VL tokenizer")
    return int(ids[0])
