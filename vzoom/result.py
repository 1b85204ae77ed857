"""What `Zoomer.ask` returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .types import Clip, Trajectory

if TYPE_CHECKING:
    from .report import Report


@dataclass(frozen=True)
class Result:
    """An answer and how it was reached. clips[i] is what trajectory.zooms[i] brought; seconds is wall time."""

    trajectory: Trajectory
    glance: Clip
    clips: list[Clip]
    seconds: float
    model: str

    @property
    def answer(self) -> str | None:
        """The text of the answer, or None where the model never gave one (see trajectory.stop_reason)."""
        return self.trajectory.answer

    @property
    def report(self) -> Report:
        """A self-contained HTML page of this result: `result.report.save("out.html")`."""
        from .report import Report

        return Report(self)
