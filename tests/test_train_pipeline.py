"""The whole pipeline on a scale of seconds: every stage runs, is made once, and a kill changes nothing."""

import json
import os
import random
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from killing import STOPS

pytest.importorskip("trl", reason="needs the train extra")

import vzoom
from vzoom.cli import main
from vzoom.data.store import read
from vzoom.train.pipeline.pipeline import run_pipeline, stage_names
from vzoom.train.pipeline.stage_store import MANIFEST, StageStore
from vzoom.train.pipeline.stages import PipelineContext, train_sft
from vzoom.train.recipes import recipe_named
from vzoom.train.recipes.recipe import ReflectionRecipe, scaled

STAGES = [
    "base",
    "questions",
    "held-out",
    "rl-questions",
    "exemplars",
    "sft-exemplars",
    "reflections",
    "mixed",
    "sft",
    "grpo",
    "eval-sft",
    "eval-grpo",
]


def rehearsal():
    """A recipe for seconds: nothing is learned, everything happens."""
    recipe = scaled(recipe_named("ablation"), 0.003)
    synthetic = replace(
        recipe.synthetic,
        num_videos={"which": 3},
        rl_videos={"which": 2},
        questions_per_video=1,
        exemplars=3,
        eval_questions=2,
    )
    grpo = replace(
        recipe.grpo,
        steps=2,
        questions_per_step=2,
        num_rollouts=2,
        micro_batch_size=4,
        max_refills=0,
        max_sessions=4,
        eval_questions=2,
        save_every=1,
    )
    sft = replace(recipe.sft, batch_size=1, micro_batch_size=1, epochs=2, save_every=2)
    zoom = replace(recipe.zoom, max_new_tokens=32)
    return replace(recipe, zoom=zoom, synthetic=synthetic, sft=sft, grpo=grpo, reflection=ReflectionRecipe(ratio=0.5))


def outputs(folder):
    return {name: entry["outputs"] for name, entry in json.loads((folder / MANIFEST).read_text()).items()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """An undisturbed run, and what it said."""
    folder, said = tmp_path_factory.mktemp("pipeline") / "run", []
    figures = run_pipeline(rehearsal(), folder, say=said.append)
    return folder, figures, said


def test_every_stage_is_made_and_remembered(finished):
    folder, figures, said = finished
    manifest = json.loads((folder / MANIFEST).read_text())
    assert list(manifest) == STAGES == stage_names(rehearsal())
    for name, entry in manifest.items():
        assert entry["outputs"], name
        assert entry["versions"]["trl"]
    assert manifest["sft"]["inputs"].keys() >= {"mixed/records", "base/model.safetensors"}
    assert manifest["grpo"]["settings"]["grpo"]["num_rollouts"] == 2
    assert "rl-questions/questions" in manifest["grpo"]["inputs"]
    assert said[:2] == [f"ablation: 12 stages in {folder}, 0 of them done", "[1/12] base"]
    assert [line for line in said if line.startswith("[12/12] eval-grpo: done in")]

    assert figures == json.loads((folder / "results.json").read_text())
    assert figures["grpo"]["which"]["n"] == 2
    zoomer = vzoom.load(folder / "grpo", device="cpu")
    assert zoomer.config == rehearsal().zoom


def test_rl_asks_of_videos_that_nothing_was_learned_from(finished):
    folder, _, _ = finished
    learned, asked = (
        {record.video.sha256 for record in read(folder / name)} for name in ("mixed/records", "rl-questions/questions")
    )
    assert len(asked) == 2
    assert not learned & asked


def test_a_second_run_makes_nothing_again(finished):
    folder, figures, _ = finished
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}
    said = []
    assert run_pipeline(rehearsal(), folder, say=said.append) == figures
    assert [f"[{i}/12] {name}: done before" in said for i, name in enumerate(STAGES, 1)] == [True] * len(STAGES)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_another_recipe_in_the_same_folder_is_refused(finished):
    recipe = rehearsal()
    with pytest.raises(ValueError, match=r"stage base was made with other settings \(curriculum\)"):
        run_pipeline(
            replace(
                recipe, synthetic=replace(recipe.synthetic, curriculum=replace(recipe.synthetic.curriculum, seed=1))
            ),
            finished[0],
            say=lambda line: None,
        )


