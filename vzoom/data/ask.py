"""Questions asked of a model so that the same questions get the same answers to the last bit.

Which tokens are fed together decides the last bits of the logits. So each call has an engine and a cache of visual
features of its own, and clips come in when the model waits for them, not when they happen to be ready.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from os import PathLike
from typing import TYPE_CHECKING

from ..config import Sampling, ZoomConfig
from ..engine import Engine, Job
from ..models import FeatureCache
from ..types import Failed, Finished, Trajectory

if TYPE_CHECKING:
    from ..zoomer import Zoomer


@dataclass(frozen=True)
class VideoQuestion:
    """What `ask_alone` asks.

    Args:
        path: the video.
        text: the question, options included.
        config: the conversation's limits.
        sampling: rollout i draws with seed `sampling.seed` + i.
        num_rollouts: conversations about this question.
    """

    path: str | PathLike[str]
    text: str
    config: ZoomConfig
    sampling: Sampling
    num_rollouts: int = 1


def ask_alone(
    zoomer: Zoomer, questions: Sequence[VideoQuestion], *, max_sessions: int
) -> list[tuple[Trajectory | Exception, ...]]:
    """Hold the conversations, undisturbed by whatever was asked before.

    Args:
        zoomer: the model. Its engine is not used, its cache of frames is.
        questions: asked in one batch.
        max_sessions: conversations at once.

    Returns:
        For each question, in order, its rollouts: the conversation, or the error for which there is none.
    """
    spec = zoomer.checkpoint.patch_spec
    engine = Engine(
        zoomer.checkpoint,
        max_sessions=max_sessions,
        max_total_tokens=max(question.config.max_total_tokens for question in questions),
        overlap=False,
        feature_cache=FeatureCache(),
    )
    done: dict[int, Trajectory | Exception] = {}
    try:
        for question in questions:
            opened = partial(zoomer.clip_cache.open, question.path, config=question.config, spec=spec)
            engine.add(Job(opened, question.text, question.config, question.sampling, question.num_rollouts))
        for event in engine.run():
            if isinstance(event, Finished):
                done[event.session] = event.trajectory
            elif isinstance(event, Failed):
                done[event.session] = event.error
    finally:
        engine.close()
    numbers = iter(range(len(done)))
    return [tuple(done[next(numbers)] for _ in range(question.num_rollouts)) for question in questions]
