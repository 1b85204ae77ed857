"""Why a conversation did not end in a right answer, told from its stored trajectory and the evidence, if it is known.

The first that holds:

    right             the verdict says so
    not_asked         the video is missing
    failed            the conversation ended in an error
    unjudged          no verdict could be had
    out_of_budget     no answer: a limit of rounds or tokens came first
    malformed         no answer, and the last turn cannot be read as anything; or an answer that names no option
    misread           wrong, and every interval of the evidence was shown by a frame of the glance or of a zoom
    out_of_budget     wrong, and a zoom was refused for lack of frames, tokens or zooms
    malformed         wrong without a clip, and a turn was meant as a call but could not be carried out
    never_zoomed      wrong without a clip
    zoomed_elsewhere  wrong, with clips that do not show all of the evidence
    zoomed_in_vain    wrong, with clips, and nobody says where the evidence is
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from ...synthetic import is_hit
from ...types import CallError, StopReason
from ..item import Item, Verdict


class Failure(StrEnum):
    RIGHT = "right"
    NEVER_ZOOMED = "never_zoomed"
    ZOOMED_ELSEWHERE = "zoomed_elsewhere"
    ZOOMED_IN_VAIN = "zoomed_in_vain"
    MISREAD = "misread"
    OUT_OF_BUDGET = "out_of_budget"
    MALFORMED = "malformed"
    UNJUDGED = "unjudged"
    NOT_ASKED = "not_asked"
    FAILED = "failed"


MEANING = {
    Failure.RIGHT: "right",
    Failure.NEVER_ZOOMED: "never zoomed",
    Failure.ZOOMED_ELSEWHERE: "zoomed elsewhere",
    Failure.ZOOMED_IN_VAIN: "zoomed, and still wrong",
    Failure.MISREAD: "saw it and misread",
    Failure.OUT_OF_BUDGET: "ran out of budget",
    Failure.MALFORMED: "malformed",
    Failure.UNJUDGED: "no verdict",
    Failure.NOT_ASKED: "video missing",
    Failure.FAILED: "ended in an error",
}

# What the model asked for is clear, but there was not enough left of something.
_REFUSED = {CallError.OVER_BUDGET, CallError.NO_ZOOMS_LEFT}
# The file's fault, or none at all: neither a lack of budget nor of form.
_EXCUSED = {CallError.UNREADABLE, CallError.FRAME_ASKED}


def failure_of(item: Item, verdict: Verdict, trajectory: Mapping[str, Any] | None) -> Failure:
    """Why the answer is not right.

    Args:
        item: with its evidence.
        verdict: on the answer.
        trajectory: as `Trajectory.to_json` gives it; None if the item was not asked.
    """
    if verdict.kind == "failed":
        return Failure.FAILED
    if verdict.kind == "missing_video" or trajectory is None:
        return Failure.NOT_ASKED
    if verdict.kind == "right":
        return Failure.RIGHT
    if verdict.kind == "unjudged":
        return Failure.UNJUDGED
    errors = [CallError(turn["error"]) for turn in trajectory["turns"] if turn["error"] is not None]
    if trajectory["stop_reason"] != StopReason.ANSWERED:
        last = trajectory["turns"][-1]["error"] if trajectory["turns"] else None
        is_form = last is not None and CallError(last) not in _REFUSED | _EXCUSED
        return Failure.MALFORMED if is_form else Failure.OUT_OF_BUDGET
    if verdict.kind in ("unanswered", "unparsable"):
        return Failure.MALFORMED
    if saw_evidence(item, trajectory):
        return Failure.MISREAD
    if _REFUSED & set(errors):
        return Failure.OUT_OF_BUDGET
    if not trajectory["zooms"]:
        return Failure.MALFORMED if set(errors) - _EXCUSED else Failure.NEVER_ZOOMED
    return Failure.ZOOMED_ELSEWHERE if item.evidence else Failure.ZOOMED_IN_VAIN


def saw_evidence(item: Item, trajectory: Mapping[str, Any]) -> bool | None:
    """Whether some frame showed each interval of the evidence; None if nobody says what the evidence is."""
    if not item.evidence:
        return None
    return is_hit(item.evidence, shown_seconds(trajectory))


def shown_seconds(trajectory: Mapping[str, Any]) -> list[float]:
    """The times of all frames that the model saw: the glance's and the zooms'."""
    return [*trajectory["glance_seconds"], *(t for zoom in trajectory["zooms"] for t in zoom["pts_seconds"])]
