"""Special tokens: the ids that the file names, and those that are known by their text.

Files rarely name every token that ends a text, so llama.cpp (``llama-vocab.cpp``) finds the rest by
their text; the tables below hold the texts that it knows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .fields import PREFIX, Metadata, get_bool, get_token_id, key_error
from .vocabulary import TokenType, Vocabulary

# The end of a text, of a turn or of a message.
END_TEXTS = (
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>",
    "<end_of_turn>", "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]",
    "<|end_of_text|>", "<end_of_utterance>", "<eos>", "<turn|>", "<|tool_response>",
    "<｜end▁of▁sentence｜>", "[e~[",
)  # fmt: skip

# Ids of fill-in-the-middle: where a model writes these, its answer is over. Key -> known texts.
FILL_IN_END = {
    "fim_pad_token_id": ("<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"),
    "fim_rep_token_id": ("<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"),
    "fim_sep_token_id": ("<|file_sep|>",),
}  # fmt: skip

# The other ids of fill-in-the-middle, control tokens all. Key, deprecated key -> known texts.
FILL_IN = {
    ("fim_pre_token_id", "prefix_token_id"): (
        "<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<｜fim▁begin｜>", "<PRE>", "▁<PRE>",
        "<|code_prefix|>", "<|prefix|>",
    ),
    ("fim_suf_token_id", "suffix_token_id"): (
        "<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>", "<SUF>", "▁<SUF>",
        "<|code_suffix|>", "<|suffix|>",
    ),
    ("fim_mid_token_id", "middle_token_id"): (
        "<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<｜fim▁end｜>", "<MID>", "▁<MID>",
        "<|code_middle|>", "<|middle|>",
    ),
}  # fmt: skip

# Texts that gpt-oss writes between the parts of an answer: always shown.
SHOWN_TEXTS = ("<|channel|>", "<|message|>", "<|start|>", "<|constrain|>")

# With these sets in a vocabulary, "<|end|>" ends a message, not the answer.
END_IS_NO_END = ({"<|return|>", "<|call|>"}, {"<|return|>", "<|calls|>"},
                 {"<|call|>", "<|flush|>"}, {"<|calls|>", "<|flush|>"})  # fmt: skip
# With one of these in a vocabulary, "</s>" is an ordinary token.
STRIKE_IS_NO_END = ("<|tool_response>", "<|plamo:eos|>")

# tokenizer.ggml.model -> ids that hold where the file names none: bos, eos, unk, pad.
DEFAULT_IDS: dict[str, tuple[int | None, int | None, int | None, int | None]] = {
    "llama": (1, 2, 0, None),
    "t5": (None, 1, 2, 0),
}


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """Ids with a meaning; ``None`` where the model has none.

    Attributes:
        eog_ids: every id after which generation ends.
        add_bos, add_eos: whether :meth:`Tokenizer.encode` adds them.
        types [n] int32: the file's token types, corrected where the text says more.
    """

    bos_id: int | None
    eos_id: int | None
    unk_id: int | None
    pad_id: int | None
    eog_ids: frozenset[int]
    add_bos: bool
    add_eos: bool
    types: npt.NDArray[np.int32]


def find_special_tokens(
    metadata: Metadata, model: str, vocabulary: Vocabulary, add_bos: bool, add_eos: bool
) -> SpecialTokens:
    """Collect the special tokens as llama.cpp does.

    Args:
        add_bos, add_eos: what holds where the file does not say.

    Raises:
        GGUFError: an id is outside the vocabulary, or BOS or EOS shall be added but has no id.
    """
    ids, size = vocabulary.ids, len(vocabulary)

    def named(name: str, default: int | None = None) -> int | None:
        return get_token_id(metadata, name, size, default)

    bos, eos, unk, pad = (
        named(f"{name}_token_id", default)
        for name, default in zip(
            ("bos", "eos", "unknown", "padding"), DEFAULT_IDS.get(model, (None,) * 4), strict=True
        )
    )
    ends = {ids[text] for text in END_TEXTS if text in ids}
    controls = set(ends)
    for name, texts in FILL_IN_END.items():
        token_id = named(name)
        found = _first_known(texts, ids) if token_id is None else {token_id}
        ends |= found
        controls |= found
    for names, texts in FILL_IN.items():
        if all(named(name) is None for name in names):
            controls |= _first_known(texts, ids)
    ends |= {end for end in (eos, named("eot_token_id"), named("eom_token_id")) if end is not None}

    types = vocabulary.types.copy()
    types[sorted(controls)] = TokenType.CONTROL
    types[[ids[text] for text in SHOWN_TEXTS if text in ids]] = TokenType.USER_DEFINED
    end_texts = {vocabulary.texts[end] for end in ends}
    if "<|end|>" in end_texts and any(texts <= end_texts for texts in END_IS_NO_END):
        ends.remove(ids["<|end|>"])
        types[ids["<|end|>"]] = TokenType.USER_DEFINED
    if "</s>" in end_texts and not end_texts.isdisjoint(STRIKE_IS_NO_END):
        ends.remove(ids["</s>"])
        types[ids["</s>"]] = TokenType.NORMAL

    add_bos = get_bool(metadata, "add_bos_token", add_bos)
    add_eos = get_bool(metadata, "add_eos_token", add_eos)
    for name, wanted, token_id in (("bos", add_bos, bos), ("eos", add_eos, eos)):
        if wanted and token_id is None:
            raise key_error(
                f"{PREFIX}add_{name}_token", f"is true, but {PREFIX}{name}_token_id is missing"
            )
    return SpecialTokens(bos, eos, unk, pad, frozenset(ends), add_bos, add_eos, types)


def _first_known(texts: Iterable[str], ids: dict[str, int]) -> set[int]:
    """The first token of the vocabulary with one of these texts, if there is one."""
    found = [ids[text] for text in texts if text in ids]
    return {min(found)} if found else set()
