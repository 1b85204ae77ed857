"""Is splicing exact for this checkpoint, on this machine? Replay a conversation and compare with a full prefill.

Before that, every tensor of the loaded model is held to the checkpoint's files.

The conversation runs through the engine: glance, zooms, splices, one token at a time. Then stock transformers gets the
same ids, frames and nothing else, in one run, with positions of its own, and the logits at all sampled tokens are
compared. In float32 they may differ by 1e-5 of the largest logit: two orders of summation. In half precision each run
has an error of its own, so both are held against a float32 run of the same weights, and the splice may err twice what
the stock run errs.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from os import PathLike
from typing import Any

import torch
from torch import Tensor

from ..config import VideoOptions, ZoomConfig
from ..engine import Engine, Request, ScriptedSession
from ..models import Checkpoint, WeightComparison, compare_weights, full_prefill, stock_images, video_pixels
from ..protocol import glance_timestamps, render_turn
from ..types import Answer, Clip, Event, Malformed, Trajectory, TurnOpened, VideoInfo, ZoomCall
from ..video import ClipCache, VideoInput
from .loading import open_model

FLOAT32_LIMIT = 1e-5  # largest difference over largest logit
HALF_LIMIT = 2.0  # error of the splice over error of the stock run
_QUESTION = "What happens in this video?"
_MAX_NEW_TOKENS = 512  # for the turns of the script, in any tokenizer

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Replay:
    """A conversation that went through the engine: its clips, and the logits [N, V] of its N sampled tokens,
    float32 on the CPU."""

    trajectory: Trajectory
    clips: list[Clip]
    logits_NV: Tensor


@dataclass(frozen=True)
class Exactness:
    """What `verify` found. Errors are largest absolute differences of logits.

    num_tensors: of the model. differing_tensors: names of those that are not what the files hold. not_finite_tensors:
    names of those that hold NaN or infinity. If there are any of either, nothing is replayed.
    difference: splice against the stock run. splice_error, stock_error: either against the float32 run; None in
    float32. equal_argmax: of num_sampled tokens, those whose most likely token is the same in both.
    """

    model: str
    device: str
    dtype: str
    num_tensors: int
    differing_tensors: tuple[str, ...]
    not_finite_tensors: tuple[str, ...]
    num_zooms: int
    num_frames: int
    num_tokens: int
    num_sampled: int
    same_positions: bool
    equal_argmax: int
    largest_logit: float
    difference: float
    splice_error: float | None
    stock_error: float | None

    @property
    def limit(self) -> float:
        return FLOAT32_LIMIT if self.stock_error is None else HALF_LIMIT

    @property
    def ratio(self) -> float:
        """What must be at most `limit`; NaN or infinity if a run gave no finite logits."""
        if self.splice_error is None or self.stock_error is None:
            return _over(self.difference, self.largest_logit)
        return _over(self.splice_error, self.stock_error)

    @property
    def passed(self) -> bool:
        weights_are_right = not self.differing_tensors and not self.not_finite_tensors
        return weights_are_right and self.same_positions and self.ratio <= self.limit


def verify(
    model: str | PathLike[str],
    video: VideoInput,
    *,
    device: str = "auto",
    dtype: str = "auto",
    revision: str | None = None,
    adapter: str | None = None,
    protocol: str | None = None,
    system: str | None = None,
    num_zooms: int = 4,
    options: VideoOptions | None = None,
    progress: Progress = lambda stage: None,
) -> Exactness:
    """Replay a conversation of `num_zooms` zooms into `video` and compare with a full prefill by stock transformers.

    model, device, dtype, revision, adapter, protocol, system as for `vzoom.load`. In half precision the weights become
    float32 in place after the replay, for one more run: 4 bytes per parameter. ValueError if the zooms do not fit in
    the checkpoint's limits, and what `vzoom.load` and the video raise.
    """
    progress(f"loading {model}")
    checkpoint = open_model(
        str(model),
        device=device,
        dtype=dtype,
        revision=revision,
        adapter=adapter,
        protocol=protocol,
        system=system,
    ).checkpoint
    progress("comparing the weights with the files")
    weights = compare_weights(checkpoint)
    if weights.differing or weights.not_finite:
        return _not_replayed(str(model), checkpoint, weights)
    hf, used = checkpoint.model.hf, checkpoint.model.dtype
    # A convolution in TF32 would be the largest difference of all.
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        played = replay(checkpoint, video, num_zooms=num_zooms, options=options, progress=progress)
        config = checkpoint.config
        if config.protocol.frame.encoding == "image":
            pixels = stock_images(str(checkpoint.folder.path), played.clips)
        else:
            pixels = video_pixels(played.trajectory, played.clips, config, checkpoint.patch_spec)
        num_tokens = len(played.trajectory.ids)
        progress(f"one prefill of {num_tokens} tokens")
        stock, positions = full_prefill(hf, played.trajectory, pixels, rule=config.protocol.frame.rope_rule)
        splice_error = stock_error = None
        if used != torch.float32:
            progress(f"one prefill of {num_tokens} tokens in float32")
            placed = str(checkpoint.model.device)
            del checkpoint  # it holds tensors of its own in half precision
            gc.collect()
            exact, _ = full_prefill(hf.float(), played.trajectory, pixels, rule=config.protocol.frame.rope_rule)
            splice_error, stock_error = _apart(played.logits_NV, exact), _apart(stock, exact)
        else:
            placed = str(checkpoint.model.device)
    return Exactness(
        model=str(model),
        device=placed,
        dtype=str(used).removeprefix("torch."),
        num_tensors=weights.num_tensors,
        differing_tensors=weights.differing,
        not_finite_tensors=weights.not_finite,
        num_zooms=num_zooms,
        num_frames=played.trajectory.num_frames,
        num_tokens=num_tokens,
        num_sampled=len(stock),
        same_positions=positions.equal(torch.tensor(played.trajectory.positions)[:, :-1]),
        equal_argmax=int((played.logits_NV.argmax(1) == stock.argmax(1)).sum()),
        largest_logit=float(stock.abs().max()),
        difference=_apart(played.logits_NV, stock),
        splice_error=splice_error,
        stock_error=stock_error,
    )


def _not_replayed(model: str, checkpoint: Checkpoint, weights: WeightComparison) -> Exactness:
    """What is known of a checkpoint whose weights are wrong already."""
    return Exactness(
        model=model,
        device=str(checkpoint.model.device),
        dtype=str(checkpoint.model.dtype).removeprefix("torch."),
        num_tensors=weights.num_tensors,
        differing_tensors=weights.differing,
        not_finite_tensors=weights.not_finite,
        num_zooms=0,
        num_frames=0,
        num_tokens=0,
        num_sampled=0,
        same_positions=False,
        equal_argmax=0,
        largest_logit=math.nan,
        difference=math.nan,
        splice_error=None,
        stock_error=None,
    )


def _apart(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


def _over(a: float, b: float) -> float:
    return a / b if b else (math.inf if a else 0.0)


# ---------------------------------------------------------------- through the engine


class _Listening(Engine):
    """Keeps the logits of one session."""

    def __init__(self, checkpoint: Checkpoint, **settings: Any) -> None:
        super().__init__(checkpoint, **settings)
        self.heard: list[Tensor] = []

    def _run_model(self, batch: Any) -> Tensor:
        logits = super()._run_model(batch)
        self.heard.append(logits.float().cpu())
        return logits.nan_to_num()  # the conversation follows its script; what was heard is judged at its end


def replay(
    checkpoint: Checkpoint,
    video: VideoInput,
    *,
    num_zooms: int,
    options: VideoOptions | None = None,
    progress: Progress = lambda stage: None,
) -> Replay:
    """A scripted conversation: glance, `num_zooms` zooms back and forth in the video, an answer. See `verify`."""
    request = scripted_request(checkpoint, video, num_zooms=num_zooms, options=options)
    num_seen = 0  # clips, the glance among them

    def tell(event: Event) -> None:
        nonlocal num_seen
        if isinstance(event, TurnOpened):
            progress(f"zoom {num_seen} of {num_zooms}" if num_seen else "glance")
            num_seen += event.clip is not None

    with _Listening(checkpoint, max_total_tokens=request.config.max_total_tokens) as engine:
        ((outcome,),) = engine.run([request], on_event=tell)
    trajectory = outcome.unwrap()
    assert outcome.glance is not None
    refused = [turn.outcome for turn in trajectory.turns if isinstance(turn.outcome, Malformed)]
    if refused:
        raise ValueError(
            f"{len(refused)} of {num_zooms} zooms did not fit ({refused[0].error}: {refused[0].detail}): "
            "ask for fewer zooms, or raise the limits in the checkpoint's vzoom.json"
        )
    return Replay(trajectory, [outcome.glance, *outcome.clips], torch.cat(engine.heard))


def scripted_request(
    checkpoint: Checkpoint, video: VideoInput, *, num_zooms: int, options: VideoOptions | None = None
) -> Request:
    """A conversation whose turns are written already: `num_zooms` zooms back and forth in the video, an answer."""
    if num_zooms < 0:
        raise ValueError(f"the number of zooms must be 0 or more, got {num_zooms}")
    config = replace(
        checkpoint.config,
        max_zooms=num_zooms,
        max_new_tokens=max(_MAX_NEW_TOKENS, checkpoint.config.max_new_tokens),
    )
    cache = ClipCache(options=replace(options or VideoOptions(), device=str(checkpoint.model.device)))
    request = Request.about(video, _QUESTION, checkpoint=checkpoint, clip_cache=cache, config=config)
    info = request.open_video().info
    calls = zoom_calls(info, config)
    write = partial(render_turn, protocol=config.protocol, video_fps=info.fps)
    turns = [write("Look closer.", call) for call in calls] + [write("Seen.", Answer("done"))]
    return replace(request, session=partial(ScriptedSession, turns))


def zoom_calls(video: VideoInfo, config: ZoomConfig) -> list[ZoomCall]:
    """config.max_zooms calls that jump back and forth in the video and bring as many frames as may be shown."""
    if config.max_zooms == 0:
        return []
    num_glance = len(glance_timestamps(video, config))
    num_frames = min(config.zoom_max_frames, (config.max_frames - num_glance) // config.max_zooms)
    if num_frames < 1:
        raise ValueError(
            f"the glance shows {num_glance} frames of {config.max_frames} (max_frames), which leaves none for each of "
            f"{config.max_zooms} zooms: ask for fewer"
        )
    fps = min(video.fps, 8.0, max(2.0, num_frames / video.duration_seconds))
    num_frames = max(1, min(num_frames, int(video.duration_seconds * fps)))
    # Half a frame from where the count would change: times are rounded when they are written.
    seconds = (num_frames + (-0.5 if config.protocol.zoom.rule == "exact" else 0.5)) / fps
    room = max(0.0, video.duration_seconds - seconds)
    starts = [math.floor(room * (0.618 * (i + 1) % 1) * 100) / 100 for i in range(config.max_zooms)]
    return [ZoomCall(start, start + seconds, fps) for start in starts]
