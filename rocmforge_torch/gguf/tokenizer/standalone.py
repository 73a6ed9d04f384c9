"""A GGUF file's tokenizer as one `tokenizers.Tokenizer` that does everything by itself."""

from __future__ import annotations

import tokenizers
from tokenizers import AddedToken, decoders, normalizers, processors

from ..errors import GGUFError
from .model import SPACE, unescape_spaces
from .tokenizer import HIDDEN_TYPES, Tokenizer


def standalone(tokenizer: Tokenizer) -> tokenizers.Tokenizer:
    """Special tokens, spaces, BOS and EOS moved into `tokenizer.backend`, which is returned.

    It encodes as `tokenizer.encode(text, parse_special=True)` does. `tokenizer` itself must not be
    used any more.

    Raises:
        GGUFError: it is a unigram model, whose normalization the library cannot express.
    """
    backend, model = tokenizer.backend, tokenizer._model
    if isinstance(backend.model, tokenizers.models.Unigram):
        raise GGUFError(
            "unigram models keep a normalization that `tokenizers` cannot express",
            subject="key 'tokenizer.ggml.model'",
        )
    if model.piece is unescape_spaces:
        prefix = [normalizers.Prepend(SPACE)] if model.space_prefix else []
        backend.normalizer = normalizers.Sequence([*prefix, normalizers.Replace(" ", SPACE)])
        strip = [decoders.Strip(" ", 1, 0)] if model.space_prefix else []
        spaces = decoders.Replace(SPACE, " ")
        backend.decoder = decoders.Sequence(
            [spaces, decoders.ByteFallback(), decoders.Fuse(), *strip]
        )
    else:
        backend.decoder = decoders.ByteLevel()
    special: list[AddedToken] = []
    plain: list[AddedToken] = []
    for text, index in tokenizer._scanners[True]._ids.items():
        hidden = tokenizer._types[index] in HIDDEN_TYPES
        strips = index in tokenizer._scanners[True]._strip_after
        token = AddedToken(text, normalized=False, rstrip=strips, special=hidden)
        (special if hidden else plain).append(token)
    backend.add_tokens(plain)
    backend.add_special_tokens(special)
    ends = [
        (index, tokenizer.token(index))
        for index, wanted in (
            (tokenizer.bos_id, tokenizer.add_bos),
            (tokenizer.eos_id, tokenizer.add_eos),
        )
        if wanted and index is not None
    ]
    before = [text for index, text in ends if index == tokenizer.bos_id]
    after = [text for index, text in ends if index != tokenizer.bos_id]
    if ends:
        backend.post_processor = processors.TemplateProcessing(
            single=[*before, "$A", *after],
            pair=[*before, "$A", *after, *before, "$B", *after],
            special_tokens=[(text, index) for index, text in ends],
        )
    return backend
