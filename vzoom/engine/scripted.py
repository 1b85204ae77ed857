"""A conversation whose model "writes" what a script says: for checks that need zooms from a model that makes none.

Everything else is real: the model is run and its logits are there, only its choices are replaced.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from ..config import Sampling, ZoomConfig
from ..protocol import Vocabulary
from ..types import VideoInfo
from .session import Session


class ScriptedSession(Session):
    """Samples `turns`, text for text. Give `functools.partial(ScriptedSession, turns)` to a Job as its `session`.

    `script` is what will be sampled, in tokens; `heard[i]` is (token, log-probability) of what the model itself would
    have chosen in place of script[i]. ValueError where the conversation goes on behind the last turn.
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
        self.script = [t for turn in turns for t in vocabulary.tokenizer.encode(turn, add_special_tokens=False)]
        self.heard: list[tuple[int, float]] = []

    def fork(self, sampling: Sampling) -> Self:
        other = super().fork(sampling)
        other.heard = list(self.heard)
        return other

    def accept(self, token: int, logprob: float) -> str:
        if len(self.heard) == len(self.script):
            raise ValueError(f"the script ends after {len(self.script)} tokens, but the conversation goes on")
        self.heard.append((token, logprob))
        return super().accept(self.script[len(self.heard) - 1], logprob)
