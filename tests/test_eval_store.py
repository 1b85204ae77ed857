"""A file of predictions: what it keeps of answers that were judged in parts, and files of the format before."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from eval_rows import make_item, make_story, settings, write_run

from vzoom.eval.item import Parts, Verdict, judged_in_parts
from vzoom.eval.runs.run import PREDICTIONS
from vzoom.eval.runs.store import Store, content_hash, merge, read_rows
from vzoom.eval.scores.figures import figures_of

PLAIN = [(make_item(0), Verdict("right", "B"), make_story()), (make_item(1), Verdict("wrong", "A"), make_story())]
JUDGED = [*PLAIN, (make_item(2), judged_in_parts(2, 3, said="so"), make_story())]


def as_format_1(folder: Path) -> Path:
    """The file as it was before parts had a table."""
    file = folder / PREDICTIONS
    with closing(sqlite3.connect(file)) as db, db:
        db.execute("DROP TABLE parts")
        db.execute("UPDATE run SET format = 1")
    return file


def format_of(file: Path) -> int:
    with closing(sqlite3.connect(file)) as db:
        return int(db.execute("SELECT format FROM run").fetchone()[0])


def test_parts_come_back_as_numbers(tmp_path: Path) -> None:
    rows = read_rows(write_run(tmp_path, JUDGED) / PREDICTIONS)
    assert [row.parts for row in rows] == [None, None, Parts(2, 3)]
    accuracy = figures_of(rows).accuracy
    assert accuracy is not None
    assert accuracy.mean == pytest.approx((1 + 0 + 2 / 3) / 3)


def test_parts_are_merged_and_hashed(tmp_path: Path) -> None:
    one = write_run(tmp_path / "a", JUDGED) / PREDICTIONS
    merge([one], tmp_path / "whole.sqlite", settings())
    assert read_rows(tmp_path / "whole.sqlite") == read_rows(one)
    assert content_hash(tmp_path / "whole.sqlite") == content_hash(one)
    with closing(sqlite3.connect(one)) as db, db:
        db.execute("UPDATE parts SET num_right = 3")
    assert content_hash(tmp_path / "whole.sqlite") != content_hash(one)


def test_a_file_of_format_1_is_read_as_it_was_and_continued(tmp_path: Path) -> None:
    rows, digest = read_rows(write_run(tmp_path, PLAIN) / PREDICTIONS), content_hash(tmp_path / PREDICTIONS)
    file = as_format_1(tmp_path)
    assert (read_rows(file), content_hash(file), format_of(file)) == (rows, digest, 1)
    added = read_rows(write_run(tmp_path / "b", JUDGED) / PREDICTIONS)[2]
    with Store(file, settings()) as store:
        store.add([added])
    assert (read_rows(file), format_of(file)) == ([*rows, added], 2)


def test_a_file_of_format_1_with_parts_has_no_points(tmp_path: Path) -> None:
    write_run(tmp_path, JUDGED)
    file = as_format_1(tmp_path)
    for use in (read_rows, content_hash, lambda path: Store(path, settings())):
        with pytest.raises(ValueError, match="format 1, which did not keep the points"):
            use(file)
    assert format_of(file) == 1


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    file = write_run(tmp_path, PLAIN) / PREDICTIONS
    with closing(sqlite3.connect(file)) as db, db:
        db.execute("UPDATE run SET format = 3")
    with pytest.raises(ValueError, match="has format 3, this version reads up to 2"):
        read_rows(file)
