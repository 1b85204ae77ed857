"""Frames as video tokens: as transformers' own processors and positions have them, and exact when they are spliced."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import exactness
import numpy as np
import pytest
import torch
import transformers
import video_processor
from checkpoints import FAMILIES, config_of, make_checkpoint, token_id, write_tokenizer
from data_records import ZOOM
from exactness import CONFIG, difference, run_scripted
from packaging.version import Version
from test_exactness import ANSWER, FOUR_ZOOMS, TOLERANCE, zoom
from transformers import AutoModelForImageTextToText, PreTrainedTokenizerFast
from video_processor import CASES, Case, around, by_transformers, digest, load_torchvision, spec_of

from vzoom.config import ZoomConfig
from vzoom.data import token_lines, tokenize_record
from vzoom.data.learning.show import example_turns, text_of, token_runs
from vzoom.engine.clip_reuse import ClipStore
from vzoom.engine.kv_cache import PagePool
from vzoom.engine.session import NeedFrames, NeedTokens, Session
from vzoom.models import Checkpoint, encode, load_checkpoint, load_vocabulary, video_pixels
from vzoom.models import vocabulary_of as session_vocabulary
from vzoom.models.checkpoint.vocabulary import build_vocabulary
from vzoom.protocol import (
    TextPart,
    VideoPart,
    Vocabulary,
    mrope,
    span_positions,
    tokenize_parts,
)
from vzoom.protocol.tokenize import TokenSpan
from vzoom.train.pretrain.curriculum import Curriculum
from vzoom.types import Clip
from vzoom.video import frames_to_patches, grid_for, patches
from vzoom.zoomer import embedded_path

VIDEO = dataclasses.replace(CONFIG, protocol=video_processor.PROTOCOL)


def as_video(config: ZoomConfig) -> ZoomConfig:
    shown = config.protocol.override(name="video tokens", frame={"encoding": "video"})
    return dataclasses.replace(config, protocol=shown)


GOLDEN: dict[str, Any] = json.loads(video_processor.GOLDEN.read_text())
EVERY = pytest.mark.parametrize(("family", "name"), [(family, name) for family in FAMILIES for name in CASES])


def vocabulary_of(family: str, folder: Path) -> Vocabulary:
    write_tokenizer(folder)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    return build_vocabulary(tokenizer, spec_of(family), family, settings=config_of(family).to_dict())


def span_of(family: str, case: Case, vocabulary: Vocabulary) -> TokenSpan:
    """The conversation of a case, as the session of a protocol would write it."""
    span = TokenSpan()
    for clip, indices in enumerate(case.clips):
        before, after = around(clip)
        frames = VideoPart(0, case.times(clip), case.spacing(clip))
        grid = grid_for(*case.size_hw, config=video_processor.CONFIG, spec=spec_of(family))
        own = tokenize_parts(
            [TextPart(before), frames, TextPart(after)],
            [grid] * len(indices),
            vocabulary.codec,
            vocabulary.image_token_id,
            vocabulary.merge,
            vocabulary.video,
        )
        span.blocks += [dataclasses.replace(block, offset=block.offset + len(span.ids)) for block in own.blocks]
        span.ids += own.ids
    return span


def ours(family: str, case: Case, folder: Path) -> dict[str, Any]:
    """What `by_transformers` gives, by our own code."""
    vocabulary = vocabulary_of(family, folder)
    span = span_of(family, case, vocabulary)
    spec, config = spec_of(family), video_processor.CONFIG
    pixels = [frames_to_patches(case.frames(i), config=config, spec=spec)[0] for i in range(len(case.clips))]
    positions, _ = span_positions(0, span, vocabulary.merge, vocabulary.video, "hf523")
    return {
        "ids": span.ids,
        "positions": torch.from_numpy(np.ascontiguousarray(positions)),
        "after": int(positions.max()) + 1,
        "pixels": torch.cat(pixels),
    }


@EVERY
def test_equals_what_transformers_wrote(family: str, name: str, tmp_path: Path) -> None:
    """Ids, positions and pixels, bit for bit, in the golden file."""
    got, want = ours(family, CASES[name], tmp_path), GOLDEN[f"{family} {name}"]
    assert got["ids"] == [token for token, count in want["ids"] for _ in range(count)]
    assert digest(got["positions"]) == want["positions"]
    assert got["after"] == want["after"]
    assert digest(got["pixels"]) == want["pixels"]


@EVERY
def test_equals_transformers_here(family: str, name: str, tmp_path: Path) -> None:
    """The same where torchvision loads."""
    try:
        load_torchvision()
    except ModuleNotFoundError as error:
        pytest.skip(str(error))
    got, want = ours(family, CASES[name], tmp_path), by_transformers(family, CASES[name])
    assert got["ids"] == want["ids"]
    assert got["positions"].equal(want["positions"])
    assert got["pixels"].equal(want["pixels"])


def test_text_after_a_long_video_stands_after_all_of_it(tmp_path: Path) -> None:
    """The rule that models were trained with. transformers 5.23 has it in its rope_deltas, not in its positions."""
    vocabulary = vocabulary_of("qwen2_5_vl", tmp_path)
    span = span_of("qwen2_5_vl", CASES["fits"], vocabulary)
    trained, after = span_positions(0, span, vocabulary.merge, vocabulary.video)
    stock, _ = span_positions(0, span, vocabulary.merge, vocabulary.video, "hf523")
    glance = span.blocks[0]
    end = glance.offset + glance.num_tokens(vocabulary.merge)
    assert trained[:, :end].tolist() == stock[:, :end].tolist()
    assert (
        trained[:, end].tolist() == [int(trained[0, :end].max()) + 1] * 3
    )  # 4 patches, 4 s apart, 4 positions a second
    assert stock[:, end].tolist() == [int(stock[1:, :end].max()) + 1] * 3
    assert int(trained[0, end]) - int(stock[0, end]) == 3 * 16 + 1 - 3
    assert after == trained.max() + 1


def test_a_record_is_replayed_and_shown() -> None:
    shown = dataclasses.replace(ZOOM, config=as_video(ZOOM.config))
    vocabulary = load_vocabulary(str(embedded_path()))
    trajectory = tokenize_record(shown, vocabulary).trajectory
    assert [(v.pts_seconds, v.grid_thw, v.num_tokens, v.is_video) for v in trajectory.visuals] == [
        ((0.0, 2.0), (1, 4, 4), 4, True),
        ((1.0, 1.5), (1, 4, 4), 4, True),
    ]
    assert trajectory.num_frames == 4
    lines = [line for line in token_lines(shown, vocabulary) if "video_pad" in line.text]
    assert [(line.text, line.count) for line in lines] == [
        ("<|video_pad|> of 2 frames from 0.00 s on", 4),
        ("<|video_pad|> of 2 frames from 1.00 s on", 4),
    ]
    assert len(trajectory.ids) < len(tokenize_record(ZOOM, vocabulary).trajectory.ids)


def test_the_turns_of_a_protocol_are_shown() -> None:
    parts = example_turns(as_video(ZOOM.config).protocol)["glance turn"]
    assert "64.00s\n<|video_pad|>" in text_of(parts)
    runs = list(token_runs(parts, load_vocabulary(str(embedded_path()))))
    assert sum(run.text.count("<|video_pad|>") for run in runs) == 2  # of 3 frames


def test_who_cannot_show_videos_says_so() -> None:
    vocabulary = dataclasses.replace(load_vocabulary(str(embedded_path())), video=None)
    with pytest.raises(ValueError, match=r"shows frames as video tokens .* not known"):
        Session("Q?", exactness.VIDEO, vocabulary, VIDEO)
    with pytest.raises(ValueError, match="must be image"):
        Curriculum("mine", (), zoom=VIDEO)


# ---------------------------------------------------------------- through the engine


@pytest.fixture(scope="module", params=FAMILIES)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return load_checkpoint(str(make_checkpoint(request.param, tmp_path_factory.mktemp(request.param))))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return load_checkpoint(str(make_checkpoint("qwen2_5_vl", tmp_path_factory.mktemp("small"))))


ODD = zoom(33.25, 34.25, 5)  # 5 frames: the last of them stands twice


def error_of(checkpoint: Checkpoint, recorded: Any, config: Any = VIDEO) -> tuple[float, bool]:
    hf = AutoModelForImageTextToText.from_pretrained(checkpoint.name).eval()
    pixels = video_pixels(recorded.trajectory, recorded.clips, config, checkpoint.patch_spec)
    return difference(hf, recorded, pixels, config.protocol.frame.rope_rule)


def test_four_spliced_clips_equal_a_full_prefill(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    zooms = [FOUR_ZOOMS[0], zoom(40.5, 44.5, 2, "elsewhere"), zoom(100, 116, 1, "é 東"), zoom(33.25, 35.75, 2)]
    script = {"Which one?": [*zooms, ANSWER]}
    recorded, engine = run_scripted(monkeypatch, checkpoint, script, config=VIDEO)
    one = recorded["Which one?"]
    trajectory = one.trajectory
    assert trajectory is not None
    assert [len(clip) for clip in one.clips] == [64, 16, 8, 16, 5]
    assert trajectory.num_frames == 64 + 16 + 8 + 16 + 5
    error, same_positions = error_of(checkpoint, one)
    assert same_positions
    assert error <= TOLERANCE
    assert engine.tokens_fed == len(trajectory.ids) - 1
    assert engine.pool.num_free == engine.pool.num_blocks
    ids = set(trajectory.ids)
    assert token_id("<|video_pad|>") in ids
    assert token_id("<|image_pad|>") not in ids

    images, _ = run_scripted(monkeypatch, checkpoint, script)
    as_images = images["Which one?"].trajectory
    assert as_images is not None
    share = sum(v.num_tokens for v in trajectory.visuals) / sum(v.num_tokens for v in as_images.visuals)
    assert 0.5 <= share <= 0.55
    assert as_images.num_frames == trajectory.num_frames


@pytest.mark.skipif(Version(transformers.__version__) < Version("5.23"), reason="other positions than these")
@pytest.mark.parametrize("rule", ["max", "hf523"])
def test_fractions_of_seconds_and_the_rule_of_transformers_523(
    rule: Any, small: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers 5.0 rounds the seconds of a temporal patch down to whole ones, and places text by the other rule."""
    config = dataclasses.replace(VIDEO, protocol=VIDEO.protocol.override(frame={"rope_rule": rule}))
    script = {"Q?": [zoom(40.5, 44.5, 4), ODD, zoom(70, 70.3, 30), ANSWER]}
    recorded, _ = run_scripted(monkeypatch, small, script, config=config)
    error, same_positions = error_of(small, recorded["Q?"], config)
    assert same_positions
    assert error <= TOLERANCE


