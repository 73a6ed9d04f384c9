"""Byte-pair encoding with listed merges: the models ``gpt2`` and ``gemma4``."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import tokenizers
from tokenizers import models, pre_tokenizers

from ..errors import GGUFError, quote
from .fields import MERGES, PRE, Metadata, get_str, get_strings, key_error
from .model import Model, encoder, escape_spaces, library_errors, unescape_spaces
from .pre_tokenizers import PRE_TOKENIZERS, PreTokenizer
from .vocabulary import Vocabulary


def find_pre_tokenizer(metadata: Metadata, model: str) -> PreTokenizer:
    """The pre-tokenizer that the file names; ``default``, with a warning, where it names none.

    Raises:
        GGUFError: nobody knows that name.
    """
    name = "gemma4" if model == "gemma4" else get_str(metadata, PRE, "")
    if not name:
        warnings.warn(
            f"the file lacks {PRE}: text is cut by llama.cpp's 'default' rule, which few models "
            "were trained with",
            stacklevel=4,
        )
        name = "default"
    if name not in PRE_TOKENIZERS:
        raise key_error(PRE, f"unknown pre-tokenizer {quote(name)}")
    return PRE_TOKENIZERS[name]


def build_byte_pairs(metadata: Metadata, vocabulary: Vocabulary, pre: PreTokenizer) -> Model:
    """Build the model.

    Raises:
        GGUFError: a merge is malformed, or one of its tokens is not in the vocabulary.
    """
    merges = split_merges(get_strings(metadata, MERGES))
    with library_errors(lambda message: key_error(MERGES, message)):
        backend = tokenizers.Tokenizer(
            models.BPE(
                vocabulary.ids,
                merges,
                ignore_merges=pre.ignore_merges,
                byte_fallback=not pre.byte_level and bool(vocabulary.byte_ids),
            )
        )
    backend.pre_tokenizer = pre_tokenizer_steps(pre)
    if pre.byte_level:
        return Model(backend, encoder(backend), byte_level_piece)
    return Model(backend, encoder(backend, escape_spaces), unescape_spaces)


def pre_tokenizer_steps(pre: PreTokenizer) -> pre_tokenizers.PreTokenizer:
    """A pre-tokenizer as the library runs it."""
    steps: list[pre_tokenizers.PreTokenizer] = [
        pre_tokenizers.Split(tokenizers.Regex(split), "isolated") for split in pre.splits
    ]
    if pre.byte_level:
        steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
    return pre_tokenizers.Sequence(steps)


def split_merges(merges: Iterable[str]) -> list[tuple[str, str]]:
    """The two tokens of every merge, in order; where one is listed twice, the first counts.

    As in llama.cpp, the first space after the first character stands between the two.
    """
    pairs = []
    try:
        for merge in dict.fromkeys(merges):
            space = merge.index(" ", 1)
            pairs.append((merge[:space], merge[space + 1 :]))
    except (ValueError, AttributeError, TypeError):
        raise _bad_merge(merges) from None
    return pairs


def _bad_merge(merges: Iterable[str]) -> GGUFError:
    index, merge = next(
        (index, merge)
        for index, merge in enumerate(merges)
        if not isinstance(merge, str) or " " not in merge[1:]
    )
    return key_error(MERGES, f"merge {index} is no two tokens with a space between: {merge!r:.80}")


def _byte_letters() -> dict[str, int]:
    """GPT-2's letters: printable Latin-1 stands for itself, other bytes for 256, 257, ..."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = sorted(set(range(256)) - set(printable))
    return {chr(byte): byte for byte in printable} | {
        chr(256 + index): byte for index, byte in enumerate(others)
    }


BYTE_LETTERS = _byte_letters()


def byte_level_piece(text: str) -> bytes:
    """The bytes of a token written in GPT-2's letters; any other letter stands for itself."""
    return b"".join(
        bytes((BYTE_LETTERS[letter],)) if letter in BYTE_LETTERS else letter.encode()
        for letter in text
    )
