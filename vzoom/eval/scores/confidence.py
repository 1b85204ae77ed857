"""How sure a model is of what it answered: the probability of the answer's least certain token.

Not of all of them together, which would call a long answer unsure, nor their mean, which certain closing tags raise.
"""

from __future__ import annotations

import math
from typing import Any

from ...protocol import Protocol, opening_tags
from ...types import Trajectory


def confidence_of(trajectory: Trajectory, tokenizer: Any, protocol: Protocol) -> float:
    """How sure the model was of its answer. Tokens of the thought before it do not count, its closing tag does.

    Args:
        trajectory: a finished conversation.
        tokenizer: the model's, to find where the answer begins among the tokens.
        protocol: the protocol that it was held in.

    Returns:
        From 0 to 1; 0 if there is no answer.
    """
    if trajectory.answer is None:
        return 0.0
    is_tagged = protocol.answer.form != "text" and not trajectory.answer_is_untagged
    opening = opening_tags(protocol)[-1] if is_tagged else protocol.thought.close
    begin = end = len(trajectory.ids)
    while begin > 0 and trajectory.sampled[begin - 1]:
        begin -= 1
        if opening in tokenizer.decode(trajectory.ids[begin:end]):
            break
    # The opening tag may be of several tokens; the answer begins after the last of them.
    first = begin
    while opening not in tokenizer.decode(trajectory.ids[begin:first]) and first < end:
        first += 1
    told = trajectory.logprobs[first:end] or trajectory.logprobs[begin:end]
    return math.exp(min(told)) if told else 0.0
