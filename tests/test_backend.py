"""Drop-in for transformers: `generate()` on pages gives what it gives without them, and refuses what it cannot do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import FAMILIES, as_published, make_checkpoint
from drop_in import (
    SIZES,
    assert_same,
    from_scratch,
    generate,
    named,
    open_model,
    text,
    turn,
    used,
)
from transformers import DynamicCache

import vzoom
from vzoom.hf.zoom_cache import ZoomCache


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def stock(folder: Path) -> Any:
    return open_model(folder)


@pytest.fixture(scope="module")
def ours(folder: Path) -> Any:
    model = open_model(folder)
    vzoom.enable(model)
    return model


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint("qwen2_5_vl", tmp_path_factory.mktemp("small"))


@pytest.fixture
def model(small: Path) -> Any:
    model = open_model(small)
    with vzoom.enable(model):
        yield model


# ---------------------------------------------------------------- the same as stock


def test_text(stock: Any, ours: Any) -> None:
    ids = text(70)
    assert_same(generate(ours, ids), generate(stock, ids))
    assert used(ours) == 0


def test_images(folder: Path, stock: Any, ours: Any) -> None:
    glance = turn(folder, 1)
    got = generate(ours, **named(glance))
    assert_same(got, generate(stock, **named(glance)))
    assert isinstance(got.past_key_values, ZoomCache)
    assert got.past_key_values.get_seq_length() == got.sequences.shape[1] - 1


@pytest.mark.parametrize("style", ["flat", "nested"])
def test_published_names(style: str, small: Path, tmp_path: Path) -> None:
    glance, path = turn(small, 1), as_published(small, tmp_path / style, style=style)
    want = generate(open_model(path), **named(glance))
    enabled = open_model(path)
    vzoom.enable(enabled)
    assert_same(generate(enabled, **named(glance)), want)


def test_sessions_take_turns_on_one_model(folder: Path, stock: Any, ours: Any) -> None:
    """transformers keeps an offset on the model: here sessions of other lengths and batch sizes run in between."""
    glances = [turn(folder, 1), turn(folder, 2, sizes=SIZES[:1])]
    caches = [ZoomCache(ours) for _ in glances]
    outs = [generate(ours, **named(g), past_key_values=c) for g, c in zip(glances, caches, strict=True)]
    generate(ours, text(11, batch=3))
    for glance, cache, out in zip(glances, caches, outs, strict=True):
        ids = torch.cat([out.sequences, text(6, 7)], dim=1)
        assert_same(generate(ours, ids, past_key_values=cache), from_scratch(stock, ids, [glance]))


def test_beams(folder: Path, stock: Any, ours: Any) -> None:
    glance = turn(folder, 1)
    got, want = (generate(m, **named(glance), num_beams=3, max_new_tokens=12) for m in (ours, stock))
    assert got.sequences.tolist() == want.sequences.tolist()
    del got
    assert used(ours) == 0


def test_candidates_that_are_refused_are_cropped(folder: Path, stock: Any, ours: Any) -> None:
    """Prompt lookup guesses tokens, runs the model over them and crops those that were wrong."""
    ids, lookup = text(20).repeat(1, 4), {"max_new_tokens": 24, "min_new_tokens": 24, "prompt_lookup_num_tokens": 4}
    cache = ZoomCache(ours)
    got = generate(ours, ids, **lookup, past_key_values=cache).sequences
    assert got.tolist() == generate(stock, ids, **lookup).sequences.tolist()
    greedy = generate(stock, ids, max_new_tokens=24, min_new_tokens=24).sequences
    assert got[:, : greedy.shape[1]].tolist() == greedy.tolist()
    assert cache.get_seq_length() == got.shape[1] - 1


def test_without_a_cache_it_is_stock_with_gradients(stock: Any, ours: Any) -> None:
    ids = text(24, batch=2)
    mask = torch.ones_like(ids)
    mask[0, :5] = 0
    losses = []
    for model in (stock, ours):
        model.zero_grad()
        loss = model(ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100), use_cache=False).loss
        loss.backward()
        losses.append((float(loss.detach()), model.model.language_model.layers[0].self_attn.k_proj.weight.grad.clone()))
        model.zero_grad()
    torch.testing.assert_close(losses[0], losses[1])
    assert losses[0][1].abs().max() > 0
    plain = ours(ids, attention_mask=mask, labels=ids)  # use_cache as the config has it, gradients on
    plain.loss.backward()
    ours.zero_grad()


def test_a_loop_of_ones_own(stock: Any, ours: Any) -> None:
    ids = text(40)
    with torch.no_grad():
        first = ours(ids, use_cache=True)
        second = ours(text(1, 3), past_key_values=first.past_key_values)
        want = stock(torch.cat([ids, text(1, 3)], dim=1)).logits[:, -1]
    assert isinstance(second.past_key_values, ZoomCache)
    torch.testing.assert_close(second.logits[:, -1], want, rtol=0, atol=1e-5 * float(want.abs().max()))


def test_a_users_dynamic_cache_becomes_ours(model: Any, small: Path) -> None:
    cache = DynamicCache()
    out = generate(model, text(40), past_key_values=cache)
    assert isinstance(cache, ZoomCache)
    ids = torch.cat([out.sequences, text(5, 3)], dim=1)
    assert_same(generate(model, ids, past_key_values=cache), generate(open_model(small), ids))


# ---------------------------------------------------------------- on and off


def test_enable_twice_and_disable(small: Path) -> None:
    model = open_model(small)
    before = {name: module.forward.__func__ for name, module in model.named_modules()}
    was = [getattr(model.config, key)._attn_implementation for key in ("text_config", "vision_config")]
    handle = vzoom.enable(model)
    assert vzoom.enable(model) is handle
    assert vzoom.enable(model, pool_tokens=32768) is handle
    with pytest.raises(ValueError, match=r"pool_tokens=32768: disable\(\) it first"):
        vzoom.enable(model, pool_tokens=64)
    assert model.config.text_config._attn_implementation == "vzoom"
    assert model.config.vision_config._attn_implementation == was[1]
    # No modelling file and no instance is patched.
    assert {name: module.forward.__func__ for name, module in model.named_modules()} == before
    assert not any("forward" in vars(module) for module in model.modules())
    cache = ZoomCache(model)
    out = generate(model, text(30), past_key_values=cache)
    handle.disable()
    handle.disable()
    assert [getattr(model.config, key)._attn_implementation for key in ("text_config", "vision_config")] == was
    assert not model.model._forward_pre_hooks
    assert isinstance(generate(model, text(30)).past_key_values, DynamicCache)
    with pytest.raises(ValueError, match=r"not enabled: call vzoom.enable\(model\) first"):
        generate(model, out.sequences, past_key_values=cache)
    with pytest.raises(ValueError, match="is not enabled"):
        ZoomCache(model)
    with vzoom.enable(model) as again:
        assert again is not handle
        assert_same(generate(model, text(30)), out)


def test_two_models_at_once(small: Path, tmp_path: Path) -> None:
    others = [small, make_checkpoint("qwen3_vl", tmp_path / "other", seed=3)]
    models, stocks = [open_model(p) for p in others], [open_model(p) for p in others]
    caches = [vzoom.enable(m) and ZoomCache(m) for m in models]
    outs = [generate(m, text(30), past_key_values=c) for m, c in zip(models, caches, strict=True)]
    for model, stock, cache, out in zip(models, stocks, caches, outs, strict=True):
        ids = torch.cat([out.sequences, text(4, 5)], dim=1)
        assert_same(generate(model, ids, past_key_values=cache), generate(stock, ids))
    with pytest.raises(ValueError, match="made for another model"):
        generate(models[0], text(30), past_key_values=ZoomCache(models[1]))


# ---------------------------------------------------------------- refused


def test_images_past_append_are_refused(model: Any, small: Path) -> None:
    """Each of these is silently wrong, or an error that names nothing, in stock transformers."""
    cache, zoom = ZoomCache(model), turn(small, 2)
    out = generate(model, **named(turn(small, 1)), past_key_values=cache)
    ids = torch.cat([out.sequences, zoom["input_ids"]], dim=1)
    media = {k: zoom[k] for k in ("pixel_values", "image_grid_thw")}
    new = torch.cat([out.sequences[:, -1:], zoom["input_ids"]], dim=1)
    with pytest.raises(ValueError, match=r"cache.append\(ids, turn\)"), torch.no_grad():
        model(input_ids=new, past_key_values=cache, **media)
    with pytest.raises(ValueError, match=r"cache.append\(ids, turn\)"):
        generate(model, ids, past_key_values=cache, **media)
    with pytest.raises(ValueError, match=r"cache.append\(ids, turn\)"):
        generate(model, ids, past_key_values=cache)
    assert cache.get_seq_length() == out.sequences.shape[1] - 1


def test_padding_elsewhere_is_refused(model: Any) -> None:
    ids = text(20, batch=2)
    mask = torch.ones_like(ids)
    mask[0, -3:] = 0
    with pytest.raises(ValueError, match="pad on the left"):
        generate(model, ids, attention_mask=mask)
    cache = ZoomCache(model)
    out = generate(model, ids, past_key_values=cache)
    later = torch.cat([out.sequences, ids], dim=1)
    mask = torch.ones_like(later)
    mask[0, out.sequences.shape[1] : out.sequences.shape[1] + 2] = 0
    with pytest.raises(ValueError, match="only at the start of a conversation"):
        generate(model, later, attention_mask=mask, past_key_values=cache)
    positions, whole = torch.arange(20).expand(3, 2, 20), torch.ones(2, 1, 20, 20)
    with pytest.raises(ValueError, match=r"must be \[batch, tokens\]"), torch.no_grad():
        model(ids, attention_mask=whole, position_ids=positions, past_key_values=ZoomCache(model))


def test_what_pages_cannot_do_is_refused(model: Any, small: Path) -> None:
    ids = text(20)
    with pytest.raises(ValueError, match=r"StaticCache.*no cache_implementation"):
        generate(model, ids, cache_implementation="static")
    filled = DynamicCache()
    with torch.no_grad():
        open_model(small)(ids, past_key_values=filled, use_cache=True)
        with pytest.raises(ValueError, match="DynamicCache of 20 tokens"):
            model(ids, past_key_values=filled)
        with pytest.raises(ValueError, match="drop output_attentions"):
            model(ids, past_key_values=ZoomCache(model), output_attentions=True)
    with pytest.raises(ValueError, match=r"torch.no_grad\(\)"):
        model(ids, past_key_values=ZoomCache(model))
    cache = ZoomCache(model)
    out = generate(model, ids, past_key_values=cache)
    with pytest.raises(ValueError, match=r"holds 1 sequences and this run has 3.*batch_repeat_interleave"):
        generate(model, out.sequences, past_key_values=cache, num_return_sequences=3, do_sample=True)
    with pytest.raises(ValueError, match="fork makes 1 or more"):
        cache.fork(0)
    other = open_model(small)
    with pytest.raises(ValueError, match=r"not enabled: call vzoom.enable\(model\) first"), torch.no_grad():
        other(ids[:, :1], position_ids=torch.full((3, 1, 1), 27), past_key_values=cache)


def test_models_that_do_not_fit_are_refused(small: Path) -> None:
    model = open_model(small)
    with pytest.raises(ValueError, match=r"qwen2_vl, qwen2_5_vl, qwen3_vl model.*got Linear"):
        vzoom.enable(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="got Qwen2_5_VLModel"):
        vzoom.enable(model.model)
    with pytest.raises(ValueError, match="pool_tokens must be 1 or more, got 0"):
        vzoom.enable(model, pool_tokens=0)
    model.config.text_config.layer_types = ["full_attention", "sliding_attention", "full_attention"]
    with pytest.raises(ValueError, match="sliding-window"):
        vzoom.enable(model)
    assert model.config.text_config._attn_implementation != "vzoom"