_SCRIPT = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from test_train_pipeline import rehearsal
from vzoom.train.pipeline.pipeline import run_pipeline
from vzoom.interrupts import run_until_signal

def main():
    run_pipeline(rehearsal(), Path(sys.argv[1]), say=lambda line: print(line, flush=True))
    return 0

sys.exit(run_until_signal(main, line="stopped by {}".format, is_program=True))
"""


def test_killed_again_and_again_it_ends_in_the_same_files(finished, tmp_path):
    """Stopped in every way soon after the start of a slow stage, it ends in the files of an undisturbed run."""
    folder = finished[0]
    undisturbed = outputs(folder)
    folder.rename(tmp_path / "undisturbed")  # the other one takes its place: records hold the paths of their videos
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    stops, stop, draw = iter(STOPS), None, random.Random(0)
    left = {"base": 0.4, "exemplars": 0.2, "sft-exemplars": 1.0, "reflections": 0.3, "grpo": 1.5}
    while True:
        process = subprocess.Popen(
            [sys.executable, "-c", _SCRIPT, str(folder)], stdout=subprocess.PIPE, text=True, env=environment
        )
        for line in process.stdout:
            if (seconds := left.pop(line.strip().partition("] ")[2], None)) is not None:
                time.sleep(seconds)
                stop = next(stops)
                stop(process.pid, draw)
                break
        else:
            stop = None
        process.stdout.close()
        code = process.wait()
        if stop is None:
            break
        if code != -stop.signals[0]:  # which it is before it listens to signals, and after it stopped doing so
            assert code == stop.code
    assert code == 0
    assert not left
    assert outputs(folder) == undisturbed


def refused(capsys, *words):
    """What the pipeline says when it refuses a command."""
    assert main(["train", "pipeline", *map(str, words)]) == 2
    return capsys.readouterr().err


def test_what_does_not_fit_is_refused_at_the_start(tmp_path, capsys):
    none = tmp_path / "none"
    out = ("--out", tmp_path / "out")
    assert "needs --questions" in refused(capsys, "qwen2.5-vl-7b", *out)
    assert f"--questions {none} holds no records" in refused(capsys, "qwen2.5-vl-7b", *out, "--questions", none)
    assert "renders its own questions" in refused(capsys, "ablation", *out, "--questions", none)
    assert "renders its own questions" in refused(capsys, "ablation", *out, "--eval-questions", none)
    assert "leave --launch out" in refused(capsys, "ablation", *out, "--launch", "cpu2", "--scale", "0.1")
    assert "configs of vzoom are cpu2, fsdp2, single, zero3" in refused(capsys, "tiny", *out, "--launch", "fsdp9")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("recipe", "package"),
    [("tiny", name) for name in ("trl", "datasets", "pyarrow", "accelerate")] + [("qwen2.5-vl-3b-1gpu", "peft")],
)
def test_a_missing_package_is_named_before_the_first_stage(
    recipe, package, some_questions, tmp_path, capsys, monkeypatch
):
    monkeypatch.setitem(sys.modules, package, None)
    questions = () if recipe == "tiny" else ("--questions", some_questions)
    said = refused(capsys, recipe, "--out", tmp_path / "out", *questions)
    assert f"{package} is not installed: run pip install '.[train]'" in said
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def some_questions(finished):
    """Any folder of records."""
    return finished[0] / "held-out" / "questions"


def test_trainings_are_launched_as_commands(finished, tmp_path):
    """What `--launch` starts: the words, then `-m vzoom.train sft …`; a failure says how to resume."""
    recipe, log = rehearsal(), tmp_path / "words"
    launch = (sys.executable, "-c", f"import sys; open({str(log)!r}, 'w').write(' '.join(sys.argv[1:])); sys.exit(3)")
    folder = finished[0]
    with StageStore(tmp_path / "run", say=lambda line: None) as store:
        context = PipelineContext(store, recipe, launch=launch)
        with pytest.raises(ValueError, match="exit code 3: run the same command again"):
            train_sft(context, "sft", base=folder / "base", data=folder / "mixed" / "records", eval_questions=None)
    assert log.read_text().startswith(f"-m vzoom.train sft ablation --base {folder / 'base'} --out ")
    assert f"--data {folder / 'mixed' / 'records'}" in log.read_text()
    assert "--eval-questions" not in log.read_text()
