"""vzoom as a model of lmms-eval: its own task on rendered videos, and the rules of the adapter without it."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
from eval_files import write_parquet

import vzoom
from vzoom.config import ZoomConfig
from vzoom.eval.lmms.answer import replies
from vzoom.eval.lmms.question import Generation, read_question
from vzoom.eval.lmms.settings import Settings
from vzoom.synthetic.questions import ask_questions
from vzoom.synthetic.spec import make_video
from vzoom.synthetic.video import render
from vzoom.zoomer import Result

ROOT = Path(__file__).parents[1]
NUM_ROWS = 5
PROMPT = (
    "Select the best answer to the following multiple-choice question based on the video and the subtitles. "
    "Respond with only the letter (A, B, C, or D) of the correct option.\n{question}\n{options}\n\n"
    "Answer with the option's letter from the given choices directly."
)


def _messages(*parts: dict[str, Any], role: str = "user") -> list[dict[str, Any]]:
    return [{"role": role, "content": list(parts)}]


def _video_part(path: Path) -> dict[str, Any]:
    return {"type": "video", "url": str(path)}


def _read(messages: list[dict[str, Any]], **kwargs: Any) -> Any:
    return read_question(messages, kwargs, task="t", document=7, repeat=0, seed=0)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as HF_HOME, with the videos where `videomme` looks for them."""
    home = tmp_path_factory.mktemp("hf")
    folder = home / "videomme" / "data"
    folder.mkdir(parents=True)
    for number in range(NUM_ROWS):
        render(make_video(number), folder / f"world{number}.mp4")
    return home


# ---------------------------------------------------------------- without lmms_eval


def test_arguments_are_checked_before_a_model_is_loaded():
    settings = Settings.from_args({"pretrained": "m", "batch_size": "4", "budget": 32, "policy": "uniform"})
    assert (settings.sessions, settings.look.configs(ZoomConfig())[0].glance_max_frames) == (4, 32)
    assert Settings.from_args({"pretrained": "m", "batch_size": "4", "max_sessions": 2}).sessions == 2
    assert settings.limit(ZoomConfig(max_zooms=3)).max_zooms == 3
    for args, told in (
        ({}, "pretrained=M"),
        ({"pretrained": "m", "max_zoom": 1}, "unknown max_zoom; there are .*max_zooms"),
        ({"pretrained": "m", "max_zooms": -1.0}, "max_zooms must be a whole number, got -1.0"),
        ({"pretrained": "m", "max_zooms": True}, "max_zooms must be a whole number"),
        ({"pretrained": "m", "batch_size": "auto"}, "--batch_size must be a whole number"),
        ({"pretrained": "m", "max_sessions": 0}, "max_sessions must be 1 or more"),
        ({"pretrained": "m", "policy": "often"}, "policy must be one of"),
        ({"pretrained": "m", "fps": 1.0}, "for the policy uniform"),
    ):
        with pytest.raises(ValueError, match=told):
            Settings.from_args(args)


def test_a_task_decides_sampling_and_stops_but_not_the_length_of_a_thought():
    greedy = Generation.of({"temperature": 0, "top_p": 0, "max_new_tokens": 16, "until": ["\n\n"]}, source="t")
    assert greedy == Generation()
    assert Generation.of({"temperature": 0.7, "do_sample": False}, source="t").temperature == 0
    sampled = Generation.of({"temperature": 0.7, "do_sample": True, "until": "Q:"}, source="t")
    assert sampled == Generation(0.7, ("Q:",))
    assert sampled.cut("one\n\ntwo Q: three") == "one\n\ntwo"
    assert Generation.of({"until": [None]}, source="t").stops == ()
    with pytest.raises(ValueError, match="t: vzoom does no beam search: add --gen_kwargs num_beams=1"):
        Generation.of({"num_beams": 4}, source="t")
    with pytest.raises(ValueError, match="by temperature alone"):
        Generation.of({"temperature": 1.0, "top_p": 0.95}, source="t")


