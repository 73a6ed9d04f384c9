"""The file that a command writes."""

from __future__ import annotations

from pathlib import Path

from .errors import CommandError


def check_target(target: Path, sources: tuple[Path, ...], force: bool) -> None:
    """Refuse a file that may not be written.

    Args:
        target: the file.
        sources: what is read meanwhile.
        force: whether an existing file may be replaced.

    Raises:
        CommandError: it is a directory, in none, one of the sources, or exists already.
    """
    if target.is_dir():
        raise CommandError(f"{target} is a directory, not a file to write")
    if not target.parent.is_dir():
        raise CommandError(f"{target.parent} is no directory to write {target.name} into")
    if not target.exists():
        return
    if any(target.samefile(source) for source in sources):
        raise CommandError(f"{target} is the input itself: write to another file")
    if not force:
        raise CommandError(f"{target} exists already: --force replaces it")
