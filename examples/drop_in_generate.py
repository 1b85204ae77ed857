"""Zoom inside transformers' own generate(): vzoom's pages hold the keys and values, the rest is stock.

    python examples/drop_in_generate.py
    python examples/drop_in_generate.py --video match.mp4 --question "Who scored first?" --model zsgvivo/videozoomer

Every clip is spliced into the warm cache, so that what was fed stays fed. `vzoom.load` does all of this by itself; this
is for programs that already have a model and a loop of their own.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from inputs import arguments
from transformers import AutoModelForImageTextToText, AutoTokenizer

import vzoom
from vzoom.protocol import (
    ImagePart,
    Part,
    TextPart,
    VideoPart,
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

PLACES: dict[type[Part], str] = {ImagePart: "<|image_pad|>", VideoPart: "<|video_pad|>"}


def main() -> None:
    args = arguments(__doc__)
    folder = embedded_path() if args.model == "embedded" else args.model
    settings_file = Path(folder) / "vzoom.json"  # how the checkpoint looks at videos, if it says so
    saved = json.loads(settings_file.read_text()) if settings_file.exists() else {}
    config = vzoom.ZoomConfig.from_dict(saved, str(folder))
    protocol = config.protocol
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer, processor = AutoTokenizer.from_pretrained(folder), vzoom.ZoomProcessor(str(folder), config)

    def inputs_of(parts: Sequence[Part], clip: vzoom.Clip) -> dict[str, torch.Tensor]:
        """A turn as the model's own processor makes it: one image or video token for each visual token."""
        text = "".join(part.text if isinstance(part, TextPart) else PLACES[type(part)] for part in parts)
        is_video = protocol.frame.encoding == "video"
        return processor(text, videos=[clip]) if is_video else processor(text, images=clip.images)

    vzoom.enable(model, pool_tokens=config.max_total_tokens)  # the line that makes it vzoom's
    cache = vzoom.ZoomCache(model)
    ends = stops(protocol)
    settings = {"past_key_values": cache, "stop_strings": list(ends), "tokenizer": tokenizer, "do_sample": False}
    settings |= {"max_new_tokens": config.max_new_tokens, "pad_token_id": tokenizer.pad_token_id}

    def whole_turn(ids: torch.Tensor, fed: int) -> torch.Tensor:
        """The rest of a turn that stopped at a tag in a thought, where tags are talk."""
        while cut_turn(text := tokenizer.decode(ids[0, fed:]), protocol) is None and text.rstrip().endswith(ends):
            ids = model.generate(ids, **settings)
        return ids

    with vzoom.open_video(args.video) as video:
        info = video.info
        glance = video.frames_at(glance_timestamps(info, config))
        opening = inputs_of(prompt(args.question, info, glance.pts_seconds, config), glance)
        fed = opening["input_ids"].shape[1]
        ids = whole_turn(model.generate(**opening, **settings), fed)
        for zooms_left in reversed(range(config.max_zooms)):
            text = tokenizer.decode(ids[0, fed:])
            print(text)
            call = parse_turn(text, protocol, video_fps=info.fps)
            if not isinstance(call, vzoom.ZoomCall):
                break
            times = zoom_timestamps(call, info, config)
            if not isinstance(times, list):  # the call asks for something that the video does not have
                print(times.detail)
                break
            clip = video.frames_at(times)
            turn = tool_turn([(call, clip.pts_seconds)], info, config, question=args.question, zooms_left=zooms_left)
            ids = cache.append(ids, inputs_of(turn, clip))  # the splice: only the new turn is fed
            fed = ids.shape[1]
            ids = whole_turn(model.generate(ids, **settings), fed)
    outcome = parse_turn(tokenizer.decode(ids[0, fed:]), protocol, video_fps=info.fps)
    print(f"answer: {outcome.text if isinstance(outcome, Answer) else 'none'}, {ids.shape[1]} tokens in the cache")


if __name__ == "__main__":
    main()
