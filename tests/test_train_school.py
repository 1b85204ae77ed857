"""The whole school on a scale of seconds: every stage runs, is made once, and a kill changes nothing."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("trl", reason="needs the train extra")

import vzoom
from vzoom.cli import main
from vzoom.cli.commands.pipeline import RECIPES as NAMES
from vzoom.data.store import read
from vzoom.train.pipeline.pipeline import run_school
from vzoom.train.pipeline.run import MANIFEST, Run
from vzoom.train.pipeline.stages import School, uniform
from vzoom.train.recipes import RECIPES, recipe_named
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
    "examine-sft",
    "examine-grpo",
]


def rehearsal():
    """A recipe for seconds: nothing is learned, everything happens."""
    recipe = scaled(recipe_named("ablation"), 0.003)
    world = replace(
        recipe.world,
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
    return replace(recipe, zoom=zoom, world=world, sft=sft, grpo=grpo, reflection=ReflectionRecipe(ratio=0.5))


def outputs(folder):
    return {name: entry["outputs"] for name, entry in json.loads((folder / MANIFEST).read_text()).items()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """An undisturbed run, and what it said."""
    folder, said = tmp_path_factory.mktemp("school") / "run", []
    figures = run_school(rehearsal(), folder, say=said.append)
    return folder, figures, said


def test_every_stage_is_made_and_remembered(finished):
    folder, figures, _ = finished
    manifest = json.loads((folder / MANIFEST).read_text())
    assert list(manifest) == STAGES
    for name, entry in manifest.items():
        assert entry["outputs"], name
        assert entry["versions"]["trl"]
    assert manifest["sft"]["inputs"].keys() >= {"mixed/records", "base/model.safetensors"}
    assert manifest["grpo"]["settings"]["grpo"]["num_rollouts"] == 2
    assert "rl-questions/questions" in manifest["grpo"]["inputs"]

    assert figures == json.loads((folder / "school.json").read_text())
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
    assert run_school(rehearsal(), folder, say=said.append) == figures
    assert [f"[{name}] done before" in said for name in STAGES] == [True] * len(STAGES)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_another_recipe_in_the_same_folder_is_refused(finished):
    recipe = rehearsal()
    with pytest.raises(ValueError, match=r"stage base was made with other settings \(curriculum\)"):
        run_school(
            replace(recipe, world=replace(recipe.world, curriculum=replace(recipe.world.curriculum, seed=1))),
            finished[0],
            say=lambda line: None,
        )


_SCRIPT = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from test_train_school import rehearsal
from vzoom.train.pipeline.pipeline import run_school
run_school(rehearsal(), Path(sys.argv[1]), say=lambda line: print(line, flush=True))
"""


def test_killed_again_and_again_it_ends_in_the_same_files(finished, tmp_path):
    """kill -9 soon behind the begin of each stage that takes time; what is left in the end is an undisturbed run's."""
    folder = finished[0]
    undisturbed = outputs(folder)
    folder.rename(tmp_path / "undisturbed")  # the other one lies where it lay: records hold the paths of their videos
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    left = {"base": 0.4, "exemplars": 0.2, "sft-exemplars": 1.0, "reflections": 0.3, "grpo": 1.5}
    while True:
        process = subprocess.Popen(
            [sys.executable, "-c", _SCRIPT, str(folder)], stdout=subprocess.PIPE, text=True, env=environment
        )
        for line in process.stdout:
            if (seconds := left.pop(line.strip().strip("[]"), None)) is not None:
                time.sleep(seconds)
                process.send_signal(signal.SIGKILL)
                break
        process.stdout.close()
        if (code := process.wait()) != -signal.SIGKILL:
            break
    assert code == 0
    assert not left
    assert outputs(folder) == undisturbed


def test_a_recipe_without_a_world_needs_questions(tmp_path, capsys):
    assert main(["school", "qwen2.5-vl-7b", "--out", str(tmp_path)]) == 2
    assert "needs a folder of questions" in capsys.readouterr().err
    assert main(["school", "ablation", "--out", str(tmp_path), "--questions", str(tmp_path)]) == 2
    assert "renders its own questions" in capsys.readouterr().err
    assert main(["school", "ablation", "--out", str(tmp_path), "--launch", "accelerate", "--scale", "0.1"]) == 2
    assert "leave --launch out" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_command_line_knows_all_recipes():
    assert sorted(RECIPES) == sorted(NAMES)


def test_trainings_are_launched_as_commands(finished, tmp_path):
    """What `--launch` starts: the words, then `-m vzoom.train sft …`; a failure says how to go on."""
    recipe, log = rehearsal(), tmp_path / "words"
    launch = (sys.executable, "-c", f"import sys; open({str(log)!r}, 'w').write(' '.join(sys.argv[1:])); sys.exit(3)")
    folder = finished[0]
    with Run(tmp_path / "run", say=lambda line: None) as run:
        school = School(run, recipe, launch=launch)
        with pytest.raises(ValueError, match="exit code 3: run the same command again"):
            school.sft("sft", base=folder / "base", data=folder / "mixed" / "records", held_out=None)
    assert log.read_text().startswith(f"-m vzoom.train sft ablation --base {folder / 'base'} --out ")
    assert f"--data {folder / 'mixed' / 'records'}" in log.read_text()


def test_answers_at_once_for_a_model_that_never_zooms(finished, tmp_path):
    from vzoom.data.store import read
    from vzoom.data.tokens import tokenize_record
    from vzoom.models.vocabulary import load_vocabulary

    folder, recipe = finished[0], rehearsal()
    zoom = uniform(recipe.zoom, num_frames=24, duration_seconds=32)
    with Run(tmp_path, say=lambda line: None) as run:
        school = School(run, replace(recipe, zoom=zoom))
        records = list(read(school.answers("data", folder / "exemplars" / "kept", model=folder / "base")))
    exemplars = list(read(folder / "exemplars" / "kept"))
    assert [r.id for r in records] == [e.id for e in exemplars]
    for record, exemplar in zip(records, exemplars, strict=True):
        assert (record.answer, len(record.turns), len(record.glance_seconds)) == (exemplar.reference, 1, 24)
        gaps = {round(b - a, 1) for a, b in zip(record.glance_seconds, record.glance_seconds[1:], strict=False)}
        assert gaps <= {1.2, 1.3, 1.4, 1.5}
        assert any(tokenize_record(record, load_vocabulary(str(folder / "base"))).learned)
