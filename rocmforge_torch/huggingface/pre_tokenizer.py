"""Finds the `tokenizer.ggml.pre` of a byte-level tokenizer: what cuts texts the same way."""

from __future__ import annotations

from typing import Any

import tokenizers
from tokenizers import pre_tokenizers

from ..gguf.tokenizer.byte_pairs import pre_tokenizer_steps
from ..gguf.tokenizer.pre_tokenizers import FAMILIES
from .folder import Folder

# Texts that tell all families of pre-tokenizers apart: white space of all kinds, digits in
# groups, contractions in both cases, scripts, capitals inside words, symbols.
PROBES = (
    "\n \n\n \t\t \r\n  a   b    c\n     d  ",
    "3 33 333 3333 33333 333333 3333333 3.14 1,234,567 ٣٤ ½ x2y 0x1F 2026年11月",
    "I'm you're HE'S WE'LL they'd 'tis don't DON'T 've'ME o'clock",
    "camelCase HTTPServer iPhone XMLHttpRequest snake_case __init__ ÄÖÜß ǅungla",
    "...!!!\n\n (a)\r\n [b] {c} <d/> a/b//c\n/ a\\b #!$%&*+-=^~|`@;:?  ?? ——…",
    "日本語のテキスト 中文测试，你好。 한국어 텍스트 ไทย भाषा العربية нещо",
    "🚀😶‍🌫️ e\u0301a\u0308 \u00a0nbsp\u2003em ـ“q”‘r’ <sentinel:12> IMGIMGABCZ",
)


def find_pre_tokenizer(backend: tokenizers.Tokenizer, model: dict[str, Any], folder: Folder) -> str:
    """The name of the family that cuts `PROBES` as the tokenizer does.

    Raises:
        FolderError: none does.
    """
    wanted = pieces(backend.pre_tokenizer)
    for names, family in FAMILIES:
        same_merges = family.ignore_merges == bool(model.get("ignore_merges"))
        if family.byte_level and same_merges and pieces(pre_tokenizer_steps(family)) == wanted:
            return names.split()[0]
    raise folder.error("tokenizer.json", "cuts words in a way that no GGUF pre-tokenizer knows")


def pieces(steps: pre_tokenizers.PreTokenizer | None) -> list[list[str]]:
    """What every probe is cut into."""
    if steps is None:
        return [[probe] for probe in PROBES]
    return [[piece for piece, _ in steps.pre_tokenize_str(probe)] for probe in PROBES]
