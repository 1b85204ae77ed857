"""Whether a prompt that is appended to a running request gives what the whole prompt gives: asked of vLLM at start."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..config import ZoomConfig
from ..types import Clip
from .prompts import PlacedFrame, frames_of

if TYPE_CHECKING:
    from .server import Server

_NUM_SAMPLED = 4
_FLOAT32_LIMIT, _HALF_LIMIT = 1e-3, 0.1  # of log-probabilities: two orders of summation


async def appending_is_exact(server: Server, config: ZoomConfig, *, is_float32: bool) -> bool:
    """Two turns with a frame each, appended to one request, and as one prompt that reads no cache.

    Args:
        server: vLLM.
        config: its pixel limits decide the size of the frames.
        is_float32: whether the model computes in float32.
    """
    vocabulary = server.vocabulary
    side = 4 * server.patch_spec.factor
    rows, columns = vocabulary.grid_hw(side, side, config)
    num_visual = (rows // vocabulary.merge) * (columns // vocabulary.merge)
    start, end = (vocabulary.codec.encode(f"<|vision_{name}|>") for name in ("start", "end"))
    drawn = np.random.default_rng(0)

    def turn(first: list[int]) -> tuple[list[int], PlacedFrame]:
        pixels = drawn.integers(0, 256, (1, side, side, 3), dtype=np.uint8)
        (frame,) = frames_of(Clip(pixels, (0.0,), (0,), (False,)), config, server.patch_spec)
        text = vocabulary.codec.encode_plain("Two frames of a film, one after the other.")
        ids = [*first, *text, *start, *[vocabulary.image_token_id] * num_visual, *end, *text]
        return ids, PlacedFrame(frame, len(first) + len(text) + len(start), num_visual)

    def params(**changes: Any) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        delta = RequestOutputKind.DELTA
        fixed = {"temperature": 0.0, "logprobs": 0, "ignore_eos": True, "detokenize": False, "output_kind": delta}
        return SamplingParams(max_tokens=_NUM_SAMPLED, **fixed, **changes)

    async def sampled(stream: Any, ids: list[int], frames: list[PlacedFrame], **changes: Any) -> Any:
        prompt = await server.rendered(ids, frames)
        return [one async for one in stream.sample(prompt, params(**changes))]

    first, seen = turn([])
    stream = server.stream(params())
    try:
        written = [token for token, _ in await sampled(stream, first, [seen])]
        second, new = turn(written[-1:])
        appended = await sampled(stream, second, [new])
    finally:
        await stream.close()
    whole = first + written[:-1] + second
    later = PlacedFrame(new.frame, new.offset + len(whole) - len(second), num_visual)
    stream = server.stream(params())
    try:
        expected = await sampled(stream, whole, [seen, later], skip_reading_prefix_cache=True)
    finally:
        await stream.close()
    limit = _FLOAT32_LIMIT if is_float32 else _HALF_LIMIT
    return all(a == b and abs(x - y) <= limit for (a, x), (b, y) in zip(appended, expected, strict=True))
