"""What every engine does, and what they share: whoever asks questions knows no more of an engine than this.

`vzoom.engine.Engine` runs the model itself, `vzoom.vllm.VllmEngine` has it run by vLLM. Both answer the same `Session`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

from ..config import Sampling
from ..types import Event, TextDelta, TurnEnded, TurnOpened
from .request import Outcome, OutcomeBuilder, Request
from .session import Done, NeedFrames, NeedTokens, Session

NO_NUMBERS = (
    "the model's logits are NaN or infinite: try dtype float32 (or bfloat16 in place of float16), and see whether "
    "`vzoom verify` finds such numbers in the weights"
)


@dataclass(frozen=True)
class Capabilities:
    """What an engine can do.

    Attributes:
        name: of the engine, as `vzoom.load(engine=...)` takes it.
        shares_pages: whether forks and rollouts share the pages of their past. If not, a fork is a conversation of its
            own, whose past is found in a prefix cache or fed again.
        reuses_clips: whether clips can be spliced that another conversation has seen (`Reuse`).
    """

    name: str
    shares_pages: bool
    reuses_clips: bool


class ConversationEngine(ABC):
    """Holds conversations about videos. A context manager. Used by one thread at a time."""

    capabilities: Capabilities

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    @abstractmethod
    def is_idle(self) -> bool:
        """Whether nothing waits and nothing runs."""

    @abstractmethod
    def add(self, request: Request) -> int:
        """Queue a request.

        Returns:
            The request id that every event of its first conversation carries; that of rollout i is i higher.

        Raises:
            ValueError: it asks for more tokens or rollouts than the engine was made for.
        """

    @abstractmethod
    def fork(self, request_id: int, samplings: Sequence[Sampling]) -> list[int]:
        """Branch a running conversation once for each of `samplings`.

        The branches part after what the conversation feeds next, so that a clip on its way is fed once for all.

        Returns:
            The request ids of the branches.

        Raises:
            ValueError: no conversation with this request id is running.
        """

    @abstractmethod
    def cancel(self, request_id: int) -> None:
        """End a conversation at the next step. Its trajectory so far comes back as Finished.

        Raises:
            ValueError: no conversation with this request id is running.
        """

    @abstractmethod
    def abort(self, request_ids: Collection[int]) -> None:
        """Forget conversations, running or not. They have no more events.

        Args:
            request_ids: all rollouts of a request that still waits, or any that run. Those that ended are passed over.
        """

    @abstractmethod
    def step(self) -> list[Event]:
        """Go on with what was added, and report what happened. What one request raises ends it alone, with `Failed`."""

    @abstractmethod
    def drop(self) -> None:
        """Forget whatever runs and waits."""

    @abstractmethod
    def close(self) -> None:
        """Drop what runs and waits; give back memory and files."""

    def events(self) -> Iterator[Event]:
        """All events of what was added, until nothing is left to do."""
        while not self.is_idle:
            yield from self.step()

    def run(
        self,
        requests: Sequence[Request],
        *,
        on_event: Callable[[Event], None] | None = None,
        keep_clips: bool = True,
    ) -> list[list[Outcome]]:
        """Answer all requests. One that fails does not disturb the others.

        Args:
            requests: what to answer; more than fit at once wait for their turn.
            on_event: called with every event as it happens. If it raises, the requests are dropped.
            keep_clips: keep the frames that were seen in the outcomes. They take memory until the outcomes go.

        Returns:
            By request, in order: one outcome per rollout.

        Raises:
            ValueError: a request can never be admitted, or the engine is busy with requests of `add`. Then none of the
                requests is left in the engine.
        """
        if not self.is_idle:
            raise ValueError("the engine is busy: take the events of the requests that were added before with events()")
        builder = OutcomeBuilder(keep_clips=keep_clips)
        outcomes: dict[int, Outcome] = {}
        try:
            first_ids = [self.add(request) for request in requests]
            for event in self.events():
                if on_event is not None:
                    on_event(event)
                if (outcome := builder.add(event)) is not None:
                    outcomes[outcome.request_id] = outcome
        finally:
            self.drop()
        return [
            [outcomes[first + i] for i in range(request.num_rollouts)]
            for first, request in zip(first_ids, requests, strict=True)
        ]


def give_token(
    session: Session,
    need: NeedTokens,
    token: int,
    logprob: float,
    *,
    request_id: int,
    stage_ms: dict[str, float],
    elapsed_ms: float,
) -> list[Event]:
    """Give a session its token. Returns what there is to report: the turn that it opened, continued or ended.

    Args:
        session: needs tokens.
        need: what was fed.
        token: what was sampled after it.
        logprob: its log-probability.
        request_id: of the conversation.
        stage_ms: milliseconds of what came before a turn that opens; emptied into it.
        elapsed_ms: milliseconds that feeding and sampling took.
    """
    events: list[Event] = []
    delta = session.accept(token, logprob)
    turn = session.turn
    if need.opens_turn:
        turn.milliseconds |= {**stage_ms, "prefill": elapsed_ms}
        stage_ms.clear()
        events.append(TurnOpened(request_id, turn, need.clip))
    else:
        turn.milliseconds["generate"] = turn.milliseconds.get("generate", 0.0) + elapsed_ms
    if delta:
        events.append(TextDelta(request_id, delta))
    ended = turn.outcome is not None or isinstance(session.action, Done)
    if ended and not isinstance(session.action, NeedFrames):  # a turn that zooms ends when its clip is there
        events.append(TurnEnded(request_id, turn, None))
    return events