def test_a_question_is_one_text_and_one_whole_video(videos: Path):
    path = videos / "videomme" / "data" / "world0.mp4"
    video, text = _video_part(path), {"type": "text", "text": "What?"}
    question = _read([{"role": "system", "content": "Be short."}, *_messages(video, text)])
    assert (question.item.question, question.path, question.item.source) == ("Be short.\nWhat?", path, "t, document 7")
    assert question.seed != read_question(_messages(video, text), {}, task="t", document=7, repeat=1, seed=0).seed
    for messages, told in (
        (_messages(text), "t, document 7: .*one video, and this one has nothing to see"),
        (_messages(video, video, text), "this one has video, video"),
        (_messages({"type": "image", "url": "x.png"}, text), "this one has image"),
        (_messages(_video_part(path.with_name("gone.mp4")), text), "no file .*gone.mp4; fetch"),
        (_messages({**video, "start_time": 3.0}, text), "whole video files"),
        (_messages({"type": "video", "url": {"url": str(path), "video_start": 3}}, text), "whole video files"),
        (_messages(video), "question of item .* is empty"),
        ([*_messages(text, role="assistant"), *_messages(video, text)], "turns of 'assistant'"),
    ):
        with pytest.raises(ValueError, match=told):
            _read(messages)


def test_replies_are_those_of_ask_and_come_block_by_block(videos: Path):
    zoomer = vzoom.load("embedded", device="cpu")
    settings = Settings("embedded", batch_size=1)  # blocks of two
    rows = _rows(videos, "ABCDA")
    direct = _ask(zoomer, videos, rows)
    questions = [
        _read(
            _messages(_video_part(videos / "videomme" / "data" / f"{row['videoID']}.mp4"), {"type": "text", "text": t})
        )
        for row, t in ((row, _prompt(row)) for row in rows)
    ]
    bad = videos / "broken.mp4"
    bad.write_bytes(b"no video")
    questions[4] = _read(_messages(_video_part(bad), {"type": "text", "text": "What?"}))
    replied = replies(zoomer, questions, settings)
    for result in direct[:4]:
        reply = next(replied)
        assert reply.text == (result.answer or "")
        assert (reply.num_fed, reply.num_written) == tuple(_counts(result).values())
    with pytest.raises(ValueError, match=r"t, document 7: .*broken.mp4.*fetch it again, or take its rows out"):
        next(replied)


# ---------------------------------------------------------------- with lmms_eval


def _rows(videos: Path, golds: str) -> list[dict[str, Any]]:
    """In the columns that are published; every field that the task reads has one of the values that it knows."""
    rows = []
    for number, gold in enumerate(golds):
        question = ask_questions(make_video(number), "which", number)
        rows.append(
            {
                "video_id": f"{number + 1:03d}",
                "duration": ("short", "medium", "long")[number % 3],
                "domain": "Knowledge",
                "sub_category": "Astronomy",
                "url": "",
                "videoID": f"world{number}",
                "question_id": f"{number + 1:03d}-1",
                "task_type": "Object Recognition",
                "question": question.text.splitlines()[0],
                "options": [f"{letter}. {text}" for letter, text in zip("ABCD", question.options, strict=True)],
                "answer": gold,
            }
        )
    return rows


def _prompt(row: dict[str, Any]) -> str:
    return PROMPT.format(question=row["question"], options="\n".join(row["options"]))


def _ask(zoomer: vzoom.Zoomer, videos: Path, rows: list[dict[str, Any]]) -> list[Result]:
    folder = videos / "videomme" / "data"
    return zoomer.ask_many([(folder / f"{row['videoID']}.mp4", _prompt(row)) for row in rows])


def _counts(result: Result) -> dict[str, int]:
    turns = result.trajectory.turns
    return {"input_tokens": sum(t.num_prefilled for t in turns), "output_tokens": sum(t.num_sampled for t in turns)}


@pytest.fixture(scope="module")
def asked(videos: Path) -> list[Result]:
    """What vzoom answers to the task's prompts, asked without lmms-eval."""
    return _ask(vzoom.load("embedded", device="cpu"), videos, _rows(videos, "ABCDA"))


@pytest.fixture
def workplace(tmp_path: Path, videos: Path, asked: list[Result]) -> Path:
    """Where `lmms-eval/Video-MME` is a folder: rows 0 to 2 say what vzoom answers, rows 3 and 4 another letter."""
    said = [result.answer for result in asked]
    assert all(letter in tuple("ABCD") for letter in said), f"the rows need answers that are letters, got {said}"
    golds = "".join(str(letter) if n < 3 else "ABCD"["ABCD".index(str(letter)) - 1] for n, letter in enumerate(said))
    write_parquet(tmp_path / "lmms-eval/Video-MME/videomme/test-00000-of-00001.parquet", _rows(videos, golds))
    # The entry point as an installation has it: a source tree on the path has none.
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["lmms_eval.models"]
    info = tmp_path / "path" / "vzoom_entry-0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: vzoom-entry\nVersion: 0\n")
    lines = [f"{name} = {target}" for name, target in declared.items()]
    (info / "entry_points.txt").write_text("\n".join(["[lmms_eval.models]", *lines, ""]))
    return tmp_path


