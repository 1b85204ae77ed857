"""The benchmark against peers: that the workload is what it claims, and that wrong tokens are never timed."""

from __future__ import annotations

import inspect
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "bench"))
import command
import harness
import make_models
import report
import write_tables
from bench_context import fit
from chart import lines
from harness import Entry, Launcher, compare
from peers import make_system
from protocols import DIRECT
from workload import SHAPES, ControlIds, Shape, Workload

IDS = ControlIds(image=8134, vision_start=8131, vision_end=8132)
LITTLE = Shape(glance_frames=3, clip_frames=2, zooms=2, rollouts=2, zoom_tokens=4, answer_tokens=5, side_pixels=56)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny-float32")
    make_models.make("tiny", "float32", folder)
    return folder


# ---------------------------------------------------------------- the workload


def test_the_workloads_are_those_that_the_targets_are_set_for() -> None:
    single, group = SHAPES["single"], SHAPES["group"]
    assert (single.glance_frames, single.clip_frames, single.zooms, single.rollouts) == (64, 16, 4, 1)
    assert (group.glance_frames, group.clip_frames, group.zooms, group.rollouts) == (64, 16, 2, 8)
    assert single.tokens_a_frame == 36
    assert [single.turn_tokens(turn) for turn in range(single.turns)] == [60, 60, 60, 60, 64]
    work = Workload.make(single, IDS, seed=0)
    assert len(work.expanded(work.prompt_ids)) == 3568
    assert work.final_tokens == 3568 + 4 * 881 + 4 * 60 + 64
    assert {entry.split("/")[0] for entry in (t.entry for t in report.TARGETS)} == {"single", "group"}


def test_a_workload_survives_its_file_and_differs_by_seed(tmp_path: Path) -> None:
    work = Workload.make(LITTLE, IDS, seed=3)
    work.save(tmp_path / "w.npz")
    same = Workload.load(tmp_path / "w.npz")
    assert same.shape == LITTLE
    for name in ("prompt_ids", "turn_ids", "glance", "clips"):
        assert np.array_equal(getattr(work, name), getattr(same, name))
        assert not np.array_equal(getattr(work, name), getattr(Workload.make(LITTLE, IDS, seed=4), name))
    assert work.clips.shape == (2, 2, 2, 56, 56, 3)
    assert len(np.unique(work.clips.reshape(8, -1), axis=0)) == 8  # no frame twice: a cache would find it


def test_every_image_id_becomes_the_tokens_of_its_frame() -> None:
    work = Workload.make(LITTLE, IDS, seed=0)
    assert (work.prompt_ids == IDS.image).sum() == 3
    expanded = np.array(work.expanded(work.prompt_ids))
    assert (expanded == IDS.image).sum() == 3 * LITTLE.tokens_a_frame == 12
    assert np.array_equal(expanded[expanded != IDS.image], work.prompt_ids[work.prompt_ids != IDS.image])


def test_control_ids_come_from_the_checkpoint(tiny: Path) -> None:
    assert ControlIds.of_checkpoint(tiny) == IDS


# ---------------------------------------------------------------- vzoom under it


def test_the_counting_session_samples_what_a_fresh_prefill_of_its_ids_would(tiny: Path) -> None:
    """Every token of every rollout against stock transformers, with all frames of the conversation given again."""
    system: Any = make_system("vzoom", model=str(tiny), dtype="float32")
    work = Workload.make(LITTLE, ControlIds.of_checkpoint(tiny), seed=1)
    system.prepare(work)
    sampled = system.run(work)
    assert [[len(tokens) for tokens in turn] for turn in sampled] == [[4, 4], [4, 4], [5, 5]]
    assert system.phases.decode_tokens == 2 * (3 + 3 + 4)
    assert set(system.phases.seconds) == {"patches", "vision", "prefill", "decode"}

    from vzoom.config import ZoomConfig
    from vzoom.models import load_checkpoint
    from vzoom.video.patches import frames_to_patches

    checkpoint = load_checkpoint(str(tiny), device="cpu", dtype="float32")
    typed = "mm_token_type_ids" in inspect.signature(checkpoint.model.hf.forward).parameters  # not in transformers 5.0
    lengths = []
    for rollout in range(LITTLE.rollouts):
        ids, frames = work.expanded(work.prompt_ids), work.glance
        for turn in range(LITTLE.turns):
            lengths.append(len(ids))
            ids += sampled[turn][rollout]
            if turn < LITTLE.zooms:
                ids += work.expanded(work.turn_ids[rollout, turn])
                frames = np.concatenate([frames, work.clips[rollout, turn]])
        patches, (h, w) = frames_to_patches(frames, config=ZoomConfig(protocol=DIRECT), spec=checkpoint.patch_spec)
        held = torch.tensor([ids])
        with torch.inference_mode():
            logits = checkpoint.model.hf(
                input_ids=held,
                pixel_values=patches,
                image_grid_thw=torch.tensor([(1, h, w)] * len(frames)),
                **({"mm_token_type_ids": (held == IDS.image).int()} if typed else {}),
            ).logits[0]
        logprobs = logits.log_softmax(-1)
        for turn in range(LITTLE.turns):
            begin = lengths[rollout * LITTLE.turns + turn]
            for i, token in enumerate(sampled[turn][rollout]):
                row = logprobs[begin + i - 1]
                assert int(row.argmax()) == token
                assert abs(float(row[token]) - system.logprobs[turn][rollout][i]) < 1e-4
    assert system.prompt_tokens == lengths[: LITTLE.turns]


