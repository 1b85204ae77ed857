"""One self-contained HTML page about one answer: what the model saw, thought and asked for, and what it cost.

Nothing is loaded from anywhere: style, script and images are in the page, and its content security policy forbids
the rest. The model's text, the question and the file name are escaped.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from ..config import ZoomConfig
from ..types import Clip, Trajectory
from .cost import cost_section
from .shell import shell
from .steps import glance_section, summary_section, turn_sections
from .timeline import timeline_figure


class Answered(Protocol):
    """What a page is about, such as a `vzoom.Result`."""

    @property
    def trajectory(self) -> Trajectory: ...
    @property
    def glance(self) -> Clip | None: ...
    @property
    def clips(self) -> Sequence[Clip]: ...
    @property
    def seconds(self) -> float: ...
    @property
    def model(self) -> str: ...
    @property
    def config(self) -> ZoomConfig: ...
    @property
    def warnings(self) -> Sequence[str]: ...


class Report:
    """The page about `result`. It is made when `html` or `save` is called, not before."""

    def __init__(self, result: Answered) -> None:
        self.result = result

    def html(self) -> str:
        """The whole page.

        Raises:
            ValueError: the result's clips do not belong to its trajectory.
        """
        result, trajectory = self.result, self.result.trajectory
        if len(result.clips) != len(trajectory.zooms):
            raise ValueError(
                f"{len(result.clips)} clips for {len(trajectory.zooms)} zooms: this is not one conversation"
            )
        timeline = timeline_figure(trajectory, result.glance)
        steps = glance_section(trajectory, result.glance) + turn_sections(trajectory, result.clips, result.config)
        summary = summary_section(trajectory, model=result.model, seconds=result.seconds, warnings=result.warnings)
        cost = cost_section(trajectory, seconds=result.seconds)
        return shell(
            f'{summary}\n{timeline}\n<div id="steps">{steps}</div>\n{cost}',
            title=trajectory.question.splitlines()[0] if trajectory.question else "vzoom",
            skip=("steps", "Skip to what happened"),
            styles=("report.css",),
            script="report.js",
        )

    def save(self, path: str | Path) -> Path:
        """Write the page to `path`, and return the path.

        Raises:
            OSError: the file cannot be written.
            ValueError: as `html`.
        """
        path = Path(path)
        path.write_text(self.html(), encoding="utf-8")
        return path
