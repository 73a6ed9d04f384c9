"""Folders with SentencePiece's tokenizer.model alone: read without its library, ids as its own."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
from tokenizer_oracles import USER_DEFINED, random_texts, train_sentencepiece

from rocmforge_torch import load_gguf
from rocmforge_torch.gguf import write_gguf
from rocmforge_torch.gguf.tokenizer import Tokenizer
from rocmforge_torch.huggingface import FolderError, folder_metadata, open_folder
from rocmforge_torch.huggingface.sentencepiece_file import read_sentencepiece

BYTES = {"byte_fallback": True}
BPE = {
    "unknown": {},
    "bytes": BYTES,
    "no-prefix": {**BYTES, "add_dummy_prefix": False},
    "padding": {**BYTES, "pad_id": 3, "bos_piece": "<begin>", "eos_piece": "<end>"},
    "runs-of-spaces": {**BYTES, "allow_whitespace_only_pieces": True},
}
UNIGRAM = {
    "bytes": BYTES,
    "merged-spaces": {**BYTES, "remove_extra_whitespaces": True},
    "nfkc": {"normalization_rule_name": "nmt_nfkc", "add_dummy_prefix": False},
}
KINDS = [("bpe", name) for name in BPE] + [("unigram", name) for name in UNIGRAM]
TEXTS = [t for t in random_texts(400, seed=6) if not any(word in t for word in USER_DEFINED)]


def trained(kind: str, name: str) -> sentencepiece.SentencePieceProcessor:
    return train_sentencepiece(kind, **(BPE if kind == "bpe" else UNIGRAM)[name])


def make(make_folder: Any, model: Any, **files: dict[str, Any]) -> Path:
    """A folder with the tokenizer and JSON files, whose model has three rows more than tokens."""
    folder = make_folder(vocab_size=model.vocab_size() + 3)
    (folder / "tokenizer.model").write_bytes(model.serialized_model_proto())
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    return folder


def converted(folder: Path) -> Tokenizer:
    """Our tokenizer of the GGUF file that the folder becomes."""
    write_gguf(folder / "model.gguf", folder_metadata(open_folder(folder)), [])
    return Tokenizer.from_metadata(load_gguf(folder / "model.gguf").metadata)


@pytest.mark.parametrize(("kind", "name"), KINDS)
def test_ids_are_those_of_sentencepiece(make_folder: Any, kind: str, name: str) -> None:
    oracle = trained(kind, name)
    ours = converted(make(make_folder, oracle))
    assert len(ours) == oracle.vocab_size() + 3
    assert len(TEXTS) > 300
    different = 0
    for text in TEXTS:
        ids, wanted = ours.encode(text, add_special=False), oracle.encode(text)
        if kind == "unigram" and ids != wanted:
            different += 1  # as likely: SentencePiece adds up in single precision
            assert sorted(ids) == sorted(wanted)
        else:
            assert ids == wanted, text
        if kind == "bpe" and "byte_fallback" in BPE[name]:
            assert ours.decode(ids) == oracle.decode(ids)
    assert different < 25
    assert (ours.bos_id, ours.eos_id) == (oracle.bos_id(), oracle.eos_id())
    assert (ours.add_bos, ours.add_eos) == (kind == "bpe", kind == "unigram")


@pytest.mark.parametrize(("kind", "name"), KINDS)
def test_keys_are_what_the_library_says(make_folder: Any, kind: str, name: str) -> None:
    oracle = trained(kind, name)
    keys = folder_metadata(open_folder(make(make_folder, oracle)))
    count = oracle.vocab_size()
    kinds = {2: "is_unknown", 3: "is_control", 5: "is_unused", 6: "is_byte"}
    types = [
        4 if oracle.id_to_piece(i) in USER_DEFINED
        else next((n for n, method in kinds.items() if getattr(oracle, method)(i)), 1)
        for i in range(count)
    ]  # fmt: skip
    assert keys["tokenizer.ggml.model"] == {"bpe": "llama", "unigram": "t5"}[kind]
    assert keys["tokenizer.ggml.tokens"] == [
        *(oracle.id_to_piece(i) for i in range(count)),
        *(f"[PAD{i}]" for i in range(count, count + 3)),
    ]
    scores = [oracle.get_score(i) for i in range(count)]
    np.testing.assert_array_equal(keys["tokenizer.ggml.scores"], [*scores, *[-10000.0] * 3])
    np.testing.assert_array_equal(keys["tokenizer.ggml.token_type"], [*types, 5, 5, 5])
    assert keys["tokenizer.ggml.unknown_token_id"] == oracle.unk_id()
    assert keys.get("tokenizer.ggml.padding_token_id", -1) == oracle.pad_id()


def test_what_the_folder_adds(make_folder: Any) -> None:
    """Added tokens by either file, special ids and flags by tokenizer_config.json."""
    oracle = trained("bpe", "bytes")
    n = oracle.vocab_size()
    decoder = {
        "0": {"content": "<unk>", "special": True},
        "1": {"content": "<s>", "special": True},
        str(n): {"content": "<|im_end|>", "special": True},
        str(n + 1): {"content": "<call>", "special": False},
    }
    settings = {
        "added_tokens_decoder": decoder, "eos_token": {"content": "<|im_end|>"},
        "pad_token": "<|im_end|>", "add_bos_token": False, "add_eos_token": True,
        "chat_template": "{{ messages }}",
    }  # fmt: skip
    more = {"<call>": n + 1, "two words": n + 2}
    endings = {"eos_token_id": [n, 2]}
    folder = make(
        make_folder, oracle,
        tokenizer_config=settings, added_tokens=more, generation_config=endings,
    )  # fmt: skip
    ours = converted(folder)
    keys = load_gguf(folder / "model.gguf").metadata
    assert keys["tokenizer.ggml.token_type"][[0, 1, n, n + 1, n + 2]].tolist() == [2, 3, 3, 4, 4]
    assert keys["tokenizer.ggml.scores"][n:].tolist() == [-1000.0] * 3
    assert keys["tokenizer.ggml.padding_token_id"] == n
    assert keys["tokenizer.ggml.eot_token_id"] == 2
    assert keys["tokenizer.chat_template"] == "{{ messages }}"
    assert (ours.bos_id, ours.eos_id, ours.add_bos, ours.add_eos) == (1, n, False, True)
    assert ours.encode("a<call>two words")[1:] == [n + 1, n + 2, n]
    assert ours.encode("<|im_end|>", add_special=False, parse_special=True) == [n]


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("word", {"vocab_size": 200}, "a model of type 'word' has no GGUF form"),
        ("char", {"vocab_size": 60}, "a model of type 'char' has no GGUF form"),
        ("bpe", {"normalization_rule_name": "nmt_nfkc"}, "byte pairs with compiled rules has no"),
        ("bpe", {"remove_extra_whitespaces": True}, "byte pairs that merges spaces has no GGUF"),
        ("bpe", {"treat_whitespace_as_suffix": True}, "whose words end with a space has no GGUF"),
        # The trainer has no flag for this one, so the field is written behind the others.
        ("unigram", b"\x1a\x02\x28\x00", "that does not write spaces as a letter has no GGUF"),
    ],
)
def test_what_has_no_form_is_refused(
    make_folder: Any, kind: str, options: dict[str, Any] | bytes, words: str
) -> None:
    more = options if isinstance(options, bytes) else b""
    folder = make(make_folder, train_sentencepiece(kind, **({} if more else options)))
    with (folder / "tokenizer.model").open("ab") as file:
        file.write(more)
    with pytest.raises(FolderError, match=rf"tokenizer\.model: .*{words}"):
        folder_metadata(open_folder(folder))


def test_too_many_tokens(make_folder: Any) -> None:
    oracle = trained("bpe", "bytes")
    n = oracle.vocab_size()
    folder = make(make_folder, oracle, added_tokens={"<far>": n + 3})
    with pytest.raises(FolderError, match=f"has {n + 4} tokens, but the model only {n + 3} rows"):
        folder_metadata(open_folder(folder))


def test_broken_files_end_in_one_sentence(make_folder: Any) -> None:
    """Every beginning of a file, bytes changed at random, and files of other kinds."""
    data = trained("bpe", "padding").serialized_model_proto()
    rng = random.Random(4)
    refused = 0
    samples = [data[: rng.randrange(len(data))] for _ in range(150)]
    for _ in range(300):
        changed = bytearray(data)
        for _ in range(rng.randint(1, 4)):
            changed[rng.randrange(len(data))] = rng.randrange(256)
        samples.append(bytes(changed))
    samples += [b"", b"IQ== 0\nIg== 1\n", b"\x80" * 40, b"\x0a\xff\xff\xff\xff\x7fx", bytes(64)]
    for sample in samples:
        try:  # anything but a ValueError fails here
            read_sentencepiece(sample)
        except ValueError:
            refused += 1
    assert refused > 100
    folder = make_folder()
    (folder / "tokenizer.model").write_bytes(data[:100])
    with pytest.raises(FolderError, match=r"tokenizer\.model: .*byte \d+"):
        folder_metadata(open_folder(folder))