def test_a_second_run_starts_afresh(tiny: Path) -> None:
    system: Any = make_system("vzoom", model=str(tiny), dtype="float32")
    work = Workload.make(LITTLE, ControlIds.of_checkpoint(tiny), seed=1)
    encoded = []
    for _ in range(2):
        system.prepare(work)
        system.phases.reset()
        system.run(work)
        encoded.append(system.features.stats().misses)
    assert encoded == [11, 22]  # 3 of the glance and 2 rollouts x 2 clips x 2 frames, each time again


# ---------------------------------------------------------------- the harness

FAKE = """
import json, sys
name, deviation = sys.argv[2], {deviation!r}
print("some library speaks")
print("READY", json.dumps(dict(versions={{}}, settings={{}}, ready_wall=1.0, ready_cpu=1.0, rss=1.0)), flush=True)
for number, line in enumerate(sys.stdin):
    request = json.loads(line)
    open({order!r}, "a").write(f"{{name}}{{number}} ")
    if name == "vllm" and deviation == "dies":
        print("out of pages", file=sys.stderr)
        sys.exit(3)
    tokens = [[[5] * 60] for _ in range(4)] + [[[5] * 64]]
    if name == "vllm" and deviation == "token":
        tokens[2][0][7] = 6
    logprob = -1.01 if name == "vllm" and deviation == "logprob" else -1.0
    logprobs = [[[logprob] * len(t) for t in turn] for turn in tokens]
    print("RESULT", json.dumps(dict(
        wall=2.0, cpu=2.0 if name == "vllm" else 1.0, phases=dict(decode=0.5), decode_tokens=100,
        prompt_tokens=[1 if deviation == "count" and name == "vllm" else 2], tokens=tokens,
        logprobs=logprobs if request["checked"] else None, peak_rss_mib=7.0 + number, load_average=0.0)), flush=True)
"""


def _measure(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch, deviation: str, dtype: str = "float32"
) -> dict[str, Any]:
    (tmp_path / "child.py").write_text(FAKE.format(deviation=deviation, order=str(tmp_path / "order")))
    monkeypatch.setattr(harness, "HERE", tmp_path)
    systems = [Launcher(name, Path(sys.executable)) for name in ("vzoom", "vllm")]
    return harness.measure(
        Entry("single", "tiny", dtype), systems, tiny, repeats=2, threads=1, log_folder=tmp_path / "logs"
    )


