"""`tokenizer_from_gguf`: a GGUF file's tokenizer as transformers' class."""

from __future__ import annotations

import os

import transformers

from ...gguf import load_gguf
from ...gguf.tokenizer import Tokenizer
from ...gguf.tokenizer.standalone import standalone


def tokenizer_from_gguf(path: str | os.PathLike[str]) -> transformers.PreTrainedTokenizerFast:
    """The tokenizer that a GGUF file describes, with its special tokens and chat template.

    It encodes as llama.cpp does, for every pre-tokenizer that docs/tokenizer.md lists, in seconds
    for vocabularies that take `AutoTokenizer.from_pretrained(..., gguf_file=...)` minutes.

    Args:
        path: the file; of a split model, any shard.

    Raises:
        GGUFError: the file describes none that transformers' class can express.
        OSError: the file cannot be opened.
    """
    file = load_gguf(path)
    tokenizer = Tokenizer.from_metadata(file.metadata)
    names = {
        "bos_token": tokenizer.bos_id,
        "eos_token": tokenizer.eos_id,
        "unk_token": tokenizer.unk_id,
        "pad_token": tokenizer.pad_id,
    }
    tokens = {name: tokenizer.token(index) for name, index in names.items() if index is not None}
    tokens.setdefault("pad_token", tokens.get("eos_token", ""))
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=standalone(tokenizer),
        chat_template=tokenizer.chat_templates.get("default"),
        clean_up_tokenization_spaces=False,
        padding_side="left",
        **{name: text for name, text in tokens.items() if text},
    )