def _start(workplace: Path, videos: Path, *words: str, out: str) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(workplace / "path")]),
        "HF_HOME": str(videos),
        "HF_HUB_OFFLINE": "1",
        "LMMS_CACHE_RUN_ID": "one",
    }
    command = [sys.executable, "-m", "lmms_eval", "--model", "vzoom", "--tasks", "videomme", "--log_samples"]
    command += ["--model_args", "pretrained=embedded,device=cpu", "--output_path", out, *words]
    with (workplace / f"{out}.log").open("w") as log:
        return subprocess.Popen(
            command, cwd=workplace, env=environment, text=True, stdout=log, stderr=subprocess.STDOUT
        )


def _finish(process: subprocess.Popen[str], workplace: Path, out: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The figures of the task, and its samples in the order of the rows."""
    code = process.wait(timeout=900)
    log = (workplace / f"{out}.log").read_text()
    assert code == 0, log[-3000:]
    results = list((workplace / out).rglob("*_results.json"))
    assert len(results) == 1, log[-3000:]
    (samples,) = (workplace / out).rglob("*_samples_videomme.jsonl")
    rows = [json.loads(line) for line in samples.read_text().splitlines()]
    return json.loads(results[0].read_text()), sorted(rows, key=lambda row: row["doc_id"])


def test_its_own_task_runs_unchanged_and_scores_three_of_five(workplace: Path, videos: Path, asked: list[Result]):
    pytest.importorskip("lmms_eval")
    results, samples = _finish(_start(workplace, videos, "--batch_size", "2", out="run"), workplace, "run")
    assert results["configs"]["videomme"]["dataset_path"] == "lmms-eval/Video-MME"
    assert "vzoom.eval.lmms.plugin.VZoom (chat)" in results["config"]["model_backend"]
    assert results["results"]["videomme"]["videomme_perception_score,none"] == 60.0
    assert [sample["filtered_resps"] for sample in samples] == [result.answer for result in asked]
    assert [sample["input"] for sample in samples] == [result.trajectory.question for result in asked]
    assert [sample["token_counts"] for sample in samples] == [[_counts(result)] for result in asked]
    assert any(result.clips for result in asked), "no question was zoomed at: the counts say nothing about clips"


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_was(workplace: Path, videos: Path, asked: list[Result]):
    pytest.importorskip("lmms_eval")
    audit = workplace / "cache" / "runs" / "one" / "rank_0.audit.jsonl"
    words = ("--batch_size", "1", "--use_cache", "cache")
    first = _start(workplace, videos, *words, out="killed")
    deadline = time.monotonic() + 600
    while not (audit.exists() and audit.read_text().count("\n")):
        assert first.poll() is None, (workplace / "killed.log").read_text()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    first.send_signal(signal.SIGKILL)
    first.wait()
    kept = audit.read_text().count("\n")
    assert 1 <= kept < NUM_ROWS
    results, samples = _finish(_start(workplace, videos, *words, out="second"), workplace, "second")
    assert audit.read_text().count("\n") == NUM_ROWS, "an answer that was kept was asked for again"
    assert results["results"]["videomme"]["videomme_perception_score,none"] == 60.0
    assert [sample["filtered_resps"] for sample in samples] == [result.answer for result in asked]


def test_what_vzoom_cannot_do_is_said():
    pytest.importorskip("lmms_eval")
    plugin = importlib.import_module("vzoom.eval.lmms.plugin")
    model = plugin.VZoom(pretrained="embedded", device="cpu", batch_size="1")
    with pytest.raises(NotImplementedError, match="no likelihood"):
        model.loglikelihood([])
    with pytest.raises(NotImplementedError, match="generate_until_multi_round are not supported"):
        model.generate_until_multi_round([])
    assert list(model.generate_until([])) == []
    model.clean()
    assert not hasattr(model, "zoomer")
