"""Models by name, `user/repo[:quant]`, from the Hugging Face hub through its own cache."""

from __future__ import annotations

import errno
import fnmatch
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .splits import SHARD_NAME

NAME = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(:(?P<quant>[\w.-]+))?", re.ASCII)
DEFAULT_QUANT = "Q4_K_M"  # as llama.cpp's -hf
NO_MODEL = ("*mmproj*", "*imatrix*")  # GGUF files beside a model's own


class _Hidden(tqdm):
    """A bar that is not shown: looking names up takes no time."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{**options, "disable": True})


def local_path(path: str | os.PathLike[str]) -> Path:
    """The file that a path or a name on the hub means; the latter is fetched if it has to be.

    A path that exists, or ends in ".gguf", is never a name.

    Raises:
        OSError: there is neither such a file nor such a model, or it cannot be fetched.
    """
    path = Path(path)
    name = NAME.fullmatch(path.as_posix())
    if name is None or path.suffix == ".gguf" or path.exists():
        return path
    return _fetch(name["repo"], name["quant"] or DEFAULT_QUANT, str(path))


def _fetch(repo: str, quant: str, name: str) -> Path:
    # Here, since most programs name files: this import takes longer than opening one.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        DryRunError,
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    def failure(problem: str) -> OSError:
        return FileNotFoundError(errno.ENOENT, problem, name)

    try:
        try:
            listed = snapshot_download(
                repo, allow_patterns="*.gguf", dry_run=True, tqdm_class=_Hidden
            )
            files = [entry.filename for entry in listed]
        except DryRunError as error:
            if isinstance(error.__cause__, RepositoryNotFoundError):
                raise error.__cause__ from None
            # The hub does not answer, or is not to be asked: what is in the cache counts.
            folder = Path(
                snapshot_download(
                    repo, allow_patterns=[], local_files_only=True, tqdm_class=_Hidden
                )
            )
            files = [file.relative_to(folder).as_posix() for file in folder.rglob("*.gguf")]
        chosen = choose(files, quant)
        if not chosen:
            raise failure(
                f"no GGUF file of type {quant}; there are {', '.join(sorted(files)) or 'none'}"
            )
        return Path(snapshot_download(repo, allow_patterns=chosen)) / chosen[0]
    except GatedRepoError:
        raise failure("its authors ask for an agreement: sign it on the hub and log in") from None
    except (RepositoryNotFoundError, HFValidationError):
        raise failure("no such file, and no such model on the Hugging Face hub") from None
    except LocalEntryNotFoundError:
        raise failure(
            "no such file; as a model of the Hugging Face hub it is not in the cache, and the hub "
            "cannot be reached"
        ) from None


def choose(files: Iterable[str], quant: str) -> list[str]:
    """The file of a type, or all shards of one in their order; nothing if none has the type.

    Args:
        files: names in a repository.
        quant: such as "Q4_K_M", in either case; it stands at the end of a file's name, or it is the
            name of the folder.
    """
    last = re.compile(rf"(.*[-._])?{re.escape(quant)}", re.IGNORECASE)
    models: dict[str, list[str]] = {}
    for file in sorted(files):
        if any(fnmatch.fnmatch(file.lower(), pattern) for pattern in NO_MODEL):
            continue
        shard = SHARD_NAME.fullmatch(file)
        stem = shard["stem"] if shard else file.removesuffix(".gguf")
        folder, _, base = stem.rpartition("/")
        if last.fullmatch(base) or last.fullmatch(folder.rpartition("/")[2]):
            models.setdefault(stem, []).append(file)
    return min(models.values(), key=lambda shards: len(shards[0]), default=[])
