"""ZoomCache: clips spliced into a warm cache, forks and crops equal stock from scratch; pages come and go."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import FAMILIES, make_checkpoint, token_id
from drop_in import (
    SIZES,
    TOLERANCE,
    assert_same,
    error,
    from_scratch,
    generate,
    named,
    open_model,
    stacked,
    text,
    turn,
    used,
)

import vzoom
from vzoom.engine.kv_cache import BlockTable, OutOfPages
from vzoom.hf import paged_batch, zoom_cache
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


def test_a_zoom_is_spliced_exactly(folder: Path, stock: Any, ours: Any) -> None:
    """Two zooms behind a glance, each answered, against stock from scratch at every sampled token."""
    turns = [turn(folder, 1)]
    cache = ZoomCache(ours)
    out = generate(ours, **named(turns[0]), past_key_values=cache)
    for seed in (2, 3):
        turns.append(turn(folder, seed, sizes=SIZES[: seed - 1]))
        ids = cache.append(out.sequences, turns[-1])
        assert cache.get_seq_length() == ids.shape[1] - 1
        out = generate(ours, ids, past_key_values=cache)
        assert_same(out, from_scratch(stock, ids, turns))


def test_text_goes_on_behind_images(folder: Path, stock: Any, ours: Any) -> None:
    glance, cache = turn(folder, 1), ZoomCache(ours)
    first = generate(ours, **named(glance), past_key_values=cache)
    ids = torch.cat([first.sequences, text(9, 5)], dim=1)
    by_generate = copy.deepcopy(cache)
    assert_same(generate(ours, ids, past_key_values=by_generate), from_scratch(stock, ids, [glance]))
    ids = cache.append(first.sequences, {"input_ids": text(9, 5)})
    assert_same(generate(ours, ids, past_key_values=cache), from_scratch(stock, ids, [glance]))


def test_a_batch_of_equal_lengths(folder: Path, stock: Any, ours: Any) -> None:
    glances = [turn(folder, seed, sizes=sizes) for seed, sizes in ((1, SIZES[:2]), (2, (SIZES[1], SIZES[0])))]
    zooms = [turn(folder, seed, sizes=SIZES[2:]) for seed in (3, 4)]
    cache = ZoomCache(ours)
    out = generate(ours, **named(stacked(glances)), past_key_values=cache)
    assert_same(out, generate(stock, **named(stacked(glances))))
    ids = cache.append(out.sequences, stacked(zooms))
    got = generate(ours, ids, past_key_values=cache)
    for row, (glance, zoom) in enumerate(zip(glances, zooms, strict=True)):
        alone = from_scratch(stock, ids[row : row + 1], [glance, zoom])
        assert got.sequences[row].tolist() == alone.sequences[0].tolist()


def test_left_padding(folder: Path, stock: Any, ours: Any) -> None:
    """A row behind padding gives what it gives alone, and a turn that is appended does so, too."""
    short, long = turn(folder, 1, head=4), turn(folder, 2, head=50)
    gap = long["input_ids"].shape[1] - short["input_ids"].shape[1]
    padded = dict(short)
    for key, value in (("input_ids", token_id("<|endoftext|>")), ("attention_mask", 0), ("mm_token_type_ids", 0)):
        padded[key] = torch.nn.functional.pad(short[key], (gap, 0), value=value)
    both, cache = stacked([padded, long]), ZoomCache(ours)
    out = generate(ours, **named(both), past_key_values=cache)
    zooms = [turn(folder, seed, sizes=SIZES[:1]) for seed in (3, 4)]
    ids = cache.append(out.sequences, stacked(zooms))
    mask = torch.cat([both["attention_mask"], torch.ones(2, ids.shape[1] - both["attention_mask"].shape[1])], dim=1)
    got = generate(ours, ids, attention_mask=mask.long(), past_key_values=cache)
    for row, (opening, pad) in enumerate(((short, gap), (long, 0))):
        own = ids[row : row + 1, pad:]
        first = generate(stock, **named(opening))
        assert out.sequences[row, pad:].tolist() == first.sequences[0].tolist()
        alone = from_scratch(stock, own, [opening, zooms[row]])
        assert got.sequences[row, pad:].tolist() == alone.sequences[0].tolist()


def test_append_checks_its_turn(model: Any, small: Path) -> None:
    cache, zoom = ZoomCache(model), turn(small, 2)
    with pytest.raises(ValueError, match="the cache is empty"):
        cache.append(text(3), zoom)
    ids = generate(model, **named(turn(small, 1)), past_key_values=cache).sequences
    grid = zoom["image_grid_thw"]
    for change, message in (
        ({"image_grid_thw": grid[:2]}, "image 3 of 2 has no grid|has no grid"),
        ({"image_grid_thw": torch.cat([grid, grid[:1]])}, "holds 4 images, input_ids the tokens of 3"),
        ({"image_grid_thw": grid + torch.tensor([0, 2, 0])}, "do not fit"),
        ({"image_grid_thw": grid + torch.tensor([1, 0, 0])}, "do not fit"),
        ({"pixel_values_videos": grid}, "pixel_values_videos and video_grid_thw go together"),
        ({"audio_values": grid}, "append takes text, images and videos, not audio_values"),
        ({"attention_mask": torch.zeros_like(zoom["input_ids"])}, "equally long"),
        ({"input_ids": zoom["input_ids"][0]}, r"must be \[B, tokens\]"),
        ({"input_ids": torch.full((1, 2), token_id("<|video_pad|>"))}, "video 1 of 0 has no grid"),
    ):
        with pytest.raises(ValueError, match=message):
            cache.append(ids, zoom | change)
    with pytest.raises(ValueError, match="give all tokens"):
        cache.append(ids[:, -1:], zoom)
    assert cache.get_seq_length() == ids.shape[1] - 1


# ---------------------------------------------------------------- pages


def test_fork_shares_pages_until_children_differ(model: Any, small: Path) -> None:
    reference, glance = open_model(small), turn(small, 1)
    cache = ZoomCache(model)
    out = generate(model, **named(glance), past_key_values=cache)
    ids, length = out.sequences, cache.get_seq_length()
    held = used(model)
    assert held == cache.num_blocks == -(-length // 32)
    assert length % 32, "a full tail block would not be copied: choose another prompt"
    children = cache.fork(4)
    assert used(model) == held
    zooms = [turn(small, 10 + i, sizes=SIZES[:1], head=2) for i in range(4)]
    longer = [child.append(ids, zoom) for child, zoom in zip(children, zooms, strict=True)]
    grown = -(-children[0].get_seq_length() // 32) - held  # blocks that a child needs behind the shared ones
    assert used(model) == held + 4 * (1 + grown)  # and its copy of the tail
    for child, zoom, child_ids in zip(children, zooms, longer, strict=True):
        got = generate(model, child_ids, past_key_values=child)
        assert_same(got, from_scratch(reference, child_ids, [glance, zoom]))
    del children, child, got
    assert used(model) == held
    ids = cache.append(ids, zooms[0])  # the parent goes on as if nothing had been
    assert_same(generate(model, ids, past_key_values=cache), from_scratch(reference, ids, [glance, zooms[0]]))


def test_a_group_of_samples_in_one_batch(model: Any, small: Path) -> None:
    glance, cache = turn(small, 1), ZoomCache(model)
    out = generate(model, **named(glance), past_key_values=cache)
    held = used(model)
    cache.batch_repeat_interleave(4)
    assert used(model) == held
    ids = out.sequences.repeat(4, 1)
    torch.manual_seed(0)
    got = generate(model, ids, past_key_values=cache, do_sample=True)
    assert len({tuple(row) for row in got.sequences.tolist()}) == 4
    reference = open_model(small)
    for row in got.sequences:
        with torch.no_grad():
            want = from_scratch(reference, row[None, :-1], [glance], max_new_tokens=1, min_new_tokens=1)
        step = got.logits[-1][got.sequences.tolist().index(row.tolist())]
        torch.testing.assert_close(step, want.logits[0][0], rtol=0, atol=1e-5 * float(step.abs().max()))
    cache.batch_select_indices(torch.tensor([2]))
    ids = torch.cat([got.sequences[2:3], text(4, 9)], dim=1)
    assert_same(generate(model, ids, past_key_values=cache), from_scratch(reference, ids, [glance]))


def test_crop_forgets_tokens_and_their_positions(model: Any, small: Path) -> None:
    glance, cache = turn(small, 1), ZoomCache(model)
    out = generate(model, **named(glance), past_key_values=cache)
    cache.crop(-5)
    length = cache.get_seq_length()
    assert length == out.sequences.shape[1] - 6
    ids = torch.cat([out.sequences[:, :length], text(7, 3)], dim=1)
    want = from_scratch(open_model(small), ids, [glance])
    assert_same(generate(model, ids, past_key_values=cache), want)
    cache.crop(length)  # transformers 5.0 says how many to keep
    assert cache.get_seq_length() == length
    assert_same(generate(model, ids, past_key_values=cache), want)
    with pytest.raises(ValueError, match="cannot remove 9999 tokens"):
        cache.crop(-9999)


def test_pages_go_back(model: Any) -> None:
    cache = ZoomCache(model)
    generate(model, text(100), past_key_values=cache)
    assert used(model) == 4
    cache.reset()
    assert (used(model), cache.get_seq_length()) == (0, 0)
    generate(model, text(100), past_key_values=cache)
    assert used(model) == 4
    del cache
    assert used(model) == 0


def test_out_of_pages_leaves_caches_usable(small: Path) -> None:
    model = open_model(small)
    vzoom.enable(model, pool_tokens=128)
    cache = ZoomCache(model)
    out = generate(model, text(60), past_key_values=cache)
    with pytest.raises(OutOfPages, match=r"3 more pages of 32 tokens and 1 of 4 are free.*pool_tokens"):
        generate(model, text(90, 2))
    long = torch.cat([out.sequences, text(70, 2)], dim=1)
    with pytest.raises(OutOfPages, match="reset"):
        generate(model, long, past_key_values=cache)
    assert cache.get_seq_length() == out.sequences.shape[1] - 1
    ids = torch.cat([out.sequences, text(5, 3)], dim=1)
    assert_same(generate(model, ids, past_key_values=cache), generate(open_model(small), ids))


def test_a_run_that_fails_half_way_is_forgotten(model: Any, small: Path) -> None:
    glance, cache = turn(small, 1), ZoomCache(model)
    out = generate(model, **named(glance), past_key_values=cache)
    zoom = turn(small, 2)

    def fail(*args: Any) -> None:
        raise RuntimeError("out of memory")

    hook = model.model.language_model.layers[1].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        cache.append(out.sequences, zoom)
    hook.remove()
    assert cache.get_seq_length() == out.sequences.shape[1] - 1
    ids = cache.append(out.sequences, zoom)
    assert_same(generate(model, ids, past_key_values=cache), from_scratch(open_model(small), ids, [glance, zoom]))
    del cache, out
    assert used(model) == 0


def test_inference_mode_between_other_calls(model: Any, small: Path) -> None:
    cache = ZoomCache(model)
    with torch.inference_mode():
        out = generate(model, text(40), past_key_values=cache)
    ids = torch.cat([out.sequences, text(300, 3)], dim=1)
    assert_same(generate(model, ids, past_key_values=cache), generate(open_model(small), ids))


# ---------------------------------------------------------------- the tests see what they should


def _plain(start: int, run: Any, *rules: Any) -> tuple[np.ndarray, int]:
    return np.broadcast_to(np.arange(start, start + len(run.ids)), (3, len(run.ids))), 0


@pytest.mark.parametrize(
    ("target", "name", "mutant"),
    [
        (zoom_cache, "span_positions", _plain),
        (paged_batch.PagedBatch, "next_positions_B", property(lambda self: torch.tensor([self.length]))),
        (BlockTable, "must_copy", lambda self, count: 0),
    ],
    ids=["position rule", "next position", "copy on write"],
)
def test_a_mutation_is_seen(
    target: Any, name: str, mutant: Any, model: Any, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(target, name, mutant)
    glance, zooms, cache = turn(small, 1), [turn(small, 2), turn(small, 3)], ZoomCache(model)
    out = generate(model, **named(glance), past_key_values=cache)
    forks = cache.fork(2)
    longer = [c.append(out.sequences, zoom) for c, zoom in zip(forks, zooms, strict=True)]
    got = generate(model, longer[0], past_key_values=forks[0])
    want = from_scratch(open_model(small), longer[0], [glance, zooms[0]])
    assert error(got, want) > 100 * TOLERANCE
