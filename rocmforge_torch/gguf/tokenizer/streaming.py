"""Token ids to text, one at a time."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable


class TokenStream:
    """Decodes tokens as they come and gives out whole characters only.

    A character whose bytes are spread over several tokens appears with the last of them; bytes that
    can never become a character appear as U+FFFD. The pieces together are what
    :meth:`Tokenizer.decode` makes of all ids.

    Args:
        piece: token id, whether it begins a text -> its bytes, whether the next token begins one.
        prefix: ids that went before: they set the state, their text is not given out.
    """

    def __init__(
        self, piece: Callable[[int, bool], tuple[bytes, bool]], prefix: Iterable[int] = ()
    ) -> None:
        self._piece = piece
        self._begins = True
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        for token_id in prefix:
            self.push(token_id)

    def push(self, token_id: int) -> str:
        """Add a token.

        Returns:
            The characters that are complete now, possibly none.

        Raises:
            ValueError: the vocabulary has no such id.
        """
        piece, self._begins = self._piece(token_id, self._begins)
        return self._decoder.decode(piece)

    def finish(self) -> str:
        """End the text.

        Returns:
            U+FFFD if the last character is incomplete, otherwise nothing.
        """
        return self._decoder.decode(b"", final=True)
