"""How a command ends when something is wrong: one sentence on stderr and an exit code."""

from __future__ import annotations

import os
from typing import Any

import typer

FAILED = 1
USAGE = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells count

# Wrong flags or arguments. Some releases of typer carry a click of their own, so that this class
# is to be found through typer only.
UsageError: Any = typer.BadParameter.__mro__[1]


class CommandError(Exception):
    """A command cannot do what it was asked; the message is one sentence for a person."""


class Interrupted(CommandError):
    """The person pressed Ctrl-C; the message says what was done until then."""


def sentence(error: BaseException) -> str:
    """What to tell a person about an exception that ended a command."""
    if isinstance(error, OSError) and error.strerror:
        names = [os.fspath(name) for name in (error.filename, error.filename2) if name is not None]
        return ": ".join([*map(str, names), error.strerror])
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return (
            "out of memory: use a smaller --ctx-size, a smaller model, or another --device "
            f"({_first_line(error) or 'no further detail'})"
        )
    text = _first_line(error)
    if isinstance(error, CommandError | ValueError | RuntimeError | NotImplementedError) and text:
        return text
    return f"unexpected {type(error).__name__}: {text or 'no message'} (--debug shows where)"


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
