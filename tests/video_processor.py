"""What transformers' own video processors make of clips: golden files, and the live comparison where torchvision loads.

    pip install --no-deps torchvision && python tests/video_processor.py

writes tests/golden/video_tokens.json. torchvision on PyPI is built for CUDA: beside a CPU build of torch its operators
are missing and it refuses to load. The processors use none of them, so the two that it asks for are declared here.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import tempfile
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from checkpoints import FAMILIES, SPECIALS, config_of, write_tokenizer
from protocols import DIRECT

from vzoom.config import ZoomConfig
from vzoom.video.patches import PatchSpec

GOLDEN = Path(__file__).parent / "golden" / "video_tokens.json"
PROTOCOL = DIRECT.override(name="video tokens", frame={"encoding": "video"})
CONFIG = ZoomConfig(protocol=PROTOCOL, min_pixels=3136, max_pixels=20000)
FPS = 30.0  # of the file that the frames are of


@dataclass(frozen=True)
class Case:
    """Clips of one conversation: indices of their frames in a file of `FPS`, and their size in pixels."""

    clips: tuple[tuple[int, ...], ...]
    size_hw: tuple[int, int]

    def frames(self, clip: int) -> np.ndarray:
        """Noise with flat parts, so that resizing overshoots and clips."""
        made = np.random.default_rng([clip, *self.size_hw]).integers(
            0, 256, (len(self.clips[clip]), *self.size_hw, 3), dtype=np.uint8
        )
        made[:, : self.size_hw[0] // 3, : self.size_hw[1] // 2] = 0
        made[:, self.size_hw[0] // 4 : self.size_hw[0] // 3] = 255
        return made

    def times(self, clip: int) -> tuple[float, ...]:
        return tuple(index / FPS for index in self.clips[clip])

    def spacing(self, clip: int) -> float:
        times = self.times(clip)
        return (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else 0.0


# A long glance, at half a frame per second; zooms of an even and of an odd number of frames; a single frame.
CASES = {
    "fits": Case((tuple(range(0, 480, 60)), (15, 30, 45, 60), (300, 308, 315, 323, 330), (7,)), (56, 84)),
    "shrunk": Case((tuple(range(0, 720, 120)), (600, 607, 615)), (180, 320)),
    "enlarged": Case(((0, 30), (3, 6, 9, 12, 15, 18, 21)), (40, 45)),
}


def spec_of(family: str) -> PatchSpec:
    """The tests' checkpoints have patches of 14 pixels in every family."""
    return PatchSpec(enlarges_videos=family == "qwen3_vl")


def around(clip: int) -> tuple[str, str]:
    """The text before and after a clip."""
    return f"<|im_start|>user\nclip {clip}:\n", "\nlook é 東<|im_end|>\n"


def placeholder(family: str) -> str:
    """What stands for a clip in a text. Qwen3-VL's processor brings the marks of its vision blocks along, one pair for
    each temporal patch."""
    return "<|video_pad|>" if family == "qwen3_vl" else "<|vision_start|><|video_pad|><|vision_end|>"


def load_torchvision() -> None:
    """Import torchvision. ModuleNotFoundError if there is none."""
    if importlib.util.find_spec("torchvision") is None:
        raise ModuleNotFoundError("torchvision is not installed")
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision  # noqa: F401


def processor_of(family: str, spec: PatchSpec, limits: dict[str, int]) -> Any:
    """The family's own processor, with the tests' tokenizer."""
    import transformers
    from transformers import PreTrainedTokenizerFast

    with tempfile.TemporaryDirectory() as folder:
        write_tokenizer(Path(folder))
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, extra_special_tokens=SPECIALS)
    name = {"qwen2_vl": "Qwen2VL", "qwen2_5_vl": "Qwen2_5_VL", "qwen3_vl": "Qwen3VL"}[family]
    kind = "Qwen3VL" if family == "qwen3_vl" else "Qwen2VL"
    video_processor = getattr(transformers, f"{kind}VideoProcessor")(
        size=limits,
        patch_size=spec.patch_size,
        image_mean=list(spec.mean),
        image_std=list(spec.std),
        do_sample_frames=False,
        cap_pixels_per_frame=False,
    )
    return getattr(transformers, f"{name}Processor")(
        image_processor=transformers.Qwen2VLImageProcessor(), tokenizer=tokenizer, video_processor=video_processor
    )


def by_transformers(family: str, case: Case) -> dict[str, Any]:
    """A conversation of one turn for each clip: ids [T]; the grid of each clip and, of Qwen2.5-VL, its seconds per
    temporal patch; positions [3, T], and where what is generated stands by transformers' rope_deltas; pixels
    [rows, values]."""
    from transformers import AutoModelForImageTextToText

    limits = {"shortest_edge": CONFIG.min_pixels, "longest_edge": CONFIG.max_pixels}
    processor = processor_of(family, spec_of(family), limits)
    is_timed = family == "qwen3_vl"
    made: list[dict[str, Any]] = []
    for clip, indices in enumerate(case.clips):
        frames, listed = case.frames(clip), list(indices)
        if is_timed and len(frames) == 1:  # which its processor refuses: a clip has two frames at least
            frames, listed = frames.repeat(2, axis=0), listed * 2
        count = len(frames)  # Qwen3-VL's limits are those of the whole clip
        timed = {"total_num_frames": len(frames), "fps": FPS, "frames_indices": listed}
        spaced = {"total_num_frames": len(frames), "fps": 1 / (case.spacing(clip) or 1), "frames_indices": None}
        before, after = around(clip)
        one = processor(
            text=[before + placeholder(family) + after],
            videos=[frames],
            size={name: value * (count if is_timed else 1) for name, value in limits.items()},
            video_metadata=[timed if is_timed else spaced],
        )
        made.append(dict(one))
    ids = [token for one in made for token in one["input_ids"][0]]
    grids = [[int(x) for x in one["video_grid_thw"][0]] for one in made]
    seconds = [float(one["second_per_grid_ts"][0]) for one in made] if family == "qwen2_5_vl" else []
    model = AutoModelForImageTextToText.from_config(config_of(family, layers=1)).model
    batch = torch.tensor([ids])
    inputs: dict[str, Any] = {"video_grid_thw": torch.tensor(grids)}
    inputs["mm_token_type_ids"] = 2 * (batch == model.config.video_token_id).int()
    if seconds:
        inputs["second_per_grid_ts"] = torch.tensor(seconds)
    positions, deltas = model.get_rope_index(batch, **inputs)
    pixels = torch.cat([torch.as_tensor(np.asarray(one["pixel_values_videos"])) for one in made])
    return {
        "ids": ids,
        "grids": grids,
        "seconds": seconds,
        "positions": positions[:, 0],
        "after": int(deltas[0]) + len(ids),
        "pixels": pixels,
    }


def digest(tensor: torch.Tensor) -> str:
    """Of all its bits."""
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()


def packed(made: dict[str, Any]) -> dict[str, Any]:
    """A case for the golden file: equal ids as [id, how often], tensors as digests."""
    ids = [[value, len(list(same))] for value, same in groupby(made["ids"])]
    return made | {"ids": ids, "positions": digest(made["positions"].long()), "pixels": digest(made["pixels"].float())}


def main() -> None:
    load_torchvision()
    golden = {
        f"{family} {name}": packed(by_transformers(family, case)) for family in FAMILIES for name, case in CASES.items()
    }
    GOLDEN.parent.mkdir(exist_ok=True)
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in golden.items())
    GOLDEN.write_text(f"{{\n{lines}\n}}\n")


if __name__ == "__main__":
    main()
