"""One self-contained HTML page about one answer: what was seen, thought, asked for, and what it cost.

Nothing is loaded from anywhere: style, script and images are in the page, and its content security policy forbids
the rest. Every text of the model, the question and the file name is escaped.
"""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from .cost import cost_section
from .markup import escape
from .steps import glance_section, summary_section, turn_sections
from .timeline import timeline_figure

if TYPE_CHECKING:
    from vzoom.result import Result


class Report:
    """The page for `result`. Made when asked for, not before."""

    def __init__(self, result: Result) -> None:
        self.result = result

    def html(self) -> str:
        """The whole page. ValueError where the result's clips do not belong to its trajectory."""
        result, trajectory = self.result, self.result.trajectory
        if len(result.clips) != len(trajectory.zooms):
            raise ValueError(
                f"{len(result.clips)} clips for {len(trajectory.zooms)} zooms: this is not one conversation"
            )
        style, script = _asset("report.css"), _asset("report.js")
        return Template(_asset("report.html")).substitute(
            title=escape(f"{trajectory.question.splitlines()[0] if trajectory.question else 'vzoom'}"),
            style=style,
            script=script,
            # The policy names the one script that may run, so a script that slipped through escaping would not.
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            summary=summary_section(trajectory, model=result.model, seconds=result.seconds),
            timeline=timeline_figure(trajectory, result.glance),
            steps=glance_section(trajectory, result.glance) + turn_sections(trajectory, result.clips),
            cost=cost_section(trajectory, seconds=result.seconds),
        )

    def save(self, path: str | Path) -> Path:
        """Write the page to `path` and return it. OSError where that cannot be written."""
        path = Path(path)
        path.write_text(self.html(), encoding="utf-8")
        return path


def _asset(name: str) -> str:
    return (files("vzoom") / "assets" / name).read_text(encoding="utf-8")
