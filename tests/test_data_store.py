"""Shards that grow: what comes back, what a kill leaves, and what is said of a file that is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from data_records import PLAIN, PROMPT, RECORDS, ZOOM

from vzoom.data.record import Record
from vzoom.data.rows import FORMAT, FORMAT_KEY, from_row, schema, to_row
from vzoom.data.store import Writer, read, read_one, shards
from vzoom.data.validate import InvalidRecord

pa = pytest.importorskip("pyarrow", reason="pyarrow (extra train) is not installed")
pq = pytest.importorskip("pyarrow.parquet")

TOKENS = replace(ZOOM, id="tokens", ids=(7, 8, 9, 7, 8, 9), sampled=(False, True, True, False, False, True))
MANY = [replace(PROMPT, id=f"p{number}") for number in range(150)]


def write(folder: Path, records: list[Record], **options: Any) -> Path:
    with Writer(folder, **options) as writer:
        for record in records:
            writer.add(record)
    return folder


def test_every_kind_comes_back_as_it_was(tmp_path: Path) -> None:
    records = [*RECORDS, TOKENS]
    assert list(read(write(tmp_path / "d", records))) == records
    assert [from_row(json.loads(json.dumps(to_row(record)))) for record in records] == records


def test_shards_fill_in_order_and_any_record_is_found(tmp_path: Path) -> None:
    folder = write(tmp_path / "d", MANY, shard_records=70)
    assert [file.name for file in shards(folder)] == ["part-00000.parquet", "part-00001.parquet", "part-00002.parquet"]
    assert [record.id for record in read(folder)] == [record.id for record in MANY]
    for index in (0, 63, 64, 69, 70, 139, 140, 149):
        assert read_one(folder, index) == MANY[index]
    assert read_one(folder / "part-00001.parquet", 66) == MANY[136]
    for index in (-1, 150):
        with pytest.raises(ValueError, match=f"150 records: index must be from 0 to 149, got {index}"):
            read_one(folder, index)


def test_datasets_reads_the_files(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets (extra train) is not installed")
    folder = write(tmp_path / "d", list(RECORDS), shard_records=2)
    files = [str(file) for file in shards(folder)]
    loaded = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    assert [from_row(row) for row in loaded] == list(RECORDS)


def test_appending_goes_on_behind_what_is_there(tmp_path: Path) -> None:
    folder = write(tmp_path / "d", MANY[:3])
    write(folder, MANY[3:5])
    assert list(read(folder)) == MANY[:5]
    assert len(shards(folder)) == 2
    with Writer(folder) as writer:
        assert writer.ids == {"p0", "p1", "p2", "p3", "p4"}
        with pytest.raises(ValueError, match="already holds a record 'p3'"):
            writer.add(MANY[3])


_ADD = """
import os, sys
sys.path.insert(0, sys.argv[3])
from data_records import PROMPT
from dataclasses import replace
from vzoom.data.store import Writer
writer = Writer(sys.argv[1], shard_records=4)
for number in range(11):
    record = replace(PROMPT, id=f"p{number}")
    if record.id not in writer.ids:
        writer.add(record)
        if number == int(sys.argv[2]):
            os.kill(os.getpid(), 9)
