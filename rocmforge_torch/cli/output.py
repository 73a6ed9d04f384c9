"""What commands print: JSON for machines, rich tables for people, bars for both to wait with."""

from __future__ import annotations

import json
import os
import sys
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

PIPE_WIDTH = 120  # of a table that goes to a file or a program
KEPT_CONTROLS = "\n\t"
UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def console(stderr: bool = False) -> Console:
    """A console that prints text as it is: what files hold must never be taken for markup."""
    from rich.console import Console

    made = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    if not made.is_terminal and "COLUMNS" not in os.environ:
        made.width = PIPE_WIDTH
    return made


def note(message: str) -> None:
    """One line for the person at the terminal; never on stdout."""
    console(stderr=True).print(message, style="dim", soft_wrap=True)


def write(piece: str) -> None:
    """A piece of text to stdout, at once; on a terminal without control characters."""
    if sys.stdout.isatty():
        piece = "".join(c for c in piece if c.isprintable() or c in KEPT_CONTROLS)
    sys.stdout.write(piece)
    sys.stdout.flush()


def print_json(value: Any, indent: int | None = 2) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(json.dumps(value, indent=indent, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def table(*columns: str, title: str | None = None) -> Table:
    """An empty table; the first column never wraps, one named ">..." is aligned to the right."""
    from rich import box
    from rich.table import Table

    made = Table(
        title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False
    )
    for index, column in enumerate(columns):
        made.add_column(
            column.lstrip(">"),
            justify="right" if column.startswith(">") else "left",
            overflow="fold",
            no_wrap=index == 0,
        )
    return made


def progress_bar(
    what: str, total: int, unit: str = "it", leave: bool = False
) -> AbstractContextManager[Any]:
    """A bar on stderr, shown on a terminal only and after half a second; `.update(n)` moves it."""
    from tqdm import tqdm

    bar: AbstractContextManager[Any] = tqdm(
        total=total,
        desc=what,
        unit=unit,
        unit_scale=unit == "B",
        unit_divisor=1024,
        leave=leave,
        disable=None,
        delay=0.5,
        dynamic_ncols=True,
    )
    return bar


def size(num_bytes: float) -> str:
    """Bytes as people read them, e.g. ``"241.3 MiB"``."""
    for unit in UNITS:
        if num_bytes < 1024 or unit == UNITS[-1]:
            break
        num_bytes /= 1024
    return f"{num_bytes:.0f} B" if unit == "B" else f"{num_bytes:.1f} {unit}"


def count(number: float) -> str:
    """A large count as people read it, e.g. ``"268.1 M"``."""
    for limit, unit in ((1e9, " B"), (1e6, " M"), (1e3, " K")):
        if number >= limit:
            return f"{number / limit:.1f}{unit}"
    return f"{number:.0f}"


def printable(text: str) -> str:
    """`text` on one line, with control characters (a file may hold anything) escaped."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )
