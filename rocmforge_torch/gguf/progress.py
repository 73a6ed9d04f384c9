"""A bar of bytes and their rate while a file is loaded."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

DELAY = 0.5  # seconds before a bar appears that nobody asked for


def loading_bar(name: str, total: int, shown: bool | None) -> AbstractContextManager[Any]:
    """A bar on stderr; `.update(nbytes)` moves it.

    Args:
        name: of the file.
        total: bytes to load.
        shown: None shows it on a terminal only, and only if loading takes a while.
    """
    from tqdm import tqdm

    bar: AbstractContextManager[Any] = tqdm(
        total=total,
        desc=f"loading {name}",
        unit="B",
        unit_scale=True,
        unit_divisor=1024,
        leave=False,
        disable=None if shown is None else not shown,
        delay=DELAY if shown is None else 0,
        dynamic_ncols=True,
    )
    return bar
