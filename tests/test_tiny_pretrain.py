"""CI's variant of the training run: a few steps of every kind of batch, stopped, resumed, exported, loaded."""

import json
from dataclasses import replace

import pytest
import torch

from vzoom.config import ZoomConfig
from vzoom.train import __main__ as command_line
from vzoom.train.export import export
from vzoom.train.tiny.curriculum import CURRICULA, Stage, tiny
from vzoom.train.tiny.pretrain import Pretraining

ALL = {"captions": 1, "recall": 1, "letters": 1, "look": 1, "scenes": 1, "reading": 1, "later": 1, "whole": 1}


def small(**changes):
    stages = (Stage("see", 1, {"captions": 1}), Stage("all", 4, ALL, glance_frames=10, clip_frames=5))
    sizes = dict.fromkeys(ALL, 2)
    return replace(
        tiny(), stages=stages, num_videos=2, check_videos=2, batch_sizes=sizes, check_every=5, save_every=100, **changes
    )


def quiet(line):
    pass


def test_a_resumed_run_is_the_uninterrupted_run(tmp_path):
    whole = Pretraining(small(), tmp_path / "whole", say=quiet)
    assert whole.run()
    first = Pretraining(small(), tmp_path / "parts", say=quiet)
    for _ in range(2):
        first.train_step()
    (tmp_path / "parts").mkdir()
    first.save()
    second = Pretraining(small(), tmp_path / "parts", say=quiet)
    second.resume()
    assert second.step == 2
    assert second.run()
    assert second.step == 5
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name
    rows = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    assert set(rows[-1]) >= {"step", "seconds", "captions", "recall", "letters", "look", "scenes", "reading", "whole"}
    with pytest.raises(ValueError, match="another recipe"):
        Pretraining(small(seed=1), tmp_path / "parts", say=quiet).resume()
    with pytest.raises(ValueError, match="nothing to resume"):
        Pretraining(small(), tmp_path / "none", say=quiet).resume()


def test_it_learns_what_frames_show(tmp_path):
    recipe = replace(small(), stages=(Stage("see", 20, {"captions": 1}),), batch_sizes={"captions": 3})
    run = Pretraining(recipe, tmp_path, say=quiet)
    losses = [run.train_step()[1] for _ in range(20)]
    assert losses[0] > 5
    assert losses[-1] < 0.85 * losses[0]


def test_every_parameter_is_trained_and_flat_rates_move_nothing(tmp_path):
    run = Pretraining(small(), tmp_path, say=quiet)
    before = {n: p.detach().clone() for n, p in run.model.named_parameters()}
    run.step = 3
    while (kind := run.train_step()[0]) not in ("reading", "later", "whole"):
        assert kind in ALL
    assert all(not torch.equal(before[n], p) for n, p in run.model.named_parameters() if "bias" not in n)
    frozen = {n: p.detach().clone() for n, p in run.model.named_parameters()}
    run.optimizers.set_lr(muon_lr=0.0, adam_lr=0.0)
    for parameter in run.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    run.optimizers.step()
    assert all(torch.equal(frozen[n], p) for n, p in run.model.named_parameters())


def test_an_exported_model_loads_in_stock_transformers(tmp_path):
    from transformers import AutoModelForImageTextToText, AutoTokenizer

    run = Pretraining(small(), tmp_path / "run", say=quiet)
    export(run.model, run.tokenizer, run.recipe.zoom, tmp_path / "model")
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "model")
    assert model.dtype == torch.float32
    for name, value in run.model.state_dict().items():
        assert torch.equal(value.bfloat16().float(), model.state_dict()[name]), name
    text = "<|im_start|>user\n12.50s<|vision_start|><|image_pad|><|vision_end|>\nÄ Which shape?<think>"
    assert AutoTokenizer.from_pretrained(tmp_path / "model").encode(text) == run.tokenizer.encode(text)
    saved = json.loads((tmp_path / "model" / "vzoom.json").read_text())
    assert ZoomConfig.from_dict(saved, "model") == run.recipe.zoom
    assert sum(p.stat().st_size for p in (tmp_path / "model").iterdir()) < 10e6


def test_the_command_line_trains_stops_and_goes_on(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(CURRICULA, "tiny", small)
    out = str(tmp_path / "out")
    assert command_line.main(["sft", "tiny", "--out", out, "--minutes", "0"]) == 0
    assert "stopped, --resume goes on at step 0" in capsys.readouterr().out
    assert command_line.main(["sft", "tiny", "--out", out, "--resume"]) == 0
    shown = capsys.readouterr().out
    assert "step 5/5 all loss" in shown
    assert "min left" in shown
    assert "check captions" in shown
    assert (tmp_path / "out" / "model.safetensors").exists()
    assert command_line.main(["sft", "tiny", "--out", str(tmp_path / "no"), "--resume"]) == 2
    assert "nothing to resume" in capsys.readouterr().err
    assert command_line.main(["sft", "tiny", "--out", out, "--steps", "1"]) == 2
    with pytest.raises(SystemExit) as stopped:
        command_line.main(["sft", "--help"])
    assert stopped.value.code == 0
    assert "--minutes" in capsys.readouterr().out


def test_a_recipe_is_scaled_and_its_rates_warm_up_and_fall():
    recipe = tiny()
    assert abs(recipe.scaled(recipe.num_steps // 10).num_steps - recipe.num_steps / 10) <= len(recipe.stages)
    factors = [recipe.at(step)[1] for step in range(recipe.stages[0].steps)]
    assert factors[0] < 0.1 < factors[20]
    assert factors[-1] < factors[20]
    assert recipe.at(recipe.num_steps - 1)[0] == recipe.stages[-1]
    with pytest.raises(ValueError, match="behind the last"):
        recipe.at(recipe.num_steps)
    assert recipe.zoom.max_pixels == recipe.side**2
