import json
from dataclasses import dataclass

import pytest

from vzoom.train.pipeline.stage_store import MANIFEST, StageStore, digest


@dataclass(frozen=True)
class Settings:
    steps: int = 3


def quiet(line):
    pass


class Maker:
    """Writes one file and counts its calls."""

    def __init__(self, text="made"):
        self.text, self.calls = text, 0

    def __call__(self, folder):
        self.calls += 1
        (folder / "out.txt").write_text(self.text)
        (folder / "log.txt").write_text("of no meaning")
        return [folder / "out.txt"]


def test_a_stage_is_made_once(tmp_path):
    source, maker = tmp_path / "source.txt", Maker()
    source.write_text("x")
    for _ in range(2):
        with StageStore(tmp_path / "run", say=quiet) as store:
            folder = store.stage("a/first", maker, settings={"s": Settings()}, inputs=[source])
    assert maker.calls == 1
    assert (folder / "out.txt").read_text() == "made"
    entry = json.loads((tmp_path / "run" / MANIFEST).read_text())["a/first"]
    assert entry["settings"] == {"s": {"steps": 3}}
    assert entry["inputs"] == {str(source): digest(source)}
    assert entry["outputs"] == {"a/first/out.txt": digest(folder / "out.txt")}
    assert entry["wall_seconds"] >= 0
    assert entry["versions"]["torch"]


@pytest.mark.parametrize("change", ["settings", "inputs", "outputs"])
def test_what_changed_since_is_named(tmp_path, change):
    source = tmp_path / "source.txt"
    source.write_text("x")
    with StageStore(tmp_path / "run", say=quiet) as store:
        folder = store.stage("first", Maker(), settings={"steps": 3}, inputs=[source])
        steps = 3
        if change == "settings":
            steps, match = 4, r"other settings \(steps\)"
        elif change == "inputs":
            source.write_text("y")
            match = r"other inputs \(.*source.txt\)"
        else:
            (folder / "out.txt").write_text("another")
            match = "out.txt of stage first has changed"
        with pytest.raises(ValueError, match=match):
            store.stage("first", Maker(), settings={"steps": steps}, inputs=[source])


def test_a_file_that_is_no_output_may_change(tmp_path):
    maker = Maker()
    with StageStore(tmp_path, say=quiet) as store:
        (store.stage("first", maker) / "log.txt").write_text("more")
        store.stage("first", maker)
    assert maker.calls == 1


def test_a_stage_that_was_stopped_goes_on_in_its_folder(tmp_path):
    def stopped(folder):
        (folder / "half").write_text("x")
        raise KeyboardInterrupt

    def go_on(folder):
        assert (folder / "half").read_text() == "x"
        return [folder / "half"]

    with StageStore(tmp_path, say=quiet) as store:
        with pytest.raises(KeyboardInterrupt):
            store.stage("first", stopped, settings={"steps": 3})
        assert "first" not in store.manifest
        with pytest.raises(ValueError, match="begun with other settings"):
            store.stage("first", go_on, settings={"steps": 4})
        store.stage("first", go_on, settings={"steps": 3})
        assert store.cpu_seconds == store.manifest["first"]["cpu_seconds"]


def test_seconds_of_earlier_attempts_count(tmp_path):
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / ".seconds.json").write_text('{"cpu_seconds": 100.0, "wall_seconds": 200.0}')
    with StageStore(tmp_path, say=quiet) as store:
        store.stage("first", Maker())
        assert 100 <= store.manifest["first"]["cpu_seconds"] < 110
        assert 200 <= store.manifest["first"]["wall_seconds"] < 210


def test_one_process_a_folder(tmp_path):
    with StageStore(tmp_path, say=quiet), pytest.raises(ValueError, match="another process"):
        StageStore(tmp_path)
    StageStore(tmp_path).close()


def test_a_run_may_be_moved(tmp_path):
    maker, second = Maker(), Maker("second")
    for name in ("here", "there"):
        with StageStore(tmp_path / name, say=quiet) as store:
            first = store.stage("first", maker)
            store.stage("second", second, inputs=[first / "out.txt"])
        if name == "here":
            (tmp_path / "here").rename(tmp_path / "there")
    assert (maker.calls, second.calls) == (1, 1)


def test_digests_tell_names_and_contents_apart(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_text("1")
    before = digest(tmp_path / "a")
    (tmp_path / "a" / ".hidden").write_text("1")
    assert digest(tmp_path / "a") == before
    (tmp_path / "a" / "x").rename(tmp_path / "a" / "y")
    assert digest(tmp_path / "a") != before
    with pytest.raises(ValueError, match="does not exist"):
        digest(tmp_path / "nothing")


def test_settings_must_be_plain_data(tmp_path):
    with StageStore(tmp_path, say=quiet) as store, pytest.raises(TypeError, match="not plain data"):
        store.stage("first", Maker(), settings={"x": object()})
