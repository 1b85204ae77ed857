"""Does a conversation on vLLM give what it gives on vzoom's own engine? `vzoom verify --engine vllm`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..config import VideoOptions
from ..engine import Engine, ScriptedSession
from ..models import load_checkpoint_info
from ..types import Trajectory
from ..video import VideoInput
from ..vllm import VllmEngine
from .exactness import scripted_request
from .loading import model_path, open_model

FLOAT32_LIMIT, HALF_LIMIT = 1e-4, 0.1  # of log-probabilities


@dataclass(frozen=True)
class EngineComparison:
    """What `compare_engines` found.

    Attributes:
        model: its name.
        dtype: in which both ran it.
        appends: whether clips were appended to a running request.
        num_zooms: of the conversation; so are num_frames, num_tokens and num_sampled.
        same_tokens: whether both fed the same tokens at the same positions.
        equal_choices: of num_sampled tokens, those that both models would have chosen.
        difference: the largest of their log-probabilities, where the choices are equal.
        tokens_fed: by vLLM.
    """

    model: str
    dtype: str
    appends: bool
    num_zooms: int
    num_frames: int
    num_tokens: int
    num_sampled: int
    same_tokens: bool
    equal_choices: int
    difference: float
    tokens_fed: int

    @property
    def limit(self) -> float:
        return FLOAT32_LIMIT if self.dtype == "float32" else HALF_LIMIT

    @property
    def passed(self) -> bool:
        """In half precision two tokens may be equally likely: one choice in twenty may differ."""
        needed = self.num_sampled if self.dtype == "float32" else 0.95 * self.num_sampled
        return self.same_tokens and self.equal_choices >= needed and self.difference <= self.limit


def compare_engines(
    model: str,
    video: VideoInput,
    *,
    device: str = "auto",
    dtype: str = "auto",
    revision: str | None = None,
    adapter: str | None = None,
    num_zooms: int = 4,
    options: VideoOptions | None = None,
    settings: Mapping[str, Any] | None = None,
    progress: Callable[[str], None] = lambda stage: None,
) -> EngineComparison:
    """Hold one conversation whose turns are written already on both engines, one after the other.

    Args:
        model: as for `vzoom.load`; so are device, dtype, revision and adapter. Of a family that vzoom runs itself.
        video: the conversation is about it.
        num_zooms: how many.
        options: how the video is read.
        settings: of vLLM.
        progress: called with what happens.

    Raises:
        ValueError: the zooms do not fit in the checkpoint's limits, and what `vzoom.load` and the video raise.
    """
    progress(f"loading {model}")
    checkpoint = open_model(model, device=device, dtype=dtype, revision=revision, adapter=adapter).checkpoint
    used = str(checkpoint.model.dtype).removeprefix("torch.")
    request = scripted_request(checkpoint, video, num_zooms=num_zooms, options=options)
    make, sessions = request.session, []

    def listening(*given: Any) -> Any:
        sessions.append(make(*given))
        return sessions[-1]

    request = replace(request, session=listening)
    limit = request.config.max_total_tokens
    progress("a conversation on vzoom's engine")
    with Engine(checkpoint, max_total_tokens=limit) as engine:
        ours = engine.run([request], keep_clips=False)[0][0].unwrap()
    progress("starting vLLM")
    info = load_checkpoint_info(model_path(model), revision=revision, adapter=adapter)
    with VllmEngine(info, config=request.config, max_total_tokens=limit, dtype=used, settings=settings or {}) as other:
        progress("a conversation on vLLM")
        theirs = other.run([request], keep_clips=False)[0][0].unwrap()
        tokens_fed, appends = other.stats().tokens_fed, other.server.appends
    heard: list[list[tuple[int, float]]] = [one.heard for one in sessions if isinstance(one, ScriptedSession)]
    pairs = list(zip(*heard, strict=True))
    equal = [abs(a[1] - b[1]) for a, b in pairs if a[0] == b[0]]
    return EngineComparison(
        model=model,
        dtype=used,
        appends=appends,
        num_zooms=len(theirs.zooms),
        num_frames=theirs.num_frames,
        num_tokens=len(theirs.ids),
        num_sampled=len(pairs),
        same_tokens=_fed(ours) == _fed(theirs),
        equal_choices=len(equal),
        difference=max(equal, default=float("inf")),
        tokens_fed=tokens_fed,
    )


def _fed(trajectory: Trajectory) -> tuple[Any, ...]:
    return trajectory.ids, trajectory.positions, trajectory.visuals
