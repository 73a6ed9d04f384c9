"""The one exception that a bad GGUF file ends in."""

from __future__ import annotations

MAX_QUOTED = 80


def quote(name: str) -> str:
    """``name`` in quotes, escaped and cut short: names in a hostile file may be anything."""
    return repr(name if len(name) <= MAX_QUOTED else name[:MAX_QUOTED] + "…")


class GGUFError(ValueError):
    """A file is no valid GGUF, or holds something that cannot be loaded.

    The message reads ``FILE: SUBJECT at byte OFFSET: PROBLEM``.

    Attributes:
        source: the file's path, or a name for bytes in memory.
        subject: what is wrong: ``"key 'general.alignment'"``, ``"tensor 'output.weight'"``,
            ``"key 3"`` where the name itself cannot be read, ``"header"``.
        offset: the byte of the file that the problem was found at.
    """

    def __init__(
        self, problem: str, *, source: str = "", subject: str = "", offset: int | None = None
    ) -> None:
        place = f"{subject} at byte {offset}" if offset is not None else subject
        super().__init__(": ".join(part for part in (source, place, problem) if part))
        self.source = source
        self.subject = subject
        self.offset = offset
