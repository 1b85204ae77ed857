"""CI's variant of the training run: a few steps of every kind of batch, stopped, resumed, exported, loaded."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from protocols import BRIEF

from vzoom.config import ZoomConfig
from vzoom.synthetic.spec import SyntheticConfig
from vzoom.train.pretrain.curriculum import Curriculum, CurriculumStage
from vzoom.train.pretrain.export import export
from vzoom.train.pretrain.model import BaseShape, build_model
from vzoom.train.pretrain.pretrain import Pretraining, pretrain
from vzoom.train.pretrain.tokenizer import build_tokenizer
from vzoom.train.recipes import tiny
from vzoom.video.patches import PatchSpec, grid_for

ALL = dict.fromkeys(("captions", "recall", "letters", "look", "scenes", "listing", "reading", "answers"), 1)
ZOOM = ZoomConfig(protocol=BRIEF, min_pixels=784, max_pixels=3136, max_total_tokens=2048)
RECIPES = (tiny.ablation, tiny.hermes, tiny.tiny)
SMALL = SyntheticConfig(duration_seconds=32, frame_size=56, num_scenes=(4, 5), scene_seconds=(4, 10))
CONFIGS = {"which": SMALL, "count": replace(SMALL, events_per_scene=(1, 4))}


def small(**changes):
    stages = (
        CurriculumStage("see", 1, {"captions": 1}),
        CurriculumStage("all", 4, ALL, glance_frames=10, clip_frames=5),
    )
    settings = {
        "stages": stages,
        "families": CONFIGS,
        "num_videos": 2,
        "check_videos": 2,
        "batch_sizes": dict.fromkeys(ALL, 2),
        "check_every": 5,
        "save_every": 100,
    }
    return Curriculum(name="small", zoom=ZOOM, **{**settings, **changes})


def quiet(line):
    pass


def test_a_resumed_run_is_the_uninterrupted_run(tmp_path):
    whole = Pretraining(small(), tmp_path / "whole", say=quiet)
    whole.run()
    first = Pretraining(small(), tmp_path / "parts", say=quiet)
    for _ in range(2):
        first.train_step()
    (tmp_path / "parts").mkdir()
    first.save()
    second = Pretraining(small(), tmp_path / "parts", say=quiet)
    second.resume()
    assert second.step == 2
    second.run()
    assert second.step == 5
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name
    rows = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    assert set(rows[-1]) >= {"step", "seconds", "captions", "recall", "letters", "look", "scenes"}
    assert {f"{kind}_{family}" for kind in ("reading", "answers") for family in CONFIGS} <= set(rows[-1])
    with pytest.raises(ValueError, match="another curriculum"):
        Pretraining(small(seed=1), tmp_path / "parts", say=quiet).resume()
    with pytest.raises(ValueError, match="nothing to resume"):
        Pretraining(small(), tmp_path / "none", say=quiet).resume()


def test_it_learns_what_frames_show(tmp_path):
    recipe = small(stages=(CurriculumStage("see", 20, {"captions": 1}),), batch_sizes={"captions": 3})
    run = Pretraining(recipe, tmp_path, say=quiet)
    losses = [run.train_step()[1] for _ in range(20)]
    assert losses[0] > 5
    assert losses[-1] < 0.85 * losses[0]


def test_every_parameter_is_trained_and_flat_rates_move_nothing(tmp_path):
    run = Pretraining(small(), tmp_path, say=quiet)
    before = {n: p.detach().clone() for n, p in run.model.named_parameters()}
    run.step = 3
    while (kind := run.train_step()[0]) not in ("reading", "answers"):
        assert kind in ALL
    assert all(not torch.equal(before[n], p) for n, p in run.model.named_parameters() if "bias" not in n)
    frozen = {n: p.detach().clone() for n, p in run.model.named_parameters()}
    for parameter in run.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    run.update(muon_lr=0.0, adam_lr=0.0)
    assert all(torch.equal(frozen[n], p) for n, p in run.model.named_parameters())


def test_an_exported_model_loads_in_stock_transformers(tmp_path):
    from transformers import AutoModelForImageTextToText, AutoTokenizer

    run = Pretraining(small(), tmp_path / "run", say=quiet)
    export(run.model, run.tokenizer, run.curriculum.zoom, tmp_path / "model")
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "model")
    assert model.dtype == torch.float32
    for name, value in run.model.state_dict().items():
        assert torch.equal(value.bfloat16().float(), model.state_dict()[name]), name
    text = "<|im_start|>user\n12.50s<|vision_start|><|image_pad|><|vision_end|>\nÄ Which shape?<think>"
    assert AutoTokenizer.from_pretrained(tmp_path / "model").encode(text) == run.tokenizer.encode(text)
    saved = json.loads((tmp_path / "model" / "vzoom.json").read_text())
    assert ZoomConfig.from_dict(saved, "model") == run.curriculum.zoom
    assert sum(p.stat().st_size for p in (tmp_path / "model").iterdir()) < 10e6


def test_pretraining_stops_and_resumes_to_a_folder_that_loads(tmp_path, monkeypatch):
    said = []
    train_step = Pretraining.train_step

    def stopped_at_3(self):
        if self.step == 3:
            raise KeyboardInterrupt
        return train_step(self)

    monkeypatch.setattr(Pretraining, "train_step", stopped_at_3)
    with pytest.raises(KeyboardInterrupt):
        pretrain(small(save_every=2), tmp_path, say=said.append)
    monkeypatch.setattr(Pretraining, "train_step", train_step)
    resumed = Pretraining(small(save_every=2), tmp_path, say=said.append)
    resumed.resume()
    assert resumed.step == 2
    assert pretrain(small(save_every=2), tmp_path, say=said.append) == tmp_path
    assert any(line.startswith("step 5/5 all loss") for line in said)
    assert any("check captions" in line for line in said)
    assert (tmp_path / "model.safetensors").exists()
    before = len(said)
    pretrain(small(save_every=2), tmp_path, say=said.append)
    assert len(said) == before  # nothing is trained twice


def test_the_shape_is_the_recipes(tokenizer):
    model = build_model(tokenizer, BaseShape(width=96, layers=3, vision_width=48, vision_layers=1))
    text = model.config.text_config
    assert (text.hidden_size, text.num_hidden_layers) == (96, 3)
    assert 2 * sum(text.rope_parameters["mrope_section"]) == model.model.language_model.layers[0].self_attn.head_dim
    assert len(model.model.visual.blocks) == 1


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(BRIEF)


@pytest.mark.parametrize("make", RECIPES)
def test_a_curriculum_is_scaled_and_its_rates_warm_up_and_fall(make):
    recipe = make()
    curriculum = recipe.synthetic.curriculum
    assert abs(curriculum.scaled(curriculum.num_steps // 10).num_steps - curriculum.num_steps / 10) <= 5
    factors = [curriculum.at(step)[1] for step in range(curriculum.stages[0].steps)]
    assert factors[0] < 0.1 < factors[20]
    assert factors[-1] < factors[20]
    assert curriculum.at(curriculum.num_steps - 1)[0] == curriculum.stages[-1]
    with pytest.raises(ValueError, match="after the last"):
        curriculum.at(curriculum.num_steps)
    assert curriculum.zoom == recipe.zoom


@pytest.mark.parametrize("make", RECIPES)
def test_the_base_learns_nothing_of_zooming(make):
    """Every task of a recipe's base: no call, no tool turn, and no word of where to look next."""
    curriculum = make().synthetic.curriculum
    assert {kind for stage in curriculum.stages for kind in stage.mix} <= set(ALL)
    small = {name: replace(config, frame_size=56) for name, config in curriculum.families.items()}
    run = Pretraining(replace(curriculum, families=small, num_videos=2, check_videos=1), Path("unused"), say=quiet)
    rng = np.random.default_rng(0)
    for kind in ALL:
        for family in curriculum.families:
            for example in run.examples(kind, curriculum.stages[-1], rng, family=family)[:4]:
                text = run.tokenizer.decode(example.span.ids)
                assert "video_zoom" not in text
                assert "tool_response" not in text


@pytest.mark.parametrize("make", RECIPES)
def test_a_frame_that_was_resized_once_is_left_alone_by_the_next_resize(make):
    zoom = make().zoom
    for height in range(56, 400, 6):
        for width in (height, height * 4 // 3, height * 16 // 9, height * 9 // 16):
            rows, columns = grid_for(height, width, config=zoom, spec=PatchSpec())
            assert grid_for(14 * rows, 14 * columns, config=zoom, spec=PatchSpec()) == (rows, columns)
