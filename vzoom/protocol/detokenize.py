"""Token ids -> text as it comes, without breaking a character that spans tokens."""

from __future__ import annotations

from .text_codec import TextCodec


class TextStream:
    """Decodes one turn token by token: `push` returns the text that became certain with the new token.

    Decoding the whole turn at every token would be quadratic, and decoding each token alone breaks characters and
    leading spaces; so a short window is decoded with and without the new tokens and the difference is emitted.
    """

    def __init__(self, codec: TextCodec) -> None:
        self._codec = codec
        self._ids: list[int] = []
        self._context = 0  # start of the window
        self._emitted = 0  # ids before this are in `text`
        self.text = ""

    def fork(self) -> TextStream:
        """A second decoder that has seen the same tokens."""
        other = TextStream(self._codec)
        other._ids = list(self._ids)
        other._context, other._emitted, other.text = self._context, self._emitted, self.text
        return other

    def push(self, token: int) -> str:
        """Add one token. Returns the text that became certain, "" while a character is incomplete."""
        self._ids.append(token)
        known = self._decode(self._ids[self._context : self._emitted])
        text = self._decode(self._ids[self._context :])
        if text.endswith("�"):  # the last character is not whole yet
            return ""
        return self._emit(text[len(known) :])

    def finish(self) -> str:
        """The turn is over. Returns what was held back for a character that never became whole."""
        known = self._decode(self._ids[self._context : self._emitted])
        return self._emit(self._decode(self._ids[self._context :])[len(known) :])

    def _emit(self, new: str) -> str:
        self._context, self._emitted = self._emitted, len(self._ids)
        self.text += new
        return new

    def _decode(self, ids: list[int]) -> str:
        return self._codec.decode(ids)
