"""How a conversation may look at its video: the budgets and policies that an evaluation compares.

`uniform`: frames spread over the whole video, no zooms. `zoom`: a glance, then zooms. `gated`: the glance alone; if the
model is not confident of its answer, it is asked again and may zoom. `early-stop`: from none, one more zoom is allowed
each time, until the model is confident. The last two begin a new conversation each time, so that every answer is that
of an undisturbed conversation. They cost the sum of all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from ...config import ZoomConfig

PolicyName = Literal["zoom", "uniform", "gated", "early-stop"]
POLICIES: tuple[PolicyName, ...] = get_args(PolicyName)

_EVERY_FRAME = 1e6  # frames per second: the protocol lowers it to the video's own


@dataclass(frozen=True)
class Policy:
    """How a conversation may look at its video.

    Args:
        name: how a conversation may look at its video.
        budget: frames of glance and zooms together at most; without it max_frames of the model. The glance takes what
            glance_max_frames allows of it first.
        fps: uniform only: frames per second, at most budget frames. Without it uniform takes budget frames, or as many
            as the video has.
        confidence: gated and early-stop zoom no more from this one on. It is the probability of the answer's least
            certain token.

    Raises:
        ValueError: there is no such policy, or a value is out of range.
    """

    name: PolicyName = "zoom"
    budget: int | None = None
    fps: float | None = None
    confidence: float = 0.9

    def __post_init__(self) -> None:
        if self.name not in POLICIES:
            raise ValueError(f"the policy must be one of {', '.join(POLICIES)}, got {self.name!r}")
        if self.budget is not None and self.budget < 1:
            raise ValueError(f"the budget must be 1 frame or more, got {self.budget}")
        if self.fps is not None and not self.fps > 0:
            raise ValueError(f"frames per second must be above 0, got {self.fps}")
        if self.fps is not None and self.name != "uniform":
            raise ValueError(f"a fixed rate is for the policy uniform; for {self.name} set the glance's rate")
        if not 0 < self.confidence <= 1:
            raise ValueError(f"confidence must be above 0 and at most 1, got {self.confidence}")

    def configs(self, own: ZoomConfig) -> tuple[ZoomConfig, ...]:
        """The configs of the conversations that are held in turn, made from the model's own.

        The first conversation with a confident answer counts, else the last one.
        """
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
