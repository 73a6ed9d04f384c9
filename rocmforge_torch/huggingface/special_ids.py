"""Ids of special tokens, from the files of a folder that name them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..gguf.tokenizer.fields import PREFIX
from .folder import Folder

SETTINGS = "tokenizer_config.json"
# GGUF's name of a special token -> tokenizer_config.json's, config.json's.
SPECIAL = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}


def special_ids(
    folder: Folder,
    find: Callable[[str], int | None],
    own: Mapping[str, int | None],
) -> dict[str, int]:
    """The keys `tokenizer.ggml.NAME_token_id`.

    By the folder's tokenizer_config.json, else by the model's configuration; then what ends an
    answer beyond the first id.

    Args:
        folder: the model's.
        find: text -> id of a token, None if there is none.
        own: ids that the tokenizer's model itself has, by GGUF's names: the unknown token's holds
            in any case, others where nothing else names one.
    """
    settings, rows = folder.json(SETTINGS), folder.config["vocab_size"]
    found: dict[str, int] = {}
    for name, setting in SPECIAL.items():
        candidates: list[Any] = [_text_id(settings.get(setting), find)]
        for file in ("config.json", "generation_config.json"):
            value = folder.json(file).get(f"{setting}_id")
            candidates.append(value[0] if isinstance(value, list) and value else value)
        place = 0 if name == "unknown" else len(candidates)
        candidates.insert(place, own.get(name))
        index = next((i for i in candidates if i is not None), None)
        if isinstance(index, int) and 0 <= index < rows:
            found[name] = index
    # Ids beyond the first that end an answer; GGUF has room for two kinds more.
    ends = folder.json("generation_config.json").get("eos_token_id")
    others = [end for end in ends if end != found.get("eos")] if isinstance(ends, list) else []
    found |= zip(("eot", "eom"), others, strict=False)
    return {f"{PREFIX}{name}_token_id": index for name, index in found.items()}


def _text_id(value: Any, find: Callable[[str], int | None]) -> int | None:
    text = value.get("content") if isinstance(value, dict) else value
    return find(text) if isinstance(text, str) else None
