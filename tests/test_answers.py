from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vzoom.protocol.answers import LETTERS, Choice, NoChoice, read_choice

SHAPES = ("moon", "ring", "bolt", "cross")


def letter(answer: str | None, options: tuple[str, ...] = SHAPES) -> str | None:
    choice = read_choice(answer, options)
    return choice.letter if isinstance(choice, Choice) else None


@pytest.mark.parametrize(
    "answer",
    [
        "B", "b", " B \n", "(B)", "(b)", "B)", "B.", "b.", "B:", "B: ring", "B. Ring.", "(B) ring", "B) the ring",
        "B - ring", "B ring", "B, because it flashes", "B because I saw it", "B\nIt is a ring.", "**B**", "**B.** ring",
        "[B]", "`B`",
        "$B$", r"\boxed{B}", r"$\boxed{\text{B}}$", "The answer is B", "the answer is b.", "The answer is (B).",
        "The answer is: B", "Answer: B", "Answer: (B) ring", "The correct option is B.", "Final answer: B",
        "Option B", "Option B is correct.", "B is the correct answer", "(B) is correct", "B is the answer.",
        "It flashed at 12 s, so the answer is B.", "The answer is **B**", "The answer is B because it is a ring",
        "ring", " Ring ", "RING.", "the ring", "A ring", "a ring", "The answer is ring", "The answer is the ring.",
        "<answer>B</answer>", "<think>A? No.</think><answer>B</answer>", "<think>A</think> B", "B: a ring", "B: A ring",
        "The answer is B. The answer is (b).", "\uff22", "B: star",
    ],
)  # fmt: skip
def test_what_names_the_second_option(answer: str) -> None:
    assert letter(answer) == "B"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (None, NoChoice.EMPTY),
        ("", NoChoice.EMPTY),
        (" \n", NoChoice.EMPTY),
        ("<think>It must be B", NoChoice.EMPTY),
        ("<think>The answer is B</think>", NoChoice.EMPTY),
        ("<think>B <answer>B</answer>", NoChoice.EMPTY),
        ("star", NoChoice.UNKNOWN),
        ("Because", NoChoice.UNKNOWN),
        ("A man walks", NoChoice.UNKNOWN),
        ("The answer is a man", NoChoice.UNKNOWN),
        ("A man walks, then option: a dog", NoChoice.UNKNOWN),
        ("E", NoChoice.UNKNOWN),
        ("(F)", NoChoice.UNKNOWN),
        ("AB", NoChoice.UNKNOWN),
        ("not A", NoChoice.UNKNOWN),
        ("The answer is not A", NoChoice.UNKNOWN),
        ("The answer isn't A", NoChoice.UNKNOWN),
        ("A is not correct", NoChoice.UNKNOWN),
        ("B is incorrect", NoChoice.UNKNOWN),
        ("I do not know", NoChoice.UNKNOWN),
        ("moon or ring", NoChoice.UNKNOWN),
        ("A or B", NoChoice.AMBIGUOUS),
        ("A, B", NoChoice.AMBIGUOUS),
        ("A and C", NoChoice.AMBIGUOUS),
        ("A: ring", NoChoice.AMBIGUOUS),
        ("(A) or (b)", NoChoice.AMBIGUOUS),
        ("The answer is A. No, the answer is B.", NoChoice.AMBIGUOUS),
        ("A. Or is the answer: ring?", NoChoice.AMBIGUOUS),
        ("B: or A", NoChoice.AMBIGUOUS),
    ],
)
def test_what_names_none(answer: str | None, reason: NoChoice) -> None:
    assert read_choice(answer, SHAPES) is reason


def test_options_that_look_like_letters_and_labels() -> None:
    assert letter("E. coli", ("E. coli", "yeast", "algae", "moss", "fern")) == "A"
    assert letter("E", ("E. coli", "yeast", "algae", "moss", "fern")) == "E"
    assert read_choice("A", ("B", "A")) is NoChoice.AMBIGUOUS
    assert letter("2", ("1", "2", "3")) == "B"
    assert letter("1:05", ("0:59", "1:05")) == "B"
    assert letter("ring", ("A. moon", "B. ring")) == "B"
    assert letter("B. ring", ("A. moon", "B. ring")) == "B"
    assert letter("(B) ring", ("(A) moon", "(B) ring")) == "B"
    assert letter("Lincoln", ("Grant", "B. Lincoln")) is None  # a label is one where every option has its own
    assert letter("B: A star flashes") == "B"
    assert read_choice("red", ("red", "Red.")) is NoChoice.AMBIGUOUS
    assert letter("B: red", ("red", "Red.")) == "B"
    assert letter("a", ("before", "after")) == "A"
    for said in ("A", "A: Vitamin C", "Vitamin C", "A Vitamin C", "The answer is (A) vitamin C."):
        assert letter(said, ("Vitamin C", "Plan B", "Team A")) == "A"


def test_how_many_options_there_may_be() -> None:
    assert letter("Z", tuple(f"option {i}" for i in range(26))) == "Z"
    for count in (0, 1, 27):
        with pytest.raises(ValueError, match=f"got {count}"):
            read_choice("A", ["x"] * count)


FORMS = (
    "{}",
    "({})",
    "{})",
    "{}.",
    "{}: {text}",
    "({}) {text}",
    "The answer is {}",
    "Answer: {}.",
    "<answer>{}</answer>",
)


@given(st.integers(2, 26), st.data())
def test_every_letter_in_every_form(count: int, data: st.DataObject) -> None:
    options = [f"thing {i}" for i in range(count)]
    index = data.draw(st.integers(0, count - 1))
    form = data.draw(st.sampled_from(FORMS))
    shown = data.draw(st.sampled_from((LETTERS[index], LETTERS[index].lower())))
    assert read_choice(form.format(shown, text=options[index]), options) == Choice(index)
    other = (index + data.draw(st.integers(1, count - 1))) % count
    assert read_choice(f"{LETTERS[index]} or {LETTERS[other]}", options) is NoChoice.AMBIGUOUS


@given(st.text(), st.text())
def test_a_thought_decides_nothing(thought: str, said: str) -> None:
    thought, said = (t.replace("<", "").replace(">", "") for t in (thought, said))
    alone = read_choice(said, SHAPES)
    assert read_choice(f"<think>{thought}</think>{said}", SHAPES) == alone
    assert read_choice(f"{said}<think>{thought}", SHAPES) == alone
    assert isinstance(alone, NoChoice) or 0 <= alone.index < len(SHAPES)


@given(st.text(alphabet="ABCDabcd ()[].:,\n<>/answertik*\\{}$or-", max_size=40), st.permutations(range(4)))
def test_nothing_raises_and_relabelled_texts_move_with_their_options(said: str, order: list[int]) -> None:
    choice = read_choice(said, SHAPES)
    assert isinstance(choice, NoChoice | Choice)
    moved = [SHAPES[i] for i in order]
    for text in SHAPES:
        assert read_choice(text, moved) == Choice(moved.index(text))
