"""What is learned and what is only shown; and that the trainer's forward is the model's own."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from pretrain_conversation import conversation
from protocols import BRIEF

from vzoom.config import ZoomConfig
from vzoom.protocol.frame_times import glance_timestamps
from vzoom.protocol.parse import parse_turn
from vzoom.protocol.render import prompt
from vzoom.protocol.text_codec import TextCodec
from vzoom.protocol.tokenize import tokenize_parts
from vzoom.synthetic.spec import SyntheticConfig
from vzoom.train.pretrain import tasks
from vzoom.train.pretrain.example import ExampleWriter
from vzoom.train.pretrain.forward import augment, collate, encode_frames, frames_to_pixels, learned_logits
from vzoom.train.pretrain.frame_store import FrameStore
from vzoom.train.pretrain.model import build_model
from vzoom.train.pretrain.tokenizer import SPECIAL, build_tokenizer, whole_tags
from vzoom.types import Answer, ZoomCall

CONFIG = ZoomConfig(protocol=BRIEF, min_pixels=3136, max_pixels=3136)


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(BRIEF)


@pytest.fixture(scope="module")
def store():
    return FrameStore(SyntheticConfig(), side=56, first=0, count=6)


@pytest.fixture
def writer(tokenizer):
    return ExampleWriter(tokenizer, CONFIG, side=56, rng=np.random.default_rng(0))


def learned_runs(example, tokenizer):
    """The pieces of text that get loss."""
    runs, current = [], []
    for token, learned in zip([*example.span.ids, 0], [*example.learned, False], strict=True):
        if learned:
            current.append(token)
        elif current:
            runs.append(tokenizer.decode(current))
            current = []
    return runs


def test_any_text_survives_and_times_are_single_tokens(tokenizer):
    text = "Grüße, 你好 🎉 foo_bar 12345.678\t x\n\n<|im_end|><think> (B) A: "
    ids = TextCodec(tokenizer.backend_tokenizer).encode_plain(text)
    assert tokenizer.decode(ids) == text
    assert not {"<|im_end|>", "<think>"} & set(tokenizer.convert_ids_to_tokens(ids))
    for n in (0, 9, 64, 127):
        in_label, in_call = tokenizer.encode(f"{n}.50s"), tokenizer.encode(f'{{"segment": [{n}, {n}], "fps": 2}}')
        assert len(in_label) == 2
        assert in_call[1] == in_call[3] == in_label[0]
    for word in (*SPECIAL, *whole_tags(BRIEF), " star", " gray"):
        assert len(tokenizer.encode(word)) == 1
    assert build_tokenizer(BRIEF).get_vocab() == tokenizer.get_vocab()


def test_only_sampled_tokens_are_learned(writer, store, tokenizer):
    for number in range(6):
        example = conversation(writer, store[number], max_zooms=4)
        runs = learned_runs(example, tokenizer)
        assert len(runs) == len(example.turn_ends) >= 2
        assert all(isinstance(parse_turn(run, BRIEF, video_fps=8.0), ZoomCall) for run in runs[:-1])
        assert isinstance(parse_turn(runs[-1], BRIEF, video_fps=8.0), Answer)
        assert not any("<|im_end|>" in run or "tool_response" in run for run in runs)
        assert all(run.startswith("<think>") for run in runs)


@pytest.mark.parametrize("flaw", ["shifted", "elsewhere"])
def test_a_flawed_first_zoom_is_shown_and_not_learned(writer, store, tokenizer, flaw):
    example = conversation(writer, store[2], max_zooms=4, flaw=flaw)
    text = tokenizer.decode(example.span.ids)
    first, second = (text.split("<think>")[i] for i in (1, 2))
    runs = learned_runs(example, tokenizer)
    assert not any(first.split("</think>")[0] in run for run in runs)
    assert second.split("</video_zoom>")[0].split("</answer>")[0] in runs[0]


def test_the_prompt_is_the_engines_own(writer, store, tokenizer):
    example = conversation(writer, store[1], max_zooms=3)
    info = store[1].video.info()
    times = glance_timestamps(info, CONFIG)
    question = tokenizer.decode(example.span.ids).split("<|vision_end|>\n")[1].split("\nZoom or")[0]
    parts = prompt(question, info, times, replace(CONFIG, max_zooms=3))
    codec = TextCodec(tokenizer.backend_tokenizer)
    run = tokenize_parts(parts, [(4, 4)] * len(times), codec, tokenizer.convert_tokens_to_ids("<|image_pad|>"), 2)
    assert example.span.ids[: len(run.ids)] == run.ids
    assert example.span.blocks[: len(times)] == run.blocks
    assert [row for _, row in example.frames[: len(times)]] == [round(2 * t) for t in times]


def test_without_zooms_the_guess_says_nothing_of_the_answer(writer, store, tokenizer):
    runs = [learned_runs(conversation(writer, store[n % 6], max_zooms=0), tokenizer) for n in range(30)]
    assert all(run[0].startswith("<think>Not seen.</think><answer>") and len(run) == 1 for run in runs)
    assert len({run[0] for run in runs}) == 4


def test_tasks_use_the_conversations_tokens(writer, store, tokenizer):
    """A piece that is tokenised alone has the tokens that it has inside a whole turn."""
    for make in (
        lambda b: tasks.scenes(writer, b, max_frames=10),
        lambda b: tasks.scenes(writer, b, max_frames=64),
        lambda b: tasks.letters(writer, b),
        lambda b: tasks.look(writer, b),
        lambda b: tasks.answers(writer, b),
        lambda b: tasks.listing(writer, b, max_frames=6),
        lambda b: tasks.recall(writer),
        lambda b: tasks.reading(writer, b, nothing=0.5, max_frames=5),
        lambda b: tasks.captions(writer, [b, store[0]]),
    ):
        for number in range(6):
            example = make(store[number])
            kept = [t for t in example.span.ids if t != writer.image_token]
            assert tokenizer.encode(tokenizer.decode(kept)) == kept
            assert any(example.learned)
            assert not all(example.learned)
            assert len(example.frames) == len(example.span.blocks)


def test_the_trainers_forward_is_stock_transformers(writer, store, tokenizer):
    model = build_model(tokenizer).eval()
    examples = [conversation(writer, store[n], max_zooms=4, flaw="elsewhere") for n in (0, 0, 3)]
    batch = collate(examples, store, pad_token=0)
    assert len(batch.frames_F) < sum(len(e.frames) for e in examples)  # shared frames come once
    with torch.no_grad():
        ours = learned_logits(model, batch, batch.frames_F)
        theirs = torch.cat([stock_logits(model, e, store, writer.image_token) for e in examples])
    scale = theirs.abs().max()
    assert (ours - theirs).abs().max() <= 1e-5 * scale
    assert batch.targets_S.tolist() == [t for e in examples for t, on in zip(e.span.ids, e.learned, strict=True) if on]


def stock_logits(model, example, store, image_token):
    """Logits before each learned token, by the model's own forward with its own get_rope_index."""
    frames = store.gather(example.frames)
    pixels = frames_to_pixels(frames).view(-1, 3, 1, 14, 14).expand(-1, 3, 2, 14, 14).reshape(-1, 1176)
    ids = torch.tensor([example.span.ids])
    output = model(
        input_ids=ids,
        pixel_values=pixels,
        image_grid_thw=torch.tensor([[1, 4, 4]] * len(frames)),
        mm_token_type_ids=(ids == image_token).int(),
    )
    return output.logits[0, torch.tensor(example.learned).nonzero()[:, 0] - 1]


def test_pixels_are_the_processors(store):
    try:
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil as Processor
    except ModuleNotFoundError:  # transformers 5.0
        from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor as Processor

    frames = store[0].frames[:3]
    theirs = Processor(min_pixels=3136, max_pixels=3136)(list(frames), return_tensors="pt").pixel_values
    ours = frames_to_pixels(frames).view(-1, 3, 1, 196).expand(-1, 3, 2, 196).reshape(-1, 1176)
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_noise_is_small_and_large_frames_are_refused(store, tokenizer):
    frames = store[0].frames[:8]
    noisy = augment(frames, np.random.default_rng(0)).astype(int)
    assert 1 < np.abs(noisy - frames).mean() < 5
    with pytest.raises(ValueError, match="window"):
        encode_frames(build_model(tokenizer).model.visual, torch.zeros(1, 144, 588), (12, 12))
    with pytest.raises(ValueError, match="not one of"):
        store[0].index_of(1.25)
