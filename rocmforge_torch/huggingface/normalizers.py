"""What a SentencePiece tokenizer in tokenizer.json does to a text before it cuts it."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..gguf.tokenizer.model import SPACE
from .folder import Folder, FolderError

SPACE_RUNS = (" {2,}", r"\s{2,}")


@dataclass(frozen=True)
class Normalizer:
    """Attributes:
    space_prefix: a space is put in front of every text.
    merges_spaces: runs of spaces become one, those at the ends none.
    charsmap: SentencePiece's compiled rules; empty if there are none.
    """

    space_prefix: bool
    merges_spaces: bool
    charsmap: bytes


def describe_normalizer(data: dict[str, Any], folder: Folder) -> Normalizer:
    """Read tokenizer.json's normalizer and pre-tokenizer.

    Raises:
        FolderError: a step has no GGUF form.
    """
    prefix = merges = False
    charsmap = b""
    for step in [*_steps(data.get("normalizer")), *_steps(data.get("pre_tokenizer"))]:
        kind = step["type"]
        if kind == "Prepend":
            prefix = prefix or step["prepend"] in (SPACE, " ")
        elif kind == "Metaspace":
            scheme = step.get("prepend_scheme")
            prefix = prefix or scheme in ("always", "first") or bool(step.get("add_prefix_space"))
        elif kind == "Precompiled":
            charsmap = base64.b64decode(step["precompiled_charsmap"] or "")
        elif kind in ("Strip", "WhitespaceSplit") or _is_run(step):
            merges = True
        elif not _is_harmless(step):
            raise _unknown(folder, kind)
    return Normalizer(prefix, merges, charsmap)


def _steps(step: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    if step is None:
        return
    inner = step.get("normalizers", step.get("pretokenizers"))
    if inner is None:
        yield step
    for part in inner or []:
        yield from _steps(part)


def _is_run(step: dict[str, Any]) -> bool:
    return step["type"] == "Replace" and step["pattern"].get("Regex") in SPACE_RUNS


def _is_harmless(step: dict[str, Any]) -> bool:
    """Spaces written as SentencePiece does, or pieces that no token crosses anyway."""
    pattern = step.get("pattern", {})
    return step["type"] in ("Replace", "Split") and pattern.get("String") == " "


def _unknown(folder: Folder, kind: str) -> FolderError:
    return folder.error("tokenizer.json", f"its step {kind!r} before encoding has no GGUF form")
