"""The parts that benchmarks are read and scored with: rows with their lines, options, subtitles, open answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from vzoom.eval.benchmarks.durations import bucket
from vzoom.eval.benchmarks.open_answers import score_open
from vzoom.eval.benchmarks.options import split_bracketed, split_dotted, unlabelled
from vzoom.eval.benchmarks.rows import AnnotationRow, json_rows, jsonl_rows
from vzoom.eval.benchmarks.subtitles import Line, as_text, read_longvideobench, read_srt
from vzoom.eval.item import Item, Parts, Verdict, VerdictKind, judged_in_parts


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


# ---------------------------------------------------------------- rows


def test_objects_of_a_list_know_the_line_that_they_begin_in(tmp_path: Path) -> None:
    path = written(tmp_path / "a.json", '\ufeff[{"a": 1},\n\n {"a":\n 2}, {"a": "]}"}\n]\n')
    assert [(row.data, row.source) for row in json_rows(path)] == [
        ({"a": 1}, f"{path}:1"),
        ({"a": 2}, f"{path}:3"),
        ({"a": "]}"}, f"{path}:4"),
    ]
    assert list(json_rows(written(tmp_path / "b.json", "[ ]"))) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"a": 1},\n{"a": \n', r"a\.json:\d: no JSON"),
        ('[{"a": 1},\n3]', r"a\.json:2: must be an object, got int"),
        ('{"a": 1}', r"a\.json:1: the file must hold a JSON list"),
        ("", r"a\.json:1: the file must hold a JSON list"),
    ],
)
def test_what_is_no_list_of_objects_is_named_by_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(json_rows(written(tmp_path / "a.json", text)))


def test_lines_are_counted_with_the_empty_ones(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", '{"a": 1}\n\n{"a": 2}\n')
    assert [row.source for row in jsonl_rows(path)] == [f"{path}:1", f"{path}:3"]
    with pytest.raises(ValueError, match=r"a\.jsonl:2: must be an object, got list"):
        list(jsonl_rows(written(path, '{"a": 1}\n[]\n')))


def test_fields_are_of_the_kind_that_is_asked_for() -> None:
    row = AnnotationRow(
        {"t": " x ", "n": 2, "f": 2.5, "b": True, "l": ["a", 1], "e": " ", "nan": float("nan")}, "here:7"
    )
    assert (row.text("t"), row.number("n"), row.integer("n"), row.texts("l")) == ("x", 2.0, 2, ("a", "1"))
    for ask, key in (
        (row.text, "n"),
        (row.text, "e"),
        (row.text, "missing"),
        (row.number, "b"),
        (row.number, "nan"),
        (row.integer, "f"),
        (row.texts, "t"),
        (row.rows, "l"),
    ):
        with pytest.raises(ValueError, match=f"here:7: {key} .*as it was published"):
            ask(key)


# ---------------------------------------------------------------- options


def test_labels_are_taken_off_only_where_all_are_in_order() -> None:
    assert unlabelled(["A. red", "B. blue"]) == ("red", "blue")
    assert unlabelled(["A. red", "C. blue"]) == ("A. red", "C. blue")
    assert unlabelled(["Anna", "Bert"]) == ("Anna", "Bert")


def test_options_are_the_last_lines_with_letters_in_order() -> None:
    text = "He reads:\n(A) is a letter.\nWhich one?\n(A) this\n(B) that\n  and more\n(C)  both"
    stem = "He reads:\n(A) is a letter.\nWhich one?"
    assert split_bracketed(text) == (stem, ("this", "that and more", "both"))
    assert split_dotted("Why?\nA. x\nC. z") == ("Why?", ("x C. z",))
    assert split_dotted("Why?") == ("Why?", ())


def test_buckets_hold_their_upper_ends() -> None:
    assert [bucket(s) for s in (180, 180.5, 600, 1800, 3600, 3601)] == [
        "up to 3 min",
        "3 to 10 min",
        "3 to 10 min",
        "10 to 30 min",
        "30 to 60 min",
        "over 60 min",
    ]


# ---------------------------------------------------------------- subtitles


def test_srt_without_markup_and_with_its_lines_joined(tmp_path: Path) -> None:
    text = "1\n01:00:01,500 --> 01:00:03,000\n<i>One</i>\ntwo\n\n2\n00:00:04.25 --> 00:00:05.000\n{\\an8}three\n"
    assert read_srt(written(tmp_path / "a.srt", text)) == [Line(3601.5, 3603.0, "One two"), Line(4.25, 5.0, "three")]
    with pytest.raises(ValueError, match=r"a\.srt:2: expected times"):
        read_srt(written(tmp_path / "a.srt", "1\nhello\n"))


def test_subtitles_by_spans_in_order_of_time_and_rolling_lines_once() -> None:
    lines = [Line(12, 13, "c"), Line(0, 2, "a"), Line(1, 2, "a"), Line(9.9, 12, "b"), Line(40, 41, "d")]
    assert as_text(lines) == "[0s] a b\n[10s] c\n[40s] d"
    assert as_text([]) == ""


def test_too_long_subtitles_are_thinned_evenly() -> None:
    lines = [Line(10.0 * i, 10.0 * i + 1, f"line {i:02d}") for i in range(20)]
    thinned = as_text(lines, most_characters=120).splitlines()
    assert thinned == [f"[{30 * i}s] line {3 * i:02d}" for i in range(7)]
    assert len("\n".join(thinned)) <= 120
    assert as_text(lines, most_characters=5) == ""


def test_a_row_of_subtitles_that_has_no_times_stops(tmp_path: Path) -> None:
    path = written(tmp_path / "a.json", '[{"timestamp": [1.0, 2.0], "text": "x"},\n {"timestamp": 3.0, "text": "y"}]')
    with pytest.raises(ValueError, match=r"a\.json:2: timestamp must be \[start, end\], got 3\.0"):
        read_longvideobench(path, offset_seconds=0, duration_seconds=60)
    path = written(tmp_path / "a.json", '[{"start": "1.5", "end": "00:00:03.000", "line": "y"}]')
    with pytest.raises(ValueError, match=r"a\.json:1: start must be a time as"):
        read_longvideobench(path, offset_seconds=0, duration_seconds=60)


def test_a_line_that_began_before_the_clip_begins_with_it(tmp_path: Path) -> None:
    path = written(
        tmp_path / "a.json", '[{"timestamp": [8.0, 12.0], "text": "x"}, {"timestamp": [70, 71], "text": "y"}]'
    )
    assert read_longvideobench(path, offset_seconds=10, duration_seconds=60) == [Line(0.0, 2.0, "x")]


# ---------------------------------------------------------------- open answers


def open_item(reference: str) -> Item:
    return Item("1", "videommmu", "v.mp4", "How long?", (), reference, "Math", "", None, "here:1")


@pytest.mark.parametrize(
    ("reference", "answer", "kind"),
    [
        ("3.43", "3.43", "right"),
        ("3.43", "3.429", "right"),
        ("3.43", "3.44", "wrong"),
        ("1,250", "The total is 1250 dollars", "right"),
        ("9.8", "In 3 steps, g = 9.8 m/s^2", "right"),
        ("2", "g = 9.8 m/s^2", "wrong"),
        ("-4", "x = -4", "right"),
        ("0.5", "\\boxed{.5}", "right"),
        ("42", "Just under fifty", "unparsable"),
        ("['24/7', '3.429', '3.43]", "24/7", "right"),
        ("['24/7', '3.429', '3.43]", "x is 3.43", "right"),
        ("['24/7', '3.429', '3.43]", "x is 4", "wrong"),
        ("Baroque", "It is the baroque style.", "right"),
        ("art", "a party", "wrong"),
        ("fixed  cost", "a fixed cost", "right"),
        ("A", "(a) because of it", "right"),
        ("A", "A", "right"),
        ("A", "A man walks", "wrong"),
        ("A", "cat", "wrong"),
    ],
)
def test_open_answers_by_number_or_by_words(reference: str, answer: str, kind: str) -> None:
    assert score_open(open_item(reference), answer).kind == kind


# ---------------------------------------------------------------- items and verdicts


def test_points_are_numbers_and_no_text_gives_any() -> None:
    assert judged_in_parts(1, 2, said="x") == Verdict("right", "x", "1 of 2 parts right", Parts(1, 2))
    assert judged_in_parts(1, 3, said="x").points == pytest.approx(1 / 3)
    assert judged_in_parts(1, 3, said="x").kind == "wrong"
    assert (Verdict("right").points, Verdict("wrong").points) == (1.0, 0.0)
    assert Verdict("wrong", said="3 of 3 parts right", detail="2 of 3 parts right").points == 0.0
    assert Verdict("unjudged", detail="3 of 3 parts right").points == 0.0


@pytest.mark.parametrize(
    ("kind", "parts", "problem"),
    [
        ("right", Parts(4, 3), "4 of 3 parts cannot"),
        ("right", Parts(0, 0), "0 of 0 parts cannot"),
        ("right", Parts(1, 3), "with 1 of 3 parts right, an answer is not right"),
        ("wrong", Parts(2, 3), "an answer is not wrong"),
        ("unjudged", Parts(2, 3), "an answer is not unjudged"),
    ],
)
def test_parts_that_cannot_be(kind: VerdictKind, parts: Parts, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Verdict(kind, parts=parts)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("id", " ", "id of item ' ' is empty"),
        ("question", "", "question of item '1' is empty"),
        ("options", ("only",), "2 to 26 options are needed, got 1"),
        ("reference", "C", "the reference must be one of AB, got 'C'"),
        ("evidence", ((3.0, 2.0),), "evidence must be intervals"),
    ],
)
def test_items_are_checked_and_say_where_they_come_from(field: str, value: object, message: str) -> None:
    fields = {**vars(open_item("x")), "options": ("red", "blue"), "reference": "A", field: value}
    with pytest.raises(ValueError, match=f"here:1: {message}"):
        Item(**fields)
