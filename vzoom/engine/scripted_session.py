"""A conversation whose turns come from a script: for checks that need zooms from a model that makes none.

Everything else is real: the model is run and its logits are there; only its choices are replaced.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from ..config import Sampling, ZoomConfig
from ..protocol import Vocabulary
from ..types import VideoInfo
from .session import Session


class ScriptedSession(Session):
    """Samples the texts of `turns`. Give `functools.partial(ScriptedSession, turns)` to a Request as its `session`.

    Attributes:
        script: what will be sampled, in tokens.
        heard: (token, log-probability) by sampled token: what the model itself would have chosen.

    Raises:
        ValueError: (from `accept`) the conversation continues after the last turn.
    """

    def __init__(
        self,
        turns: Sequence[str],
        question: str,
        video: VideoInfo,
        vocabulary: Vocabulary,
        config: ZoomConfig,
        sampling: Sampling,
    ) -> None:
        super().__init__(question, video, vocabulary, config, sampling)
        self.script = [t for turn in turns for t in vocabulary.codec.encode(turn)]
        self.heard: list[tuple[int, float]] = []

    @property
    def tokens_ahead(self) -> int:
        """1: what the model samples is replaced each time."""
        return 1

    def fork(self, sampling: Sampling) -> Self:
        other = super().fork(sampling)
        other.heard = list(self.heard)
        return other

    def accept(self, token: int, logprob: float) -> str:
        if len(self.heard) == len(self.script):
            raise ValueError(f"the script ends after {len(self.script)} tokens, but the conversation continues")
        self.heard.append((token, logprob))
        return super().accept(self.script[len(self.heard) - 1], logprob)
