"""What is on the disk may be damaged, full, of another version, or in use: each is one line that names the file."""

from __future__ import annotations

import json
import random
import resource
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from data_records import PROMPT, RECORDS
from eval_rows import make_item, make_story, settings, write_run

pytest.importorskip("pyarrow", reason="pyarrow (extra train) is not installed")

import vzoom
from vzoom.config import ZoomConfig
from vzoom.data.collect.loop import collect
from vzoom.data.collect.reply_cache import ReplyCache, same_settings
from vzoom.data.files import JsonLines, Lock, read_json, write_json
from vzoom.data.rows import to_row
from vzoom.data.store import Writer, read, read_one
from vzoom.eval.item import Verdict
from vzoom.eval.runs.store import Store, content_hash, read_positions, read_rows, read_settings
from vzoom.eval.unpack import unpack
from vzoom.models.checkpoint.folder import find_checkpoint
from vzoom.models.checkpoint.stored import INDEX, open_weights
from vzoom.train.common.checkpoints import TrainingFolder, TrainingLog, newest_complete
from vzoom.train.common.dist import ProcessGroup
from vzoom.train.common.feature_rows import FileRows
from vzoom.train.pipeline.stage_store import StageStore
from vzoom.zoomer import embedded_path

Use = Callable[[Path], object]
MANY = [replace(record, id=f"{record.id}{number}") for number in range(3) for record in RECORDS]


def refused(use: Use, folder: Path, name: str) -> str:
    """The line that `use` of the folder is refused with: one that names the file and says what to do."""
    with pytest.raises(ValueError, match=r"\S") as caught:
        use(folder)
    line = str(caught.value)
    assert name in line, line
    assert "\n" not in line
    assert any(word in line for word in ("remove", "restore", "download", "run again")), line
    return line


# ---------------------------------------------------------------- damaged


def stage(folder: Path) -> None:
    with StageStore(folder, say=lambda line: None) as store:
        store.stage("a", lambda made: [], settings={"x": 1})


def a_checkpoint(folder: Path) -> None:
    (folder / "checkpoint-1").mkdir(exist_ok=True)
    newest_complete(folder)


def kept(folder: Path) -> None:
    collect([], lambda item: item, folder, concurrency=1)  # type: ignore[arg-type, return-value, type-var]


def a_config(folder: Path) -> ZoomConfig:
    shutil.copyfile(embedded_path() / "config.json", folder / "config.json")
    return ZoomConfig.from_dict(find_checkpoint(str(folder)).read_json("vzoom.json") or {}, str(folder))


FILES: dict[str, Use] = {
    "settings.json": lambda folder: same_settings(folder, {"attempts": 1}),
    "manifest.json": stage,
    "a/.made-from.json": stage,
    "a/.seconds.json": stage,
    "checkpoint-1/progress.json": a_checkpoint,
    ".unpacked.json": lambda folder: unpack(folder, say=lambda line: None),
    "vzoom.json": a_config,
    INDEX: lambda folder: open_weights(folder, "m"),
    "predictions.sqlite": lambda folder: read_rows(folder / "predictions.sqlite"),
    "shard-0-of-1.sqlite": lambda folder: Store(folder / "shard-0-of-1.sqlite", settings()),
    "part-00000.parquet": lambda folder: list(read(folder)),
}
LINES: dict[str, Use] = {  # a line at the end that is not whole is no damage: a kill leaves it
    "journal.jsonl": Writer,
    "replies.jsonl": lambda folder: ReplyCache(folder / "replies.jsonl"),
    "rejected.jsonl": kept,
    "log.jsonl": lambda folder: TrainingLog(folder / "log.jsonl", step=9),
    "index.jsonl": lambda folder: FileRows(folder, dtype=torch.float32, version="1"),
}
DAMAGE = {
    "empty": b"",
    "cut": b'{"a": 1, "b',
    "not text": b"\xff\xfe{}\n",
    "a list": b"[1, 2]\n",
    "deep": b'{"a":' * 20_000 + b"\n",
    "zeros": bytes(5000),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_one_line(name: str, damage: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(DAMAGE[damage])
    refused(FILES[name], tmp_path, path.name)


@pytest.mark.parametrize("name", LINES)
@pytest.mark.parametrize("damage", sorted(set(DAMAGE) - {"empty", "cut"}))
def test_a_damaged_line_is_named(name: str, damage: str, tmp_path: Path) -> None:
    if (name, damage) == ("index.jsonl", "a list"):
        return  # features of another version of the file: they are made again
    (tmp_path / name).write_bytes(DAMAGE[damage].replace(b"\n", b"") + b"\n")
    assert name in refused(LINES[name], tmp_path, name)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("manifest.json", {"a": {"settings": {}, "inputs": {}, "outputs": 3, "cpu_seconds": 1}}),
        ("a/.seconds.json", {"cpu_seconds": "1", "wall_seconds": 2}),
        ("checkpoint-1/progress.json", {"identity": {}, "step": None, "best": None, "progress": {}}),
        (".unpacked.json", {"a.tar": "large"}),
        (INDEX, {"weight_map": {"a": 3}}),
        (INDEX, {"weight_map": ["a"]}),
    ],
)
def test_json_of_another_shape_is_damage(name: str, content: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))
    refused(FILES[name], tmp_path, path.name)


