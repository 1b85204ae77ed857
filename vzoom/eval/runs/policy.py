"""How a conversation may look at its video: the budgets and policies that an evaluation compares.

`uniform`: frames spread over the whole video, no zooms. `zoom`: a glance, then zooms. `gated`: the glance alone; only
where the model is not confident of its answer it is asked again and may zoom. `early-stop`: zooms allowed grow one by
one, from none, until the model is confident. The last two ask anew each time, so that every answer is that of an
undisturbed conversation; what they cost is the sum of all they asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from ...config import ZoomConfig

PolicyName = Literal["zoom", "uniform", "gated", "early-stop"]
POLICIES: tuple[PolicyName, ...] = get_args(PolicyName)

_EVERY_FRAME = 1e6  # frames a second: the timeline lowers it to the video's own


@dataclass(frozen=True)
class Policy:
    """How a conversation may look at its video.

    A glance takes what `glance_max_frames` allows of the budget first. uniform without fps always takes `budget`
    frames (or as many as the video has), with fps it takes that rate, at most `budget` frames. confidence: see
    `confidence_of`.
    """

    name: Annotated[PolicyName, "how the model may look at the video"] = "zoom"
    budget: Annotated[int | None, "most frames of glance and zooms together (default: max_frames of the model)"] = None
    fps: Annotated[float | None, "uniform only: this many frames per second, at most the budget"] = None
    confidence: Annotated[float, "gated, early-stop: no more zooms from this probability of the answer on"] = 0.9

    def __post_init__(self) -> None:
        if self.name not in POLICIES:
            raise ValueError(f"the policy must be one of {', '.join(POLICIES)}, got {self.name!r}")
        if self.budget is not None and self.budget < 1:
            raise ValueError(f"the budget must be 1 frame or more, got {self.budget}")
        if self.fps is not None and not self.fps > 0:
            raise ValueError(f"frames a second must be above 0, got {self.fps}")
        if self.fps is not None and self.name != "uniform":
            raise ValueError(f"a fixed rate is for the policy uniform; for {self.name} set the glance's rate")
        if not 0 < self.confidence <= 1:
            raise ValueError(f"confidence must be above 0 and at most 1, got {self.confidence}")

    def configs(self, own: ZoomConfig) -> tuple[ZoomConfig, ...]:
        """The conversations that are held in turn, from the model's own settings. The first confident one counts,
        else the last; with one there is nothing to be confident of."""
        budget = own.max_frames if self.budget is None else self.budget
        if self.name == "uniform":
            rate = _EVERY_FRAME if self.fps is None else self.fps
            frames = budget if self.fps is not None or self.budget is not None else own.glance_max_frames
            return (own.override(max_zooms=0, glance_fps=rate, glance_max_frames=frames, max_frames=frames),)
        whole = own.override(max_frames=budget, glance_max_frames=min(own.glance_max_frames, budget))
        zooms = {
            "zoom": (own.max_zooms,),
            "gated": tuple(sorted({0, own.max_zooms})),
            "early-stop": tuple(range(own.max_zooms + 1)),
        }[self.name]
        return tuple(whole.override(max_zooms=k) for k in zooms)