def test_positions_are_those_of_the_times_that_were_asked_for(small: Checkpoint) -> None:
    """A file shows its frames up to a frame early; rounded down, every one of their positions would be one too low."""
    config = dataclasses.replace(VIDEO, glance_max_frames=8)
    placed = []
    for early in (0.0, 0.04):
        session = Session("Q?", exactness.VIDEO, session_vocabulary(small), config)
        assert isinstance(session.action, NeedFrames)
        times = [max(0.0, t - early) for t in session.action.timestamps]
        clip = Clip(np.zeros((8, 56, 84, 3), np.uint8), tuple(times), tuple(range(8)), (False,) * 8)
        session.splice(clip)
        assert isinstance(session.action, NeedTokens)
        placed.append(session.action.positions)
    assert np.array_equal(*placed)
    assert len(set(placed[0][0])) > 4


def test_several_clips_of_one_turn_are_videos_of_their_own(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No pair has a frame of each: an odd clip is filled up before the next one begins."""
    several = VIDEO.protocol.override(call={"per_turn": 2}, turns={"tool": "{clips}\n{budget}"})
    config = dataclasses.replace(VIDEO, protocol=several)
    calls = zoom(33.25, 35.75, 2) + zoom(8, 9.5, 2).partition("</think>")[2] + "<|im_end|>"
    recorded, engine = run_scripted(monkeypatch, checkpoint, {"Q?": [calls, ANSWER]}, config=config)
    one = recorded["Q?"]
    assert one.trajectory is not None
    assert [len(clip) for clip in one.clips] == [64, 5 + 3]
    pairs = [v.pts_seconds[i : i + 2] for v in one.trajectory.visuals for i in range(0, len(v.pts_seconds), 2)]
    assert [len(pair) for pair in pairs[32:]] == [2, 2, 1, 2, 1]
    error, same_positions = error_of(checkpoint, one, config)
    assert same_positions
    assert error <= TOLERANCE
    assert engine.stats().features.misses == 32 + 3 + 2


TIGHT = dataclasses.replace(VIDEO, glance_max_frames=16, max_total_tokens=1536, max_new_tokens=256, answer_reserve=64)


def test_a_group_that_is_preempted_is_exact(small: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rollouts share the glance; each distinct pair of frames is encoded once; lost pages are fed again."""
    scripts = {
        "Which?": [zoom(8, 12, 2), ANSWER],
        "later": [zoom(64, 72, 2), zoom(1, 3.5, 2), ANSWER],
        "same call": [zoom(8, 12, 2), ANSWER],
        "no zoom": [ANSWER],
    }
    recorded, engine = run_scripted(
        monkeypatch, small, scripts, group=True, config=TIGHT, pool_tokens=TIGHT.max_total_tokens
    )
    assert engine.stats().preemptions > 0
    errors = [error_of(small, one, TIGHT) for one in recorded.values()]
    assert all(same for _, same in errors)
    assert max(error for error, _ in errors) <= TOLERANCE
    pairs = {v.pts_seconds[i : i + 2] for one in recorded.values() if one.trajectory for v in one.trajectory.visuals
             for i in range(0, len(v.pts_seconds), 2)}  # fmt: skip
    assert engine.stats().features.misses == len(pairs)
    assert engine.pool.num_free == engine.pool.num_blocks


def test_a_clip_is_reused_only_where_its_times_move_alike(small: Checkpoint) -> None:
    """The same pixels at another rate have other positions to each other."""
    clip = Clip(np.zeros((8, 56, 84, 3), np.uint8), tuple(i / 2 for i in range(8)), tuple(range(8)), (False,) * 8)
    vocabulary = session_vocabulary(small)
    keys = []
    for start, spacing in ((0, 0.5), (100, 0.5), (0, 1.0)):
        span = tokenize_parts(
            [TextPart("x"), VideoPart(0, clip.pts_seconds, spacing)], [(4, 6)] * 8, vocabulary.codec,
            vocabulary.image_token_id, vocabulary.merge, vocabulary.video,
        )  # fmt: skip
        placed, after = span_positions(start, span, vocabulary.merge, vocabulary.video)
        need = NeedTokens(span, placed, after, clip, True)
        first, end = ClipStore(PagePool(
            num_layers=1, num_kv_heads=1, head_dim=8, num_blocks=4, block_size=32, dtype=torch.float32,
            device=torch.device("cpu"),
        ), "rotate", vocabulary.merge)._span(need)  # fmt: skip
        assert (first, end) == (1, len(span.ids))
        keys.append(ClipStore._key(need, first, end))
    assert keys[0] == keys[1] != keys[2]


def _one_patch_late(start: int, grid: Any, *, step: float = 1.0, rule: Any = "max") -> Any:
    placed, after = _POSITIONS(start, grid, step=step, rule=rule)
    late = placed.copy()
    late[0] = np.roll(placed[0], grid[1] * grid[2])
    return late, after


def _swapped(clip: Any, config: Any, spec: Any) -> Any:
    for one in _PICTURES(clip, config, spec):
        yield dataclasses.replace(one, frames=one.frames[::-1], key=(one.key, "swapped"))


def _black_at_the_end(clip: Any, config: Any, spec: Any) -> Any:
    if len(clip) % 2 and config.protocol.frame.encoding == "video":
        frames = np.concatenate([clip.frames, np.zeros_like(clip.frames[:1])])
        clip = dataclasses.replace(
            clip,
            frames=frames,
            pts_seconds=(*clip.pts_seconds, 0.0),
            frame_indices=(*clip.frame_indices, 0),
            clamped=(*clip.clamped, False),
        )
    return _PICTURES(clip, config, spec)


_POSITIONS, _PICTURES = mrope.block_positions, encode._pictures


@pytest.mark.parametrize(
    ("target", "name", "mutant"),
    [
        (mrope, "block_positions", _one_patch_late),
        (encode, "_pictures", _swapped),
        (encode, "_pictures", _black_at_the_end),
    ],
    ids=["a temporal patch late", "frames of a pair swapped", "padded with black"],
)
def test_a_mutation_breaks_exactness(
    target: Any, name: str, mutant: Any, small: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(target, name, mutant)
    recorded, _ = run_scripted(monkeypatch, small, {"Q?": [ODD, ANSWER]}, config=VIDEO)
    error, _ = error_of(small, recorded["Q?"])
    assert error > 100 * TOLERANCE


@pytest.mark.parametrize("mistake", ["swapped", "first frame again"])
def test_a_mutation_of_the_pixels_is_seen(mistake: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(frames: np.ndarray, **how: Any) -> Any:
        if mistake == "swapped":
            frames = frames.copy()
            even = len(frames) // 2 * 2
            frames[:even] = frames[:even].reshape(-1, 2, *frames.shape[1:])[:, ::-1].reshape(frames[:even].shape)
        elif len(frames) % 2:
            frames = np.concatenate([frames, frames[:1]])
        return patches.frames_to_patches(frames, **how)

    monkeypatch.setitem(globals(), "frames_to_patches", wrong)
    got, want = ours("qwen2_vl", CASES["shrunk"], tmp_path), GOLDEN["qwen2_vl shrunk"]
    assert digest(got["pixels"]) != want["pixels"]
