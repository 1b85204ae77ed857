"""Text <-> token ids of one tokenizer. Text from outside never becomes a control token, from however many threads.

A tokenizer's added tokens (<|im_end|>, <think>, <tool_call>, …) are cut out of text before its model sees any, and no
setting of `tokenizers` stops that for all of them: `split_special_tokens` spares only those that are marked special,
and is stored in the tokenizer, where other threads find it. So the codec encodes with a tokenizer that has no added
token at all, and looks for them itself, in trusted text alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from .render import TextPart

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer


_TAG = re.compile(r"</?\w+>")  # what protocols use as tags: <think>, <tool_call>; not <|im_end|>


class TextCodec:
    """Encodes and decodes for one tokenizer; immutable, and safe to share between threads.

    Args:
        backend: of a fast tokenizer (`PreTrainedTokenizerFast.backend_tokenizer`). Its model is shared, not copied;
            what is done to the backend later (tokens, truncation, padding) does not reach the codec.

    Raises:
        ValueError: the tokenizer's model itself spells a control token, so text from outside could.
    """

    def __init__(self, backend: Tokenizer) -> None:
        from tokenizers import Tokenizer

        self._plain = Tokenizer(backend.model)
        for part in ("normalizer", "pre_tokenizer", "decoder"):
            if (found := getattr(backend, part)) is not None:
                setattr(self._plain, part, found)
        added = backend.get_added_tokens_decoder()
        self._contents = {id: token.content for id, token in added.items()}
        self._ids = {content: id for id, content in self._contents.items()}
        # Control tokens leave no text, tags do: a fine-tune may have added them as special tokens.
        self._silent = frozenset(
            id for id, token in added.items() if token.special and not _TAG.fullmatch(token.content)
        )
        self._all = _pattern(added)
        self._added = added
        self._of_tags: dict[tuple[str, ...], re.Pattern[str]] = {}
        for id, token in added.items():
            is_control = token.special or _TAG.fullmatch(token.content)
            if is_control and self.encode_plain(token.content) == [id]:
                raise ValueError(
                    f"the tokenizer's own vocabulary holds {token.content!r}: text from outside could become that "
                    "control token"
                )

    def encode(self, text: str) -> list[int]:
        """Ids of text that is ours: an added token that it spells becomes its id."""
        return self.encode_parts([TextPart(text)])

    def encode_turn(self, text: str, tags: tuple[str, ...]) -> list[int]:
        """Ids of a turn that a model or an expert wrote. No added token but a tag comes out of it: `<|im_end|>` in a
        thought is text.

        Args:
            text: of the turn.
            tags: of its protocol (`Protocol.tags`): they become their ids, if the tokenizer has them as tokens.
        """
        if tags not in self._of_tags:
            known = {id: token for id, token in self._added.items() if token.content in tags}
            self._of_tags[tags] = _pattern(known)
        return self._encode_split(self._of_tags[tags], [(text, True)])

    def encode_parts(self, parts: Iterable[TextPart]) -> list[int]:
        """Ids of consecutive parts.

        What stands between two added tokens is encoded in one piece, whoever it comes from, so the ids are those that a
        chat template gives for the whole text. An added token comes out of trusted text alone, and never spans the
        border between the two kinds.

        Args:
            parts: trusted and other text, in order.
        """
        runs = groupby(parts, key=lambda part: part.trusted)
        return self._encode_split(self._all, (("".join(part.text for part in run), trusted) for trusted, run in runs))

    def encode_plain(self, text: str) -> list[int]:
        """Ids of text from outside, without any added token. What is no Unicode (in a file's name) becomes U+FFFD."""
        if not text.isascii():
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return self._plain.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int], *, special: bool = False) -> str:
        """Text of ids.

        Args:
            ids: of any tokens.
            special: keep all tokens that are marked special. By default only those that look like tags are kept: a
                fine-tune may have added them as special tokens.
        """
        if self._contents.keys().isdisjoint(ids):
            return self._plain.decode(ids)
        pieces: list[str] = []
        run: list[int] = []
        for id in ids:
            if id not in self._contents:
                run.append(id)
            elif special or id not in self._silent:
                pieces += [self._plain.decode(run), self._contents[id]]
                run = []
        return "".join([*pieces, self._plain.decode(run)])

    def token_id(self, content: str) -> int | None:
        """The id of an added token, or None if there is no such token."""
        return self._ids.get(content)

    def _encode_split(self, pattern: re.Pattern[str], texts: Iterable[tuple[str, bool]]) -> list[int]:
        """Ids of (text, whether `pattern` is looked for in it), in order."""
        ids: list[int] = []
        pending: list[str] = []  # since the last added token
        for text, is_split in texts:
            at = 0
            for found in pattern.finditer(text) if is_split else ():
                pending.append(text[at : found.start()])
                if before := "".join(pending):
                    ids += self.encode_plain(before)
                assert found.lastgroup is not None
                ids.append(int(found.lastgroup.removeprefix("id")))
                pending, at = [], found.end()
            pending.append(text[at:])
        if rest := "".join(pending):
            ids += self.encode_plain(rest)
        return ids


def _pattern(tokens: Mapping[int, AddedToken]) -> re.Pattern[str]:
    """Finds the added tokens in a text as `tokenizers` does: the leftmost, and of several there the longest.

    The name of the group that matches holds the token's id.
    """
    alternatives = []
    for id, token in sorted(tokens.items(), key=lambda one: -len(one[1].content)):
        before, after = r"\s*" if token.lstrip else "", r"\s*" if token.rstrip else ""
        if token.single_word:
            before, after = rf"(?<!\w){before}", rf"{after}(?!\w)"
        alternatives.append(f"(?P<id{id}>{before}{re.escape(token.content)}{after})")
    return re.compile("|".join(alternatives) or r"(?!)")
