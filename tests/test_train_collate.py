"""Batches: labels, padding, positions, and that images and their tokens agree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from data_records import CONFIG, REFLECTION, VIDEO, ZOOM

from vzoom.models.checkpoint.vocabulary import load_vocabulary
from vzoom.protocol.mrope import span_positions
from vzoom.protocol.tokenize import TokenSpan, VisionBlock
from vzoom.train.common.collate import IGNORED, collate, pad_rows
from vzoom.train.common.policy import load_policy, token_logprobs
from vzoom.train.common.samples import FrameRef, Sample, from_record
from vzoom.train.recipes.recipe import SFTRecipe
from vzoom.zoomer import embedded_path

VOCABULARY = load_vocabulary(str(embedded_path()))
PAD, IMAGE = 0, VOCABULARY.image_token_id  # any padding will do
WIDTH = 128
PART = SFTRecipe(gradient_checkpointing=False)


class Noise:
    """Features that tell which frame they are of: a function of its time."""

    rows_per_token = 1

    def find(self, samples: Sequence[Sample]) -> Callable[[], torch.Tensor]:
        rows = [
            torch.from_numpy(np.random.default_rng(int(f.pts_seconds[0] * 1000)).normal(size=(h * w // 4, WIDTH)))
            for sample in samples
            for f in sample.frames
            for h, w in [f.grid_hw]
        ]
        made = torch.cat(rows).float()
        return lambda: made


def by_hand(*grids: tuple[int, int], text: int = 3) -> Sample:
    """Text, then images that follow each other directly, then text, all of which is learned."""
    run = TokenSpan([1] * text)
    for i, (h, w) in enumerate(grids):
        run.blocks.append(VisionBlock(i, 1, len(run.ids), (1, h, w)))
        run.ids += [IMAGE] * (h * w // 4)
    run.ids += [5, 6, 7]
    learned = np.zeros(len(run.ids), bool)
    learned[-3:] = True
    frames = tuple(FrameRef("v", (float(i),), grid) for i, grid in enumerate(grids))
    positions = span_positions(0, run, 2)[0]
    return Sample("hand", VIDEO, CONFIG, np.array(run.ids), positions, learned, learned, frames)


def samples() -> list[Sample]:
    vocabulary = load_vocabulary(str(embedded_path()))
    return [from_record(ZOOM, vocabulary), from_record(REFLECTION, vocabulary)]


def test_labels_are_the_tokens_that_are_learned() -> None:
    short, long = samples()
    batch = collate([short, long], Noise(), pad_id=PAD, vocabulary=VOCABULARY).to("cpu")
    assert set(batch) == {"input_ids", "labels", "position_ids", "image_grid_thw", "pixel_values"}
    for row, sample in enumerate((short, long)):
        n = len(sample)
        assert np.array_equal(batch["input_ids"][row, :n].numpy(), sample.ids)
        assert np.array_equal(batch["position_ids"][:, row, :n].numpy(), sample.positions)
        labels = batch["labels"][row, :n].numpy()
        assert np.array_equal(labels != IGNORED, sample.learned)
        assert np.array_equal(labels[sample.learned], sample.ids[sample.learned])
    assert (batch["input_ids"][0, len(short) :] == PAD).all()
    assert (batch["labels"][0, len(short) :] == IGNORED).all()
    assert batch["image_grid_thw"].tolist() == [[1, 4, 4]] * 10
    wider = collate([short, long], Noise(), pad_id=PAD, vocabulary=VOCABULARY, targets="sampled").to("cpu")
    assert (wider["labels"][1] != IGNORED).sum() == long.sampled.sum() > long.learned.sum()


def test_padding_changes_nothing() -> None:
    """There is no mask: a row gives the same alone and beside a longer one. Images of any size, none, and in a row."""
    policy = load_policy(str(embedded_path()), PART)
    rows = [by_hand((4, 4), (4, 4)), by_hand(text=9), by_hand((4, 8), (8, 4), (4, 4), text=2), *samples()]
    together, _ = token_logprobs(policy.model, collate(rows, Noise(), pad_id=PAD, vocabulary=VOCABULARY).to("cpu"))
    for row, sample in enumerate(rows):
        alone, _ = token_logprobs(policy.model, collate([sample], Noise(), pad_id=PAD, vocabulary=VOCABULARY).to("cpu"))
        assert (alone != 0).sum() == sample.learned.sum()
        torch.testing.assert_close(together[row : row + 1, : len(sample)], alone, atol=2e-5, rtol=0)
        assert not together[row, len(sample) :].any()


def test_a_batch_without_images() -> None:
    batch = collate([by_hand(), by_hand(text=5)], Noise(), pad_id=PAD, vocabulary=VOCABULARY).to("cpu")
    assert set(batch) == {"input_ids", "labels", "position_ids"}


def test_images_and_tokens_that_do_not_agree() -> None:
    sample = by_hand((4, 4), (4, 8))
    lost = replace(sample, frames=sample.frames[:1])
    with pytest.raises(ValueError, match="do not match: 4 features of 1 frames, 12 tokens in hand"):
        collate([lost], Noise(), pad_id=PAD, vocabulary=VOCABULARY).to("cpu")
    with pytest.raises(ValueError, match="0 features of 0 frames, 12 tokens"):
        collate([replace(sample, frames=())], Noise(), pad_id=PAD, vocabulary=VOCABULARY).to("cpu")
    with pytest.raises(ValueError, match="at least one"):
        collate([], Noise(), pad_id=PAD, vocabulary=VOCABULARY).to("cpu")


def test_rows_are_filled_up_on_the_right() -> None:
    padded = pad_rows([np.array([1, 2]), np.array([3, 4, 5])], 9)
    assert padded.tolist() == [[1, 2, 9], [3, 4, 5]]