def test_systems_take_turns_and_memory_is_that_of_the_first_run(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = _measure(tmp_path, tiny, monkeypatch, "none")
    assert (tmp_path / "order").read_text() == "vzoom0 vllm0 vzoom1 vllm1 vllm2 vzoom2 "
    assert entry["reference"] == "vllm"
    assert entry["agreement"]["vzoom"]["equal"]
    assert entry["systems"]["vzoom"]["peak_rss_mib"] == 7.0
    assert [run["agrees"] for run in entry["systems"]["vzoom"]["runs"]] == [True, True]


@pytest.mark.parametrize(
    ("deviation", "says"),
    [("token", "part in float32, after .127. of 304"), ("logprob", "1.0e-02 apart"), ("count", "counted contexts")],
)
def test_nothing_is_timed_where_systems_differ(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch, deviation: str, says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        _measure(tmp_path, tiny, monkeypatch, deviation)
    assert (tmp_path / "order").read_text() == "vzoom0 vllm0 "


def test_in_bfloat16_the_first_difference_is_reported(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = _measure(tmp_path, tiny, monkeypatch, "token", "bfloat16")["agreement"]["vzoom"]
    assert not found["equal"]
    assert (found["rollouts"], found["of"]) == ([127], 304)


def test_a_system_that_dies_is_an_error_with_its_last_words(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RuntimeError, match=r"vllm ended with 3 instead of RESULT:\nout of pages"):
        _measure(tmp_path, tiny, monkeypatch, "dies")


def test_log_probabilities_count_up_to_the_first_difference() -> None:
    one = {"tokens": [[[1, 2, 3]]], "prompt_tokens": [4], "logprobs": [[[-1.0, -2.5, -3.0]]]}
    other = {"tokens": [[[1, 9, 3]]], "prompt_tokens": [4], "logprobs": [[[-1.0, -2.0, -9.0]]]}
    found = compare(one, other)
    assert (found["rollouts"], found["equal"], found["logprob_difference"]) == ([1], False, 0.5)


# ---------------------------------------------------------------- the report


def _entry(vzoom_seconds: list[float], vllm_seconds: list[float]) -> dict[str, Any]:
    def system(seconds: list[float]) -> dict[str, Any]:
        same = {"decode_tokens": 100, "agrees": True}
        runs = [{**same, "cpu": s, "wall": s, "phases": {"decode": s / 2}} for s in seconds]
        start = {"peak_rss_mib": 800.0, "ready_wall": 2.0, "ready_cpu": 2.0, "versions": {}, "settings": {}}
        return report.medians({**start, "runs": runs})

    return {"repeats": len(vzoom_seconds), "systems": {"vzoom": system(vzoom_seconds), "vllm": system(vllm_seconds)}}


def test_ratios_are_of_medians_and_earlier_entries_stay(tmp_path: Path) -> None:
    path = tmp_path / "results" / "session.json"
    report.merge(path, "single/small/float32", _entry([9.0, 8.0, 30.0], [10.0, 9.0, 11.0]))
    report.merge(path, "single/small/bfloat16", _entry([8.0], [10.0]))
    held = json.loads(path.read_text())
    assert held["ratio_to_vllm"] == {"single/small/bfloat16": 0.8, "single/small/float32": 0.9}
    met = {(t["figure"], t["entry"]): t["met"] for t in held["targets"]}
    assert met["ratio_to_vllm", "single/small/float32"] is True
    assert met["ratio_to_vllm", "single/small/bfloat16"] is False
    assert met["decode_tokens_per_cpu_second", "single/small/bfloat16"] is False  # 25 a second
    assert met["peak_rss_mib", "single/small/float32"] is True
    assert met["ratio_to_vllm", "group/small/bfloat16"] is None
    printed = report.table(held, ["single/small/float32"])
    assert "| single/small/float32 | vzoom | 9.00 (8.00–30.00) | 0.90 |" in printed
    assert "| ≤ 0.65 | – | not measured |" in printed


def test_a_name_that_is_no_entry_and_a_system_that_is_none() -> None:
    with pytest.raises(ValueError, match="single/small/int8"):
        Entry.parse("single/small/int8")
    options = command.parser("", ["single/tiny/float32"]).parse_args(["--systems", "vzoom,tgi"])
    with pytest.raises(ValueError, match="'tgi'"):
        command.launchers(options)


def test_a_peer_without_an_environment_is_named_and_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    options = command.parser("", ["single/tiny/float32"]).parse_args([])
    assert [launcher.system for launcher in command.launchers(options)] == ["vzoom"]
    assert "vllm: no environment" in capsys.readouterr().err


def test_an_entry_that_is_there_is_not_measured_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "session.json"
    report.merge(path, "single/tiny/float32", _entry([1.0], [2.0]))
    before = path.read_text()
    entries = ["single/tiny/float32"]
    options = command.parser("", entries).parse_args(["--resume", "--out", str(path), "--systems", "vzoom"])
    assert command.run(options) == 0
    assert path.read_text() == before
    assert "| single/tiny/float32 | vzoom | 1.00" in capsys.readouterr().out


# ---------------------------------------------------------------- cost against context


def test_a_fit_finds_the_line() -> None:
    found = fit({1024: 1.5, 2048: 2.0, 8192: 5.0})
    assert found == pytest.approx({"at_none": 1.0, "per_1024_tokens": 0.5, "r2": 1.0})


def test_the_chart_is_well_formed_and_to_scale() -> None:
    from xml.etree import ElementTree

    text = lines("a < b", {"left": {"one": {1024: 0.5, 2048: 1.0}}, "right": {"two": {1024: 3.0, 2048: 4.0}}})
    root = ElementTree.fromstring(text)
    found = [line.attrib["points"] for line in root.iter("{http://www.w3.org/2000/svg}polyline")]
    (x1, y1), (x2, y2) = (map(float, point.split(",")) for point in found[0].split())
    assert (x2 - 52) == pytest.approx(2 * (x1 - 52))  # both axes begin at 0, at x = 52 and y = 260
    assert (260 - y2) == pytest.approx(2 * (260 - y1))


# ---------------------------------------------------------------- the document


def test_tables_go_between_their_marks_and_nowhere_else() -> None:
    before = "a\n<!-- session: python x -->\nold\n<!-- end -->\nb\n"
    after = write_tables.fill(before, {"session": "| new |"})
    assert after == "a\n<!-- session: python x -->\n\n| new |\n\n<!-- end -->\nb\n"
    assert write_tables.fill(after, {"session": "| new |"}) == after
    with pytest.raises(ValueError, match="'context'"):
        write_tables.fill(before, {"context": "| new |"})


def test_the_document_shows_what_the_results_hold() -> None:
    text = write_tables.DOCUMENT.read_text()
    assert write_tables.fill(text, write_tables.tables()) == text, "run python bench/write_tables.py"
