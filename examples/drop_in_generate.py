"""Zoom inside transformers' own generate(): vzoom's pages hold the keys and values, the rest is stock.

    python examples/drop_in_generate.py
    python examples/drop_in_generate.py --video match.mp4 --question "Who scored first?" --model zsgvivo/videozoomer

Every clip is spliced into the warm cache, so that what was fed stays fed. `vzoom.load` does all of this by itself; this
is for programs that already have a model and a loop of their own.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from inputs import arguments
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

import vzoom
from vzoom.protocol import (
    ImagePart,
    Part,
    cut_turn,
    glance_timestamps,
    parse_turn,
    prompt,
    stops,
    tool_turn,
    zoom_timestamps,
)
from vzoom.types import Answer
from vzoom.zoomer import embedded_path


def main() -> None:
    args = arguments(__doc__)
    folder = embedded_path() if args.model == "embedded" else args.model
    settings_file = Path(folder) / "vzoom.json"  # how the checkpoint looks at videos, if it says so
    saved = json.loads(settings_file.read_text()) if settings_file.exists() else {}
    config = vzoom.ZoomConfig.from_dict(saved, str(folder))
    protocol, ends = config.protocol, stops(config.protocol)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer, processor = AutoTokenizer.from_pretrained(folder), AutoImageProcessor.from_pretrained(folder)
    merge = processor.merge_size

    def inputs_of(parts: Sequence[Part], frames: Sequence[np.ndarray]) -> dict[str, Any]:
        """A turn as AutoProcessor makes it, which needs torchvision: one image token for each visual token."""
        pixels: Mapping[str, Any] = processor(images=list(frames), return_tensors="pt")
        counts = (pixels["image_grid_thw"].prod(dim=1) // merge**2).tolist()
        text = "".join("<|image_pad|>" * counts[p.index] if isinstance(p, ImagePart) else p.text for p in parts)
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **pixels}
        if "mm_token_type_ids" in inspect.signature(model.forward).parameters:  # transformers 5.3 and newer ask for it
            inputs["mm_token_type_ids"] = (ids == model.config.image_token_id).int()
        return inputs

    vzoom.enable(model, pool_tokens=config.max_total_tokens)  # the line that makes it vzoom's
    cache = vzoom.ZoomCache(model)
    settings = {"past_key_values": cache, "stop_strings": list(ends), "tokenizer": tokenizer, "do_sample": False}
    settings |= {"max_new_tokens": config.max_new_tokens, "pad_token_id": tokenizer.pad_token_id}

    def whole_turn(ids: torch.Tensor, fed: int) -> torch.Tensor:
        """The rest of a turn that stopped at a tag in a thought, where tags are talk."""
        while cut_turn(text := tokenizer.decode(ids[0, fed:]), protocol) is None and text.rstrip().endswith(ends):
            ids = model.generate(ids, **settings)
        return ids

    with vzoom.open_video(args.video) as video:
        glance = video.frames_at(glance_timestamps(video.info, config))
        opening = inputs_of(prompt(args.question, video.info, glance.pts_seconds, config), list(glance.frames))
        fed = opening["input_ids"].shape[1]
        ids = whole_turn(model.generate(**opening, **settings), fed)
        for zooms_left in reversed(range(config.max_zooms)):
            text = tokenizer.decode(ids[0, fed:])
            print(text)
            call = parse_turn(text, protocol, video_fps=video.info.fps)
            if not isinstance(call, vzoom.ZoomCall):
                break
            times = zoom_timestamps(call, video.info, config)
            if not isinstance(times, list):  # the call asks for something that the video does not have
                print(times.detail)
                break
            clip = video.frames_at(times)
            shown = [(call, clip.pts_seconds)]
            turn = tool_turn(shown, video.info, config, question=args.question, zooms_left=zooms_left)
            ids = cache.append(ids, inputs_of(turn, list(clip.frames)))  # the splice: only the new turn is fed
            fed = ids.shape[1]
            ids = whole_turn(model.generate(ids, **settings), fed)
        outcome = parse_turn(tokenizer.decode(ids[0, fed:]), protocol, video_fps=video.info.fps)
    print(f"answer: {outcome.text if isinstance(outcome, Answer) else 'none'}, {ids.shape[1]} tokens in the cache")


if __name__ == "__main__":
    main()
