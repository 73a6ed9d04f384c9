"""Which function does what with a `GGUFTensor`: two tables, and who fills them.

`FUNCTIONS` is asked first, before autograd and autocast: it saves the hot paths from PyTorch's
taking them apart. Everything else arrives in `OPS`, below both, as an ATen overload; derivatives
are then PyTorch's own, whose formulas call what is in the tables again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

Handler = TypeVar("Handler", bound=Callable[..., Any])

FUNCTIONS: dict[Any, Callable[..., Any]] = {}  # torch function -> handler(func, *args, **kwargs)
OPS: dict[Any, Callable[..., Any]] = {}  # op overload, or its name -> likewise


class NoQuantizedForm(Exception):
    """Why these arguments have no result that stays quantized, as the end of a sentence."""


def handles(table: dict[Any, Callable[..., Any]], *keys: Any) -> Callable[[Handler], Handler]:
    """Decorator: puts a handler into `FUNCTIONS` or `OPS` under every key."""

    def register(handler: Handler) -> Handler:
        table.update(dict.fromkeys(keys, handler))
        return handler

    return register
