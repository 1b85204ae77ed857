"""Each kind of failure from a trajectory made by hand, and what evidence decides."""

from __future__ import annotations

import pytest
from eval_rows import make_item, make_story

from vzoom.eval.item import Verdict
from vzoom.eval.scores.failures import MEANING, Failure, failure_of, saw_evidence

WRONG, RIGHT = Verdict("wrong", said="A"), Verdict("right", said="B")
HIT, MISS = (29.0, 33.0), (5.0, 9.0)


@pytest.mark.parametrize(
    ("verdict", "story", "failure"),
    [
        (RIGHT, make_story(zooms=[MISS]), "right"),  # by luck, but right
        (WRONG, make_story(), "never_zoomed"),
        (WRONG, make_story(zooms=[MISS]), "zoomed_elsewhere"),
        (WRONG, make_story(zooms=[MISS, HIT]), "misread"),
        (WRONG, make_story(zooms=[MISS], errors=["no_zooms_left"]), "out_of_budget"),
        (WRONG, make_story(zooms=[HIT], errors=["over_budget"]), "misread"),  # it had seen enough
        (WRONG, make_story(errors=["bad_json"]), "malformed"),
        (WRONG, make_story(errors=["unreadable"]), "never_zoomed"),  # the file's fault
        (WRONG, make_story(zooms=[MISS], errors=["reversed"]), "zoomed_elsewhere"),  # mended afterwards
        (Verdict("unanswered"), make_story(stop="rounds", zooms=[MISS]), "out_of_budget"),
        (Verdict("unanswered"), make_story(stop="total_tokens"), "out_of_budget"),
        (Verdict("unanswered"), make_story(stop="rounds", errors=["bad_json"]), "malformed"),
        (Verdict("unanswered"), make_story(stop="rounds", errors=["no_zooms_left"]), "out_of_budget"),
        (Verdict("unanswered"), make_story(text=""), "malformed"),
        (Verdict("unparsable"), make_story(zooms=[HIT]), "malformed"),
        (Verdict("unjudged"), make_story(), "unjudged"),
        (Verdict("missing_video"), None, "not_asked"),
        (Verdict("failed"), None, "failed"),
    ],
)
def test_every_kind(verdict, story, failure):
    assert failure_of(make_item(), verdict, story) == failure


def test_without_evidence_nobody_can_say_where_it_should_have_looked():
    item = make_item(evidence=())
    assert failure_of(item, WRONG, make_story(zooms=[HIT])) == Failure.ZOOMED_IN_VAIN
    assert failure_of(item, WRONG, make_story()) == Failure.NEVER_ZOOMED
    assert saw_evidence(item, make_story(zooms=[HIT])) is None


def test_all_of_the_evidence_must_be_seen_and_the_glance_counts():
    both = make_item(evidence=((30.0, 32.0), (5.0, 6.0)))
    assert failure_of(both, WRONG, make_story(zooms=[HIT])) == Failure.ZOOMED_ELSEWHERE
    assert failure_of(both, WRONG, make_story(zooms=[HIT, MISS])) == Failure.MISREAD
    shown = make_item(evidence=((9.5, 10.5),))  # a glance frame lies at 10 s
    assert failure_of(shown, WRONG, make_story()) == Failure.MISREAD
    ends = make_item(evidence=((9.0, 10.0),))  # half-open: 10 s is behind it
    assert failure_of(ends, WRONG, make_story()) == Failure.NEVER_ZOOMED


def test_every_kind_has_a_meaning():
    assert set(MEANING) == set(Failure)