writer.close()
"""


def test_a_kill_loses_nothing_and_changes_no_byte(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole", MANY[:11], shard_records=4)
    command = [sys.executable, "-c", _ADD, str(tmp_path / "d")]
    for number in (0, 5, 7, 99):
        done = subprocess.run([*command, str(number), str(Path(__file__).parent)], check=False, timeout=120)
        assert done.returncode == (0 if number == 99 else -9)
    assert [file.read_bytes() for file in shards(tmp_path / "d")] == [file.read_bytes() for file in shards(whole)]
    assert (tmp_path / "d" / "journal.jsonl").read_text() == ""


def test_a_kill_between_shard_and_journal(tmp_path: Path) -> None:
    folder = write(tmp_path / "d", MANY[:4], shard_records=4)
    line = json.dumps(to_row(MANY[3])) + "\n"
    (folder / "journal.jsonl").write_text(line + json.dumps(to_row(MANY[4])) + "\n" + line[:50])
    (folder / "part-00001.parquet.part").write_bytes(b"half")
    write(folder, [MANY[5]], shard_records=4)
    assert list(read(folder)) == MANY[:6]
    assert sorted(file.name for file in folder.iterdir() if file.suffix == ".part") == []


def test_an_error_leaves_the_journal_for_the_next_run(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "d")
    writer.add(PLAIN)
    with pytest.raises(ValueError, match="already holds"), writer:
        writer.add(PLAIN)
    assert shards(tmp_path / "d") == []
    write(tmp_path / "d", [ZOOM])
    assert list(read(tmp_path / "d")) == [PLAIN, ZOOM]


def test_one_writer_a_folder(tmp_path: Path) -> None:
    with Writer(tmp_path / "d"), pytest.raises(ValueError, match="is in use by another process"):
        Writer(tmp_path / "d")
    Writer(tmp_path / "d").close()


def test_what_is_not_whole_is_not_written(tmp_path: Path) -> None:
    with Writer(tmp_path / "d") as writer:
        with pytest.raises(InvalidRecord, match="the question is empty"):
            writer.add(replace(PLAIN, question=" "))
        writer.add(PLAIN)
    assert list(read(tmp_path / "d")) == [PLAIN]


# ---------------------------------------------------------------- files that are wrong


def shard(folder: Path, rows: list[dict[str, Any]], *, form: int = FORMAT) -> Path:
    folder.mkdir(exist_ok=True)
    columns = schema().with_metadata({FORMAT_KEY: str(form).encode()})
    pq.write_table(pa.Table.from_pylist(rows, schema=columns), folder / "part-00000.parquet")
    return folder


def test_a_newer_format_is_named(tmp_path: Path) -> None:
    folder = shard(tmp_path / "d", [to_row(PLAIN)], form=FORMAT + 1)
    for use in (lambda: list(read(folder)), lambda: read_one(folder, 0), lambda: Writer(folder)):
        with pytest.raises(InvalidRecord, match=rf"part-00000.parquet has format {FORMAT + 1}.*install a newer vzoom"):
            use()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"stop_reason": "bored"}, "'bored' is not a valid StopReason"),
        ({"config": '{"zooms": 3}'}, "unknown field zooms"),
        ({"config": "{"}, "Expecting"),
        ({"video": {**to_row(PLAIN)["video"], "sha256": "12"}}, "64 hex digits, got '12'"),
        ({"video": {**to_row(PLAIN)["video"], "fps": None}}, "of another type"),
        ({"turns": [{**to_row(PLAIN)["turns"][0], "kind": "shout"}]}, "got 'shout'"),
        ({"turns": [{**to_row(PLAIN)["turns"][0], "source": "me"}]}, "got 'me'"),
        ({"turns": None}, "turns is null"),
        ({"turns": [{**to_row(PLAIN)["turns"][0], "flawed": None}]}, "flawed is null"),
        ({"glance_seconds": [2.0, 1.0]}, "glance_seconds do not increase"),
        ({"question": None}, "question is null"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, change: dict[str, Any], problem: str) -> None:
    folder = shard(tmp_path / "d", [to_row(PROMPT)] * 70 + [to_row(PLAIN) | change])
    with pytest.raises(InvalidRecord, match=f"part-00000.parquet, row 70: .*{problem}"):
        list(read(folder))
    with pytest.raises(InvalidRecord, match=f"part-00000.parquet, row 70: .*{problem}"):
        read_one(folder, 70)
    assert read_one(folder, 69) == PROMPT


def test_other_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_text("hello")
    with pytest.raises(InvalidRecord, match=r"a\.parquet is damaged, or no Parquet file"):
        list(read(tmp_path / "a.parquet"))
    pq.write_table(pa.table({"x": [1]}), tmp_path / "b.parquet")
    with pytest.raises(InvalidRecord, match="not one of vzoom's"):
        list(read(tmp_path / "b.parquet"))
    with pytest.raises(FileNotFoundError):
        list(read(tmp_path / "c.parquet"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidRecord, match="holds no part"):
        list(read(tmp_path / "empty"))


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "d", MANY[:6], shard_records=2)
    os.remove(folder / "part-00001.parquet")
    for use in (lambda: list(read(folder)), lambda: Writer(folder)):
        with pytest.raises(InvalidRecord, match=r"part-00001\.parquet is missing"):
            use()
