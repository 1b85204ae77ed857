"""Which turns keep the grammar: the one rule for what is learned (SFT) and what is paid (RL).

`parse_turn` carries out more than this: a turn without a thought, chatter around the action, a call whose closing tag
is missing. To act is not to be well formed.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..types import Answer, CallError, Malformed, ZoomCall
from .parse import parse_turn
from .tags import ANSWER_CLOSE, ANSWER_OPEN, CALL_CLOSE, CALL_OPEN, TAGS, THINK_CLOSE, THINK_OPEN


def strict_action(text: str) -> ZoomCall | Answer | None:
    """The action of a turn that keeps the grammar.

    Such a turn is one closed thought and then one whole action with its closing tag. White space may surround each of
    the two; there is nothing else. A thought may mention tags (they do not act there), an action may not.

    Args:
        text: one turn of the model.

    Returns:
        The call or the answer, or None if the turn breaks the grammar.
    """
    thought, closed, rest = text.strip().partition(THINK_CLOSE)
    action = rest.strip()
    if not closed or not thought.startswith(THINK_OPEN):
        return None
    for opening, closing in ((CALL_OPEN, CALL_CLOSE), (ANSWER_OPEN, ANSWER_CLOSE)):
        if action.startswith(opening) and action.endswith(closing):
            body = action.removeprefix(opening).removesuffix(closing)
            outcome = None if any(tag in body for tag in TAGS) else parse_turn(text)
            return outcome if isinstance(outcome, ZoomCall | Answer) else None
    return None


def is_well_formed(texts: Sequence[str], outcomes: Sequence[ZoomCall | Answer | Malformed | None]) -> bool:
    """Whether a conversation keeps the grammar: calls that were carried out, then an answer.

    A call that asks for nonsense (a reversed segment, no frames, too many, after the end) is not well formed. A clip
    that the file did not give up is not the model's fault.

    Args:
        texts: the model's turns, in order.
        outcomes: what became of each; None if nobody knows, then the text alone decides.

    Returns:
        True if each turn is a `strict_action`, the last an answer and all before it calls, and none was refused for
        a fault of the model. False for no turns at all.
    """
    actions = [
        None if _is_fault(outcome) else strict_action(text) for text, outcome in zip(texts, outcomes, strict=True)
    ]
    return (
        bool(actions)
        and all(isinstance(action, ZoomCall) for action in actions[:-1])
        and isinstance(actions[-1], Answer)
    )


def _is_fault(outcome: ZoomCall | Answer | Malformed | None) -> bool:
    """Whether a turn was refused for something that the model did."""
    return isinstance(outcome, Malformed) and outcome.error is not CallError.UNREADABLE
