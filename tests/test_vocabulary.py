"""What a session knows of a checkpoint is the same whether its weights are loaded or not."""

from __future__ import annotations

from vzoom.config import ZoomConfig
from vzoom.engine.engine import Engine
from vzoom.models.checkpoint.load import load_checkpoint
from vzoom.models.checkpoint.vocabulary import load_vocabulary, vocabulary_of
from vzoom.protocol.vocabulary import Vocabulary
from vzoom.zoomer import embedded_path


def _facts(vocabulary: Vocabulary) -> list[object]:
    sizes = [(56, 56), (270, 480), (1080, 1920), (2000, 90)]
    grids = [vocabulary.grid_hw(height, width, ZoomConfig()) for height, width in sizes]
    text = vocabulary.tokenizer.encode("<think>Look.</think><answer>B</answer><|im_end|>")
    ids = (vocabulary.image_token_id, vocabulary.end_of_turn_id, vocabulary.end_ids)
    return [*ids, vocabulary.merge, grids, text]


def test_one_builder_of_a_vocabulary() -> None:
    checkpoint = load_checkpoint(str(embedded_path()), device="cpu")
    engine = Engine(checkpoint, max_total_tokens=1024)
    engine.close()
    facts = _facts(vocabulary_of(checkpoint))
    assert facts == _facts(load_vocabulary(checkpoint.name)) == _facts(engine.vocabulary)
    assert facts[:4] == [
        checkpoint.model.image_token_id,
        checkpoint.tokenizer.convert_tokens_to_ids("<|im_end|>"),
        frozenset(map(checkpoint.tokenizer.convert_tokens_to_ids, ("<|im_end|>", "<|endoftext|>"))),
        checkpoint.model.merge,
    ]
