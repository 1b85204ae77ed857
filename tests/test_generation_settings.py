"""A checkpoint's generation_config.json: read, honoured, overridden."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch

import vzoom
from vzoom.config import Sampling
from vzoom.models import load_vocabulary
from vzoom.models.checkpoint.generation import end_ids_of, sampling_of
from vzoom.synthetic import ask_questions, config_for, make_video, render
from vzoom.zoomer import embedded_path

QWEN = {  # as the published Qwen2.5-VL has it
    "bos_token_id": 151643,
    "pad_token_id": 151643,
    "do_sample": True,
    "eos_token_id": [151645, 151643],
    "repetition_penalty": 1.05,
    "temperature": 0.000001,
}


@pytest.mark.parametrize(
    ("settings", "sampling"),
    [
        ({}, Sampling()),
        ({"do_sample": False, "temperature": 0.5, "top_k": 3}, Sampling()),
        ({"repetition_penalty": 1.2}, Sampling(repetition_penalty=1.2)),
        ({"do_sample": True}, Sampling(temperature=1.0, top_k=50)),
        ({"do_sample": True, "top_k": 0, "top_p": 0.8, "min_p": 0.1}, Sampling(1.0, top_p=0.8, min_p=0.1)),
        (QWEN, Sampling(temperature=1e-6, top_k=50, repetition_penalty=1.05)),
    ],
)
def test_what_the_file_says(settings: dict[str, object], sampling: Sampling) -> None:
    assert sampling_of(settings, "it") == sampling


def test_the_defaults_are_those_of_transformers() -> None:
    from transformers import GenerationConfig

    config = GenerationConfig()
    defaults = getattr(config, "_get_default_generation_params", dict)()  # 5.0 has the values in the config itself
    stock = {k: defaults.get(k) if getattr(config, k) is None else getattr(config, k) for k in ("temperature", "top_k")}
    assert stock == {"temperature": 1.0, "top_k": 50}


def test_values_out_of_range_and_settings_that_are_missing_here_are_named() -> None:
    with pytest.raises(ValueError, match=r"generation_config.json of it: top_p must be in \(0, 1\], got 7"):
        sampling_of({"do_sample": True, "top_p": 7}, "it")
    with pytest.raises(ValueError, match=r"generation_config\.json of it"):
        sampling_of({"do_sample": True, "temperature": "hot"}, "it")
    with pytest.warns(UserWarning, match="num_beams, typical_p"):
        sampling_of({"num_beams": 4, "typical_p": 0.9, "min_length": 0}, "it")


def test_one_id_or_a_list_ends_a_turn() -> None:
    assert end_ids_of(QWEN) == {151645, 151643}
    assert end_ids_of({"eos_token_id": 7}) == {7}
    assert end_ids_of({}) == set()


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """The embedded model with another generation_config.json."""
    folder = Path(shutil.copytree(embedded_path(), tmp_path / "model"))
    own = json.loads((folder / "generation_config.json").read_text())
    settings = own | {"do_sample": True, "temperature": 0.9, "top_p": 0.7, "eos_token_id": [own["eos_token_id"], 42]}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    return folder


def test_a_checkpoint_samples_as_its_files_say(checkpoint: Path) -> None:
    zoomer = vzoom.load(checkpoint, device="cpu")
    assert zoomer.checkpoint.sampling == Sampling(temperature=0.9, top_p=0.7, top_k=50)
    assert 42 in load_vocabulary(str(checkpoint)).end_ids
    assert vzoom.load(device="cpu").checkpoint.sampling == Sampling()


def test_a_conversation_longer_than_the_model_was_made_for_is_refused() -> None:
    checkpoint = vzoom.load(device="cpu").checkpoint
    with pytest.raises(ValueError, match="max_total_tokens 4097 is more than the 4096 positions that"):
        vzoom.Engine(checkpoint, max_total_tokens=4097)
    vzoom.Engine(checkpoint, max_total_tokens=4096).close()


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_frequencies_that_change_with_the_length_are_refused(tmp_path: Path, kind: str) -> None:
    folder = Path(shutil.copytree(embedded_path(), tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    text = config.get("text_config", config)
    rope = text.get("rope_parameters") or text["rope_scaling"]
    rope |= {"rope_type": kind, "factor": 2.0, "short_factor": [1.0] * 16, "long_factor": [1.0] * 16}
    rope.pop("type", None)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=f"rope_type is '{kind}'"):
        vzoom.load(folder, device="cpu")


def test_logits_that_are_no_numbers_end_their_own_session(tmp_path: Path) -> None:
    """One of three rollouts gets NaN logits in the middle: it fails with what to try, the others are undisturbed."""
    zoomer = vzoom.load(device="cpu")
    video = make_video(3, config_for("which"))
    path = render(video, tmp_path / "video.mp4")
    request = vzoom.Request.about(
        path,
        ask_questions(video, "which", 3).text,
        checkpoint=zoomer.checkpoint,
        clip_cache=zoomer.clip_cache,
        config=zoomer.config,
        sampling=Sampling(temperature=1.0, seed=5),
        num_rollouts=3,
    )
    with vzoom.Engine(zoomer.checkpoint, max_total_tokens=zoomer.config.max_total_tokens, max_sessions=3) as engine:
        (want,) = engine.run([request])
        forward, steps = engine.model.forward, 0

        def broken(*args: object, **kwargs: object) -> torch.Tensor:
            nonlocal steps
            logits = forward(*args, **kwargs).clone()  # type: ignore[arg-type]
            steps += 1
            if steps == 5:
                logits[1] = math.nan
            return logits

        engine.model.forward = broken  # type: ignore[method-assign]
        try:
            (got,) = engine.run([request])
        finally:
            del engine.model.forward
        assert engine.pool.num_free == engine.pool.num_blocks
    assert got[1].trajectory is None
    assert "NaN or infinite: try dtype float32" in str(got[1].error)
    for i in (0, 2):
        assert got[i].unwrap().ids == want[i].unwrap().ids
