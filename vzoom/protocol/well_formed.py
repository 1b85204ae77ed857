"""Which turns keep the grammar: the one rule for what is learned (SFT) and what is paid (RL).

`parse_turn` carries out more than this: a turn without a thought, chatter around the action, a call whose closing tag
is missing. To act is not to be well formed.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..types import Answer, CallError, Malformed, TurnOutcome, ZoomCall, ZoomCalls
from .definition import Protocol
from .grammars import boxed
from .parse import parse_turn, untagged_answer


def strict_action(text: str, protocol: Protocol, *, video_fps: float = 1.0) -> ZoomCall | ZoomCalls | Answer | None:
    """The action of a turn that keeps the grammar.

    Such a turn is one closed thought and then one whole action with its closing tag, or as many calls as the protocol
    allows. White space may surround each of them; there is nothing else. A thought may mention tags (they do not act
    there), an action may not.

    Args:
        text: one turn of the model.
        protocol: the protocol that it is written in.
        video_fps: frames per second of the video; only the times of calls that name frame numbers depend on it.

    Returns:
        The calls or the answer, or None if the turn breaks the grammar.
    """
    outcome = _strict_outcome(text, protocol, video_fps)
    return None if isinstance(outcome, Malformed) else outcome


def _strict_outcome(text: str, protocol: Protocol, video_fps: float = 1.0) -> TurnOutcome | None:
    """What a turn comes to that has the form of `strict_action`; None if it has not."""
    thought, action = protocol.thought, text.strip()
    if thought.open and action.startswith(thought.open):
        _, closed, action = action.partition(thought.close)
        if not closed:
            return None
    elif thought.required:
        return None
    if not _is_whole(action.strip(), protocol):
        return None
    return parse_turn(text, protocol, video_fps=video_fps)


def _is_whole(action: str, protocol: Protocol) -> bool:
    """Whether a text is one whole action, or several whole calls, and nothing else."""
    call, answer = protocol.call, protocol.answer
    if action.startswith(boxed.OPEN) and "boxed" in (call.grammar, answer.form):
        found = list(boxed.boxes(action))
        return len(found) == 1 and action == f"{boxed.OPEN}{found[0][0]}{boxed.CLOSE}"
    if answer.form in ("tag", "tag_boxed") and action.startswith(answer.open):
        return _rest(action, answer.open, answer.close, protocol) == ""
    if answer.form == "text" and not action.startswith(call.open):
        return untagged_answer(action, protocol) is not None
    rest: str | None = action
    while rest:
        rest = _rest(rest, call.open, call.close, protocol)
    return bool(action) and rest == ""


def _rest(text: str, opening: str, closing: str, protocol: Protocol) -> str | None:
    """What follows a whole action at the head of a text; None if there is no such action."""
    body, closed, rest = text.removeprefix(opening).partition(closing)
    tags = (*protocol.tags, opening, closing)
    is_whole = text.startswith(opening) and closed and not any(tag in body for tag in tags)
    return rest.lstrip() if is_whole else None


def is_well_formed(texts: Sequence[str], outcomes: Sequence[TurnOutcome | None], protocol: Protocol) -> bool:
    """Whether a conversation keeps the grammar: calls that were carried out, then an answer.

    To ask for the number of a frame, in a protocol that has an action for it, is a call too.

    A call that asks for nonsense (a reversed segment, no frames, too many, after the end) is not well formed. A clip
    that the file did not give up is not the model's fault.

    Args:
        texts: the model's turns, in order.
        outcomes: what became of each; None if nobody knows, then the text alone decides.
        protocol: the protocol that they are written in.

    Returns:
        True if each turn is a `strict_action`, the last an answer and all before it calls, and none was refused for
        a fault of the model. False for no turns at all.
    """
    actions = [
        None if _is_fault(outcome) else _strict_outcome(text, protocol)
        for text, outcome in zip(texts, outcomes, strict=True)
    ]
    return (
        bool(actions)
        and all(isinstance(action, ZoomCall | ZoomCalls) or _is_question(action) for action in actions[:-1])
        and isinstance(actions[-1], Answer)
    )


def _is_fault(outcome: TurnOutcome | None) -> bool:
    """Whether a turn was refused for something that the model did."""
    is_refused = isinstance(outcome, Malformed) and outcome.error is not CallError.UNREADABLE
    return is_refused and not _is_question(outcome)


def _is_question(outcome: TurnOutcome | None) -> bool:
    return isinstance(outcome, Malformed) and outcome.error is CallError.FRAME_ASKED
