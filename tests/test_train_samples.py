"""From a record or a rollout to what training sees: masks, positions, and the frames behind the image tokens."""

from __future__ import annotations

import inspect
from dataclasses import replace

import numpy as np
import pytest
import torch
from data_records import CONFIG, LOOK, PLAIN, REFLECTION, VIDEO, ZOOM
from transformers import AutoModelForImageTextToText

from vzoom.data.tokens import tokenize_record
from vzoom.models.checkpoint.vocabulary import load_vocabulary
from vzoom.protocol.vocabulary import Vocabulary
from vzoom.train.common.samples import Sample, from_record, from_trajectory
from vzoom.types import StopReason
from vzoom.zoomer import embedded_path


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return load_vocabulary(str(embedded_path()))


def learned_text(sample: Sample, vocabulary: Vocabulary) -> str:
    return vocabulary.codec.decode(sample.ids[sample.learned].tolist())


def test_what_is_learned_of_a_record(vocabulary: Vocabulary) -> None:
    sample = from_record(ZOOM, vocabulary)
    assert learned_text(sample, vocabulary) == LOOK + ZOOM.turns[1].text
    # The end of turn behind the call was put there by the session: never sampled, never learned.
    last_of_call = np.flatnonzero(sample.learned)[len(vocabulary.codec.encode(LOOK)) - 1]
    assert sample.ids[last_of_call + 1] == vocabulary.end_of_turn_id
    assert not sample.learned[last_of_call + 1]
    assert not sample.sampled[last_of_call + 1]
    assert vocabulary.image_token_id not in sample.ids[sample.sampled]
    assert sample.logprobs is None


def test_a_flawed_turn_is_sampled_but_not_learned(vocabulary: Vocabulary) -> None:
    sample = from_record(REFLECTION, vocabulary)
    wrong, *right = (turn.text for turn in REFLECTION.turns)
    assert learned_text(sample, vocabulary) == "".join(right)
    assert vocabulary.codec.decode(sample.ids[sample.sampled].tolist()) == wrong + "".join(right)


def test_frames_are_those_of_glance_and_zooms_in_order(vocabulary: Vocabulary) -> None:
    sample = from_record(REFLECTION, vocabulary)
    assert [frame.pts_seconds for frame in sample.frames] == [(t,) for t in (0.0, 2.0, 3.0, 3.5, 1.0, 1.5)]
    assert {(frame.path, frame.grid_hw) for frame in sample.frames} == {(VIDEO.path, (4, 4))}
    assert (sample.ids == vocabulary.image_token_id).sum() == 4 * len(sample.frames)


def test_positions_are_those_of_transformers(vocabulary: Vocabulary) -> None:
    """Its own rule, over the whole conversation at once: images of rows x columns, no +1 through them."""
    sample = from_record(REFLECTION, vocabulary)
    model = AutoModelForImageTextToText.from_pretrained(embedded_path())
    ids = torch.from_numpy(sample.ids)[None]
    grids = torch.tensor([(1, *frame.grid_hw) for frame in sample.frames])
    kinds = {"mm_token_type_ids": (ids == vocabulary.image_token_id).int()}
    known = inspect.signature(model.model.get_rope_index).parameters  # transformers 5.0 finds images by their tokens
    kinds = {name: value for name, value in kinds.items() if name in known}
    positions, _ = model.model.get_rope_index(ids, image_grid_thw=grids, **kinds)
    assert np.array_equal(positions[:, 0].numpy(), sample.positions)


def test_a_rollout_keeps_its_logprobs(vocabulary: Vocabulary) -> None:
    trajectory = tokenize_record(ZOOM, vocabulary).trajectory
    trajectory.logprobs = [-0.5 * yes for yes in trajectory.sampled]
    sample = from_trajectory(trajectory, CONFIG, vocabulary, id="r", video=VIDEO)
    assert sample.logprobs is not None
    assert np.array_equal(sample.logprobs[sample.sampled], np.full(sample.sampled.sum(), -0.5, np.float32))
    assert np.array_equal(sample.learned, sample.sampled)
    assert np.array_equal(sample.ids, from_record(ZOOM, vocabulary).ids)


def test_tokens_and_frames_that_do_not_agree(vocabulary: Vocabulary) -> None:
    trajectory = tokenize_record(ZOOM, vocabulary).trajectory
    lost = replace(trajectory, visuals=trajectory.visuals[:-1])
    with pytest.raises(ValueError, match="16 visual tokens, but its 3 frames have 12 features"):
        from_trajectory(lost, CONFIG, vocabulary, id="r", video=VIDEO)
    moved = replace(trajectory.visuals[0], offset=trajectory.visuals[0].offset + 1)
    with pytest.raises(ValueError, match="or are elsewhere"):
        from_trajectory(
            replace(trajectory, visuals=[moved, *trajectory.visuals[1:]]), CONFIG, vocabulary, id="r", video=VIDEO
        )


def test_rollouts_that_are_no_data(vocabulary: Vocabulary) -> None:
    trajectory = tokenize_record(PLAIN, vocabulary).trajectory
    with pytest.raises(ValueError, match="not finished"):
        from_trajectory(replace(trajectory, stop_reason=StopReason.CANCELLED), CONFIG, vocabulary, id="r", video=VIDEO)
    reused = replace(trajectory, turns=[replace(trajectory.turns[0], num_reused=3)])
    with pytest.raises(ValueError, match="reused clips"):
        from_trajectory(reused, CONFIG, vocabulary, id="r", video=VIDEO)
