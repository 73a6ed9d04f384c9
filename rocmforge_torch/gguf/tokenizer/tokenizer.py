"""The tokenizer of a GGUF file: text to ids and back, special tokens, chat template."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import index as as_int
from typing import Any

import numpy as np

from ..chat_template import apply_template, read_templates
from ..errors import quote
from .byte_pairs import build_byte_pairs, find_pre_tokenizer
from .fields import PREFIX, TOKENS, Metadata, get_str, key_error
from .memory import bulk_building
from .model import Model, library_errors
from .scanner import Scanner
from .sentencepiece import build_sentencepiece
from .special_tokens import SpecialTokens, find_special_tokens
from .streaming import TokenStream
from .unigram import build_unigram
from .vocabulary import BYTE_TOKEN, TokenType, Vocabulary, placeholder, read_vocabulary

MODEL = PREFIX + "model"
HIDDEN_TYPES = (TokenType.CONTROL, TokenType.UNKNOWN)
PHI3_KEEPS_SPACE = ("<unk>", "<s>", "<|endoftext|>")
SPECIAL_TYPES = (*HIDDEN_TYPES, TokenType.USER_DEFINED)


class Tokenizer:
    """Text to token ids and back, as llama.cpp does it.

    Attributes:
        backend: the ``tokenizers.Tokenizer`` that encodes text between special tokens. It expects
            text that is prepared as the model needs it (``▁`` for spaces, say) and knows no special
            tokens: :meth:`encode` does both.
        bos_id, eos_id, unk_id, pad_id: token ids, ``None`` where the model has no such token.
        eog_ids: all ids after which generation ends: those that the file names (EOS, EOT, EOM,
            padding and separators of fill-in-the-middle), and those known by their text.
        add_bos, add_eos: whether :meth:`encode` puts BOS in front and EOS behind.
        chat_templates: the Jinja sources by name; the unnamed one is ``"default"``.
    """

    def __init__(
        self,
        texts: Sequence[str],
        types: bytes,
        model: Model,
        special: SpecialTokens,
        scanners: tuple[Scanner, Scanner],
        chat_templates: Mapping[str, str],
    ) -> None:
        """For :meth:`from_metadata`.

        Args:
            texts [n]: token texts as the file has them.
            types [n]: a :class:`TokenType` each.
            scanners: for special tokens that are parsed always, and for all of them.
        """
        self.backend = model.backend
        self.bos_id, self.eos_id = special.bos_id, special.eos_id
        self.unk_id, self.pad_id = special.unk_id, special.pad_id
        self.eog_ids = special.eog_ids
        self.add_bos, self.add_eos = special.add_bos, special.add_eos
        self.chat_templates = chat_templates
        self._texts, self._types = texts, types
        self._model = model
        self._scanners = scanners

    @classmethod
    def from_metadata(cls, metadata: Metadata) -> Tokenizer:
        """Build the tokenizer that a GGUF file describes.

        Args:
            metadata: the file's keys and values; of arrays, any sequence will do.

        Raises:
            GGUFError: the model or the pre-tokenizer is unknown, or something in the metadata
                contradicts itself.
        """
        name = get_str(metadata, MODEL)
        if name not in BUILDERS:
            raise key_error(
                MODEL, f"{quote(name)} is not supported, only {', '.join(sorted(BUILDERS))} are"
            )
        templates = read_templates(metadata)
        with bulk_building():
            model, special, scanners = _build(metadata, name)
        types = special.types.astype(np.uint8).tobytes()
        return cls(metadata[TOKENS], types, model, special, scanners, templates)

    @property
    def vocab_size(self) -> int:
        """The number of tokens."""
        return len(self._texts)

    def __len__(self) -> int:
        return len(self._texts)

    def encode(self, text: str, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """Text to token ids.

        Args:
            add_special: put BOS in front and EOS behind if the model wants them.
            parse_special: the text of a control token (``<|im_end|>``) becomes that token;
                otherwise it is text like any other. User-defined tokens are always found.

        Raises:
            TypeError: it is no ``str``.
            ValueError: the text holds half a surrogate pair, which no encoding can express.
        """
        if not isinstance(text, str):
            raise TypeError(f"text must be a str, it is a {type(text).__name__}")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"text must be valid Unicode, character {error.start} is half a surrogate pair"
            ) from None
        ids = [self.bos_id] if add_special and self.add_bos and self.bos_id is not None else []
        with library_errors(lambda message: ValueError(f"text cannot be tokenized: {message}")):
            for part in self._scanners[parse_special].split(text):
                if isinstance(part, int):
                    ids.append(part)
                else:
                    ids += self._model.encode(part)
        if add_special and self.add_eos and self.eos_id is not None:
            ids.append(self.eos_id)
        return ids

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """Token ids to text; bytes that are no UTF-8 become U+FFFD.

        Where the model puts a space in front of every text, the text's own is taken away again: at
        the beginning and after each special token.

        Args:
            skip_special: leave out control tokens such as BOS.

        Raises:
            ValueError: an id is not in the vocabulary.
        """
        begins, pieces = True, []
        for token_id in ids:
            piece, begins = self._piece(token_id, begins, skip_special)
            pieces.append(piece)
        return b"".join(pieces).decode("utf-8", errors="replace")

    def stream(self, prefix: Iterable[int] = (), skip_special: bool = True) -> TokenStream:
        """A decoder that takes ids one by one.

        Args:
            prefix: the ids that the stream continues, usually the prompt: after them the first
                word's space is kept.
            skip_special: leave out control tokens.
        """
        return TokenStream(
            lambda token_id, begins: self._piece(token_id, begins, skip_special), prefix
        )

    def token(self, token_id: int) -> str:
        """The text of a token as the file has it."""
        return self._texts[self._checked(token_id)] or placeholder(token_id)

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = True,
        *,
        chat_template: str = "default",
        **kw: Any,
    ) -> str:
        """Write a conversation as the model was trained to read it.

        The result holds the special tokens as text, often BOS too: :meth:`encode_chat` encodes it.

        Args:
            messages: each with ``role`` and ``content``.
            add_generation_prompt: end with the beginning of the assistant's answer.
            chat_template: the name of one of the file's templates.
            kw: further variables of the template: ``tools``, ``enable_thinking``, ...

        Raises:
            GGUFError: the file's template is no valid template, or fails.
            ValueError: a message has no role, the model has no such template, or the template
                refuses the messages.
        """
        for position, message in enumerate(messages):
            if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
                raise ValueError(
                    f"messages[{position}] must be a mapping with a role, it is {message!r:.80}"
                )
        variables: dict[str, Any] = {"tools": None, "documents": None}
        for name, token_id in (
            ("bos", self.bos_id), ("eos", self.eos_id), ("unk", self.unk_id), ("pad", self.pad_id)
        ):  # fmt: skip
            variables[f"{name}_token"] = "" if token_id is None else self.token(token_id)
        variables |= kw
        variables |= {"messages": messages, "add_generation_prompt": add_generation_prompt}
        return apply_template(self.chat_templates, chat_template, variables)

    def encode_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = True,
        **kw: Any,
    ) -> list[int]:
        """The ids of a conversation, with exactly one BOS where the model wants one.

        Arguments and errors are those of :meth:`apply_chat_template`.
        """
        text = self.apply_chat_template(messages, add_generation_prompt, **kw)
        ids = self.encode(text, add_special=False, parse_special=True)
        if self.add_bos and self.bos_id is not None and ids[:1] != [self.bos_id]:
            ids.insert(0, self.bos_id)
        return ids

    def _checked(self, token_id: int) -> int:
        token_id = as_int(token_id)
        if not 0 <= token_id < len(self._texts):
            raise ValueError(
                f"token id {token_id} is not in the vocabulary of {len(self._texts)} tokens"
            )
        return token_id

    def _piece(self, token_id: int, begins: bool, skip_special: bool) -> tuple[bytes, bool]:
        """The bytes of a token, and whether the next one begins a text.

        Args:
            begins: whether this one does.
        """
        token_id = self._checked(token_id)
        kind = self._types[token_id]
        if kind in SPECIAL_TYPES:
            shown = not skip_special or kind not in HIDDEN_TYPES
            return (self.token(token_id).encode() if shown else b""), True
        text = self.token(token_id)
        if kind == TokenType.BYTE and (match := BYTE_TOKEN.fullmatch(text)):
            return bytes.fromhex(match[1]), False
        piece = self._model.piece(text)
        if begins and self._model.space_prefix:
            piece = piece.removeprefix(b" ")
        return piece, False


def _build(metadata: Metadata, name: str) -> tuple[Model, SpecialTokens, tuple[Scanner, Scanner]]:
    """All that the vocabulary is needed for; it is large, and gone afterwards."""
    vocabulary = read_vocabulary(metadata, needs_scores=name in RANKED_BY_SCORES)
    model, special = BUILDERS[name](metadata, name, vocabulary)
    return model, special, _scanners(metadata, vocabulary, special)


def _byte_pairs(
    metadata: Metadata, name: str, vocabulary: Vocabulary
) -> tuple[Model, SpecialTokens]:
    pre = find_pre_tokenizer(metadata, name)
    special = find_special_tokens(metadata, name, vocabulary, pre.add_bos, False)
    return build_byte_pairs(metadata, vocabulary, pre), special


def _sentencepiece(
    metadata: Metadata, name: str, vocabulary: Vocabulary
) -> tuple[Model, SpecialTokens]:
    special = find_special_tokens(metadata, name, vocabulary, add_bos=True, add_eos=False)
    return build_sentencepiece(metadata, vocabulary, special.unk_id), special


def _unigram(metadata: Metadata, name: str, vocabulary: Vocabulary) -> tuple[Model, SpecialTokens]:
    special = find_special_tokens(metadata, name, vocabulary, add_bos=False, add_eos=True)
    return build_unigram(metadata, vocabulary, special.unk_id), special


# tokenizer.ggml.model -> what builds it.
BUILDERS: dict[str, Callable[[Metadata, str, Vocabulary], tuple[Model, SpecialTokens]]] = {
    "gemma4": _byte_pairs,
    "gpt2": _byte_pairs,
    "llama": _sentencepiece,
    "t5": _unigram,
}


RANKED_BY_SCORES = ("llama", "t5")


def _scanners(
    metadata: Metadata, vocabulary: Vocabulary, special: SpecialTokens
) -> tuple[Scanner, Scanner]:
    """What finds the special tokens that are always parsed, and what finds all."""
    found = {
        vocabulary.texts[index]: index
        for index in np.flatnonzero(np.isin(special.types, SPECIAL_TYPES)).tolist()
    }
    always = {
        text: index for text, index in found.items() if special.types[index] not in HIDDEN_TYPES
    }
    strip_after = _strip_after(metadata, found)
    return Scanner(always, strip_after), Scanner(found, strip_after)


def _strip_after(metadata: Metadata, found: Mapping[str, int]) -> set[int]:
    """Phi-3's special tokens swallow the white space after them; no key of the file says so."""
    name = metadata.get("general.name")
    if not isinstance(name, str) or not re.search("phi-?3", name, re.IGNORECASE):
        return set()
    return {index for text, index in found.items() if text not in PHI3_KEEPS_SPACE}
