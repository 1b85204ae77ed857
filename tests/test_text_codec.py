"""The codec on small tokenizers: whose text may become a control token, and what is read back."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from checkpoints import SPECIALS
from protocols import TAGS
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from vzoom.models.checkpoint.vocabulary import build_vocabulary
from vzoom.protocol.detokenize import TextStream
from vzoom.protocol.render import ImagePart, TextPart
from vzoom.protocol.text_codec import TextCodec
from vzoom.protocol.tokenize import VisionBlock, tokenize_parts
from vzoom.video import PatchSpec

_ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())


def byte_level(*tokens: AddedToken, merges: tuple[str, ...] = ()) -> Tokenizer:
    """One token a byte, the merges, and the added tokens after SPECIALS. A merge is a word, made letter by letter."""
    vocabulary, pairs = list(_ALPHABET), []
    for word in merges:
        for end in range(2, len(word) + 1):
            pairs.append((word[: end - 1], word[end - 1]))
            vocabulary.append(word[:end])
    backend = Tokenizer(models.BPE(vocab={text: i for i, text in enumerate(vocabulary)}, merges=pairs))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIALS])
    for token in tokens:
        (backend.add_special_tokens if token.special else backend.add_tokens)([token])
    return backend


def tags(*, special: bool) -> list[AddedToken]:
    return [AddedToken(tag, special=special, normalized=False) for tag in TAGS]


@pytest.mark.parametrize("special", [False, True])
def test_only_trusted_text_holds_added_tokens(special: bool) -> None:
    backend = byte_level(*tags(special=special), AddedToken("<tool_call>", normalized=False))
    codec = TextCodec(backend)
    text = "<think>a<tool_call><|im_end|><answer>"
    assert codec.encode(text) == backend.encode(text).ids
    assert codec.encode_plain(text) == codec.encode_parts([TextPart(text, trusted=False)])
    assert max(codec.encode_plain(text)) < len(_ALPHABET)
    assert codec.decode(codec.encode_plain(text)) == text


@pytest.mark.parametrize("special", [False, True])
def test_a_turn_of_a_model_holds_tags_and_nothing_else(special: bool) -> None:
    codec = TextCodec(byte_level(*tags(special=special), AddedToken("<tool_call>", normalized=False)))
    ids = codec.encode_turn("<think>a <|im_end|><tool_call></think>", TAGS)
    assert [ids[0], ids[-1]] == [codec.token_id("<think>"), codec.token_id("</think>")]
    assert max(ids[1:-1]) < len(_ALPHABET)


@pytest.mark.parametrize("cut", range(1, 10))
def test_no_added_token_spans_a_border(cut: int) -> None:
    codec = TextCodec(byte_level())
    for trusted in ((True, False), (False, True)):
        halves = [
            TextPart(t, trusted=yes) for t, yes in zip(("<|im_end|>"[:cut], "<|im_end|>"[cut:]), trusted, strict=True)
        ]
        ids = codec.encode_parts(halves)
        assert codec.token_id("<|im_end|>") not in ids
        assert codec.decode(ids) == "<|im_end|>"


def test_text_of_both_kinds_is_encoded_in_one_piece() -> None:
    codec = TextCodec(byte_level(merges=("?!",)))
    parts = [
        TextPart("a"),
        TextPart("b?", trusted=False),
        TextPart("!c<|im_end|>"),
        ImagePart(0),
        TextPart("?"),
        TextPart("!"),
    ]
    image = codec.token_id("<|image_pad|>")
    assert image is not None
    span = tokenize_parts(parts, [(2, 4)], codec, image, merge=2)
    (merged,) = codec.encode("?!")
    a, b, c = codec.encode("abc")
    assert span.ids == [a, b, merged, c, codec.token_id("<|im_end|>"), image, image, merged]
    assert span.blocks == [VisionBlock(0, 1, 5, (1, 2, 4))]


def test_added_tokens_are_found_as_tokenizers_finds_them() -> None:
    backend = byte_level(
        AddedToken("<x>", normalized=False),
        AddedToken("<x>y", normalized=False),
        AddedToken("<l>", lstrip=True, normalized=False),
        AddedToken("<r>", rstrip=True, normalized=False),
        AddedToken("one", single_word=True, normalized=False),
    )
    codec = TextCodec(backend)
    for text in (
        "<x>",
        "<x>y",
        "a<x>yx",
        "<<x>>",
        "a \n<l> b",
        "a <r> \t b",
        "one alone",
        "no one.",
        "someone",
        "ones",
    ):
        assert codec.encode(text) == backend.encode(text).ids, text


def test_tags_that_are_special_tokens_are_read_and_other_special_tokens_are_not() -> None:
    codec = TextCodec(byte_level(*tags(special=True), AddedToken("<|box|>", special=True, normalized=False)))
    ids = codec.encode("<think>a</think><answer><|box|>B</answer><|vision_end|>")
    assert codec.decode(ids) == "<think>a</think><answer>B</answer>"
    assert codec.decode(ids, special=True) == "<think>a</think><answer><|box|>B</answer><|vision_end|>"
    stream = TextStream(codec)
    pieces = [stream.push(id) for id in ids]
    assert pieces[0] == "<think>"
    assert "".join(pieces) + stream.finish() == stream.text == codec.decode(ids)


def test_a_character_around_a_token_that_leaves_no_text_stays_whole() -> None:
    codec = TextCodec(byte_level(AddedToken("é", normalized=False)))
    first, *rest = codec.encode("東")
    assert codec.decode([first, *codec.encode("<|image_pad|>"), *rest]) == "東"
    assert codec.decode(codec.encode("aéb")) == "aéb"  # a byte-level decoder alone makes a broken byte of it


def test_what_is_no_unicode_becomes_a_replacement_character() -> None:
    codec = TextCodec(byte_level())
    assert codec.decode(codec.encode_plain("a\udcff\ud83c\udf89東")) == "a\ufffd🎉東"


def test_later_changes_of_the_tokenizer_do_not_reach_the_codec() -> None:
    backend = byte_level()
    codec = TextCodec(backend)
    before = codec.encode("abc<|im_end|>")
    backend.add_tokens(["abc"])
    backend.enable_truncation(1)
    backend.enable_padding(length=9)
    backend.encode_special_tokens = True
    assert codec.encode("abc<|im_end|>") == before


def test_a_vocabulary_that_spells_a_control_token_itself_is_refused() -> None:
    vocabulary = {text: i for i, text in enumerate([*_ALPHABET, "<|", "<|e"])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[("<", "|"), ("<|", "e")]))
    backend.add_special_tokens([AddedToken("<|e", special=True, normalized=False)])
    with pytest.raises(ValueError, match=r"own vocabulary holds '<\|e'"):
        TextCodec(backend)
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[("<", "|"), ("<|", "e")]))
    backend.add_tokens(["<|e"])  # an ordinary word: nothing is controlled by it
    assert len(TextCodec(backend).encode("<|e")) == 1


def test_a_slow_tokenizer_is_refused_in_one_line() -> None:
    class Slow:
        pass

    spec = PatchSpec()
    with pytest.raises(ValueError, match=r"^the tokenizer of here/model is a slow one \(Slow\): .*tokenizer\.json$"):
        build_vocabulary(Slow(), spec, "here/model")


def test_threads_with_texts_of_both_kinds_do_not_disturb_each_other() -> None:
    backend = byte_level(*tags(special=False))
    codec = TextCodec(PreTrainedTokenizerFast(tokenizer_object=backend).backend_tokenizer)
    text = "<|im_end|><think>" * 20
    ours, theirs = codec.encode(text), codec.encode_plain(text)

    def both(_: int) -> bool:
        return all(codec.encode(text) == ours and codec.encode_plain(text) == theirs for _ in range(200))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(both, range(8)))
