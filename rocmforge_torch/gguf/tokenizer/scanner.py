"""Finds special tokens in a text."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping


class Scanner:
    """Cuts a text at the tokens in it; where two begin at the same place, the longer counts.

    Args:
        ids: token text -> id.
        strip_after: ids of tokens that swallow the white space after them.
    """

    def __init__(self, ids: Mapping[str, int], strip_after: Collection[int] = ()) -> None:
        self._ids = ids
        self._strip_after = frozenset(strip_after)
        self._lengths: dict[str, list[int]] = {}  # first letter -> lengths, longest first
        for text in sorted(ids, key=len, reverse=True):
            lengths = self._lengths.setdefault(text[0], [])
            if not lengths or lengths[-1] != len(text):
                lengths.append(len(text))
        letters = "".join(map(re.escape, self._lengths))
        self._first_letter = re.compile(f"[{letters}]" if letters else r"(?!)")

    def split(self, text: str) -> Iterator[str | int]:
        """The text in order: its non-empty ordinary parts, and the ids of the tokens between."""
        begin = at = 0
        while found := self._first_letter.search(text, at):
            at = found.start()
            token = self._token_at(text, at)
            if token is None:
                at += 1
                continue
            if begin < at:
                yield text[begin:at]
            token_id = self._ids[token]
            yield token_id
            at += len(token)
            if token_id in self._strip_after:
                while at < len(text) and text[at] in " \t\n\v\f\r":
                    at += 1
            begin = at
        if begin < len(text):
            yield text[begin:]

    def _token_at(self, text: str, at: int) -> str | None:
        for length in self._lengths[text[at]]:
            if (token := text[at : at + length]) in self._ids:
                return token
        return None
