"""Questions asked of a model: conversations that are the same to the last bit each time, and what answers are worth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..config import Sampling, ZoomConfig
from ..engine import Engine, Outcome, Request, Session, SessionFactory
from ..models import FeatureCache
from ..protocol import Judge, JudgeFailed, Vocabulary, is_right
from ..types import Event, VideoInfo
from .record import Record, reference_of

if TYPE_CHECKING:
    from ..zoomer import Result, Zoomer


def ask_alone(
    zoomer: Zoomer, requests: Sequence[Request], *, max_sessions: int, untagged_answers: bool | None = None
) -> list[list[Outcome]]:
    """Hold conversations so that the same requests get the same answers to the last bit.

    Which tokens are fed together decides the last bits of the logits. So each call has an engine and a cache of visual
    features of its own, and clips come in when the model waits for them, not when they happen to be ready. vLLM makes
    no such promise: there the answers are those of its running engine.

    Args:
        zoomer: the model. Its cache of visual features is not used.
        requests: asked in one batch; `zoomer.request` makes them.
        max_sessions: conversations at once.
        untagged_answers: see `Engine`.

    Returns:
        By request, in order: one outcome per rollout, without the frames that were seen.
    """
    if zoomer.engine != "vzoom":
        if untagged_answers is not None:
            requests = [replace(one, session=_told(one.session, untagged_answers)) for one in requests]
        return zoomer.hold(requests, max_sessions=max_sessions)
    with Engine(
        zoomer.checkpoint,
        max_sessions=max_sessions,
        max_total_tokens=max(request.config.max_total_tokens for request in requests),
        overlap=False,
        feature_cache=FeatureCache(),
        untagged_answers=untagged_answers,
    ) as engine:
        return engine.run(requests, keep_clips=False)


def _told(session: SessionFactory, untagged_answers: bool) -> SessionFactory:
    """Makes sessions whose turns without any tag are answers, or are not."""

    def make(
        question: str, video: VideoInfo, vocabulary: Vocabulary, config: ZoomConfig, sampling: Sampling
    ) -> Session:
        return session(question, video, replace(vocabulary, untagged_answers=untagged_answers), config, sampling)

    return make


def ask_records(
    zoomer: Zoomer,
    records: Sequence[Record],
    *,
    judge: Judge | None = None,
    max_zooms: int | None = None,
    max_sessions: int = 8,
    on_event: Callable[[Event], None] | None = None,
) -> list[dict[str, float]]:
    """Ask questions greedily, and score the answers.

    Args:
        zoomer: the model; its own config holds, not the records'.
        records: without turns, each with its reference answer.
        judge: for questions without options.
        max_zooms: zooms allowed; None is the model's own limit.
        max_sessions: conversations at once.
        on_event: sees what happens.

    Returns:
        `answer_scores` of each record.

    Raises:
        ValueError: the judge gave no verdict on a record: a mean without some of its questions is another mean.
    """
    asked = [(record.video.path, record.question) for record in records]
    results = zoomer.ask_many(asked, max_zooms=max_zooms, max_sessions=max_sessions, on_event=on_event)
    scores = []
    for record, result in zip(records, results, strict=True):
        right = is_right(result.answer, reference_of(record), judge=judge)
        if isinstance(right, JudgeFailed):
            raise ValueError(f"the judge gave no verdict on {record.id}: {right.reason}")
        scores.append(answer_scores(result, right=right))
    return scores


def answer_scores(result: Result, *, right: bool) -> dict[str, float]:
    """What one answer adds to the means of an evaluation.

    Args:
        result: of the question.
        right: whether its answer is.

    Returns:
        accuracy and answered, 0 or 1; mean_zooms and mean_frames, of this conversation.
    """
    return {
        "accuracy": float(right),
        "answered": float(result.answer is not None),
        "mean_zooms": float(len(result.trajectory.zooms)),
        "mean_frames": float(result.trajectory.num_frames),
    }