@pytest.mark.parametrize(
    "values",
    [
        {"glance_fps": "1"},
        {"glance_fps": True},
        {"glance_fps": float("nan")},
        {"glance_fps": float("inf")},
        {"max_pixels": 1.5},
        {"max_zooms": 10**400},
        {"max_frames": None},
        {"prompt": 3},
        {"resize": []},
        {"zooms": 3},
    ],
)
def test_a_vzoom_json_with_wrong_values_is_named(values: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "vzoom.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=rf"vzoom.json of {tmp_path}: .*{next(iter(values))}") as caught:
        a_config(tmp_path)
    assert len(str(caught.value)) < 300


def outcome_of(use: Callable[[], object]) -> object:
    """What it returns, or the ValueError that it was refused with."""
    try:
        return use()
    except ValueError as error:
        return error


def flipped(good: bytes, bit: int) -> bytes:
    bad = bytearray(good)
    bad[bit // 8] ^= 1 << bit % 8
    return bytes(bad)


def test_no_flipped_bit_of_a_shard_is_read_as_other_data(tmp_path: Path) -> None:
    with Writer(tmp_path) as writer:
        for record in MANY:
            writer.add(record)
    file = tmp_path / "part-00000.parquet"
    good, draw, num_refused = file.read_bytes(), random.Random(0), 0
    places = draw.sample(range(8 * len(good)), 400)
    places += [8 * good.index(b"vzoom.digests") + 3, 8 * (len(good) - 6), 0]
    for bit in places:
        file.write_bytes(flipped(good, bit))
        found = outcome_of(lambda: list(read(file)))
        if isinstance(found, ValueError):
            assert file.name in str(found)
            num_refused += 1
        else:
            assert found == MANY, bit
    assert num_refused > 100  # the others are statistics, and what else nobody reads
    file.write_bytes(good)
    assert [read_one(file, index) for index in range(len(MANY))] == MANY


def test_rows_that_are_not_those_that_were_written_are_refused(tmp_path: Path) -> None:
    """What the checksums of pages leave out: here the pages are whole, and another value is in them."""
    import pyarrow
    from pyarrow import parquet

    with Writer(tmp_path) as writer:
        writer.add(PROMPT)
    file = tmp_path / "part-00000.parquet"
    table = parquet.read_table(file)
    other = pyarrow.array(["Another question?"])
    changed = table.set_column(table.column_names.index("question"), "question", other).cast(table.schema)
    parquet.write_table(table, file, write_page_checksum=True)
    assert list(read(file)) == [PROMPT]
    parquet.write_table(changed, file, write_page_checksum=True)
    refused(lambda folder: list(read(folder)), tmp_path, file.name)


def test_a_damaged_shard_stops_its_writer(tmp_path: Path) -> None:
    with Writer(tmp_path) as writer:
        writer.add(PROMPT)
    file = tmp_path / "part-00000.parquet"
    good = file.read_bytes()
    file.write_bytes(flipped(good, 8 * good.index(b"prompt")))  # its id, in the first page
    refused(Writer, tmp_path, file.name)


def test_no_flipped_bit_of_a_run_escapes_as_another_error(tmp_path: Path) -> None:
    rows = [(make_item(n), Verdict("right", said="B"), make_story(zooms=[(1.0, 3.0)])) for n in range(6)]
    file = write_run(tmp_path, rows) / "predictions.sqlite"
    good, draw = file.read_bytes(), random.Random(0)
    num_refused = 0
    for bit in draw.sample(range(8 * len(good)), 150):
        file.write_bytes(flipped(good, bit))
        for use in (read_rows, content_hash, read_settings, read_positions):
            found = outcome_of(partial(use, file))
            if isinstance(found, ValueError):
                num_refused += 1
                assert file.name in str(found)
                assert "\n" not in str(found)
    assert num_refused > 0


def test_values_of_another_type_in_a_run_are_damage(tmp_path: Path) -> None:
    file = write_run(tmp_path, [(make_item(), Verdict("right", said="B"), make_story())]) / "predictions.sqlite"
    with sqlite3.connect(file) as db:
        db.execute("UPDATE predictions SET frames = 'many'")
    assert "frames is 'many'" in refused(read_rows, file, file.name)


# ---------------------------------------------------------------- full


@contextmanager
def files_up_to(num_bytes: int) -> Iterator[None]:
    """No file can grow beyond so many bytes: what a full disk does to a write, without being root."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_line_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "l.jsonl"
    lines = JsonLines(path)
    lines.add({"number": 1})
    with files_up_to(path.stat().st_size + 5), pytest.raises(OSError, match=r"l\.jsonl"):
        lines.add({"number": 2})
    assert path.read_text() == '{"number": 1}\n'
    lines.add({"number": 3})  # in the same process: other threads work on until all is ended
    lines.close()
    with closing(JsonLines(path)) as lines:
        assert lines.rows == [{"number": 1}, {"number": 3}]


def test_a_writer_loses_no_record_that_it_took(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "d", shard_records=3)
    writer.add(MANY[0])
    journal = tmp_path / "d" / "journal.jsonl"
    with files_up_to(journal.stat().st_size + 40), pytest.raises(OSError, match=r"journal\.jsonl"):
        writer.add(MANY[1])
    writer.add(MANY[1])
    limit = journal.stat().st_size + len(json.dumps(to_row(MANY[2]))) + 10
    with files_up_to(limit), pytest.raises(OSError, match=r"part-00000\.parquet"):
        writer.add(MANY[2])  # in the journal, but the shard does not fit
    writer._release()
    assert not list((tmp_path / "d").glob("*.part"))
    with Writer(tmp_path / "d", shard_records=3) as writer:
        assert writer.ids == {record.id for record in MANY[:3]}
    assert list(read(tmp_path / "d")) == MANY[:3]


def test_a_file_that_is_replaced_stays_if_the_new_one_does_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with files_up_to(20), pytest.raises(OSError, match=r"a\.json"):
        write_json(path, {"a": "long" * 100})
    assert read_json(path, mend="") == {"a": 1}
    assert [one.name for one in tmp_path.iterdir()] == ["a.json"]


def test_a_run_keeps_its_whole_blocks(tmp_path: Path) -> None:
    rows = [(make_item(n), Verdict("right", said="B"), make_story()) for n in range(40)]
    file = write_run(tmp_path, rows[:1]) / "predictions.sqlite"
    (wide,) = read_rows(file)
    more = [
        replace(
            wide,
            prediction=replace(wide.prediction, position=n, trajectory="x" * 9000),
            timing=replace(wide.timing, position=n),
        )
        for n in range(1, 5)
    ]
    with (
        Store(file, settings()) as store,
        files_up_to(file.stat().st_size),
        pytest.raises(OSError, match=r"predictions\.sqlite"),
    ):
        store.add(more)
    assert read_positions(file) == {0}


def test_a_folder_that_may_not_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def not_here(self: Path, *args: Any, **kwargs: Any) -> Any:  # root may write everywhere
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", not_here)
    for use in (Writer, lambda folder: JsonLines(folder / "l.jsonl"), StageStore):
        with pytest.raises(PermissionError, match=str(tmp_path)):
            use(tmp_path)


# ---------------------------------------------------------------- in use, and of another version


def training_folder(folder: Path, say: Callable[[str], None] = lambda line: None) -> TrainingFolder:
    return TrainingFolder(folder, ProcessGroup(0, 1), identity={}, unit="step", say=say)


HOLDERS: dict[str, Callable[[Path], Any]] = {
    "training": training_folder,
    "pipeline": StageStore,
    "records": Writer,
    "replies": lambda folder: JsonLines(folder / "replies.jsonl"),
    "any": lambda folder: Lock(folder / ".lock"),
}


@pytest.mark.parametrize("name", HOLDERS)
def test_the_second_process_is_refused_and_a_lock_that_was_left_is_none(name: str, tmp_path: Path) -> None:
    holder = HOLDERS[name]
    (tmp_path / ".lock").write_text("")  # of a process that was killed
    first = holder(tmp_path)
    with pytest.raises(ValueError, match=rf"{tmp_path}.* is in use by another process"):
        holder(tmp_path)
    first.close() if hasattr(first, "close") else first.__exit__(None, None, None)
    second = holder(tmp_path)
    second.close() if hasattr(second, "close") else second.__exit__(None, None, None)


def test_another_version_says_so_once(tmp_path: Path) -> None:
    for begin in (training_folder, lambda folder, say: StageStore(folder, say=say)):
        (tmp_path / ".lock").write_text("0.0.7")
        for expected in (1, 0):
            said: list[str] = []
            with begin(tmp_path, said.append):
                pass
            assert len([line for line in said if "by vzoom 0.0.7, this is " + vzoom.__version__ in line]) == expected
    assert (tmp_path / ".lock").read_text() == vzoom.__version__


def test_fuzzed_files_are_read_as_they_were_or_refused() -> None:
    """Some hundred; `python tests/fuzz/disk.py --long` damages files for minutes."""
    pytest.importorskip("trl", reason="trl (extra train) is not installed")
    from fuzz.disk import NUM_SHORT, fuzz

    outcomes = fuzz(seed=0, count=NUM_SHORT)
    assert min(outcomes["read"], outcomes["refused"]) > 20
