"""Tokenizers of transformers, saved, converted, written and read: the ids stay the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import transformers
from tokenizer_oracles import random_texts, train_byte_level, train_sentencepiece
from tokenizers import AddedToken, models, normalizers, pre_tokenizers
from transformers.convert_slow_tokenizer import generate_merges

from rocmforge_torch import load_gguf
from rocmforge_torch.gguf import write_gguf
from rocmforge_torch.gguf.tokenizer import Tokenizer
from rocmforge_torch.gguf.tokenizer.pre_tokenizers import FAMILIES, GPT2, LLAMA3, QWEN2
from rocmforge_torch.huggingface import FolderError, folder_metadata, open_folder
from rocmforge_torch.huggingface.pre_tokenizer import pieces, pre_tokenizer_steps

TEXTS = list(random_texts(150, seed=5))


def converted(theirs: Any, folder: Path) -> Tokenizer:
    """Our tokenizer from a GGUF file of the folder that `theirs` is saved to."""
    theirs.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text()) | {"vocab_size": len(theirs) + 3}
    (folder / "config.json").write_text(json.dumps(config))
    path = folder / "model.gguf"
    write_gguf(path, folder_metadata(open_folder(folder)), [])
    ours = Tokenizer.from_metadata(load_gguf(path).metadata)
    assert len(ours) == len(theirs) + 3  # rows without a token have names
    return ours


def same_ids(theirs: Any, ours: Tokenizer, texts: list[str] = TEXTS) -> None:
    """Special tokens are parsed by ours only where that is asked for, so texts hold none here."""
    plain = [text for text in texts if not any(s in text for s in theirs.all_special_tokens)]
    assert len(plain) > 100
    for text in plain:
        assert ours.encode(text) == theirs(text).input_ids, text


@pytest.mark.parametrize(
    ("pattern", "name", "ignore_merges"),
    [(GPT2, "gpt-2", False), (LLAMA3, "llama3", True), (QWEN2, "qwen2", False)],
)
def test_byte_pairs(make_folder: Any, pattern: str, name: str, ignore_merges: bool) -> None:
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_object=train_byte_level(pattern, ignore_merges=ignore_merges),
        eos_token="<|im_end|>",
        bos_token="<|endoftext|>",
    )
    theirs.add_tokens([AddedToken("<tool>", special=False, normalized=False)])
    folder = make_folder()
    ours = converted(theirs, folder)
    assert load_gguf(folder / "model.gguf").metadata["tokenizer.ggml.pre"] == name
    same_ids(theirs, ours)
    chat = "<|im_start|>user\nuse <tool> now<|im_end|>"
    assert ours.encode(chat, parse_special=True) == theirs(chat).input_ids
    assert (ours.bos_id, ours.eos_id) == (theirs.bos_token_id, theirs.eos_token_id)
    assert not ours.add_bos


@pytest.mark.parametrize("kind", ["LlamaTokenizer", "GemmaTokenizer"])
def test_sentencepiece_byte_pairs(make_folder: Any, kind: str) -> None:
    trained = train_sentencepiece("bpe", byte_fallback=True, user_defined_symbols=[])
    vocab = {trained.id_to_piece(i): i for i in range(trained.vocab_size())}
    scores = {piece: trained.get_score(i) for piece, i in vocab.items()}
    theirs = getattr(transformers, kind)(
        vocab=vocab, merges=generate_merges(vocab, scores), add_bos_token=True
    )
    ours = converted(theirs, make_folder())
    # Where a text begins with a space, transformers adds none; SentencePiece and GGUF readers do.
    same_ids(theirs, ours, [text.lstrip(" ") for text in TEXTS])
    assert ours.bos_id == theirs.bos_token_id
    assert ours.decode(ours.encode("naïve 😀 text")[1:]).strip() == "naïve 😀 text"


def test_unigram(make_folder: Any) -> None:
    ids = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    trained = train_sentencepiece("unigram", user_defined_symbols=[], **ids)
    vocab = [(trained.id_to_piece(i), trained.get_score(i)) for i in range(trained.vocab_size())]
    theirs = transformers.T5Tokenizer(vocab=vocab, extra_ids=0)
    ours = converted(theirs, make_folder())
    assert (ours.eos_id, ours.add_eos, ours.add_bos) == (theirs.eos_token_id, True, False)
    # T5Tokenizer splits at every white space, which SentencePiece and GGUF know nothing of.
    texts = [" ".join(text.split()) for text in TEXTS]
    same_ids(theirs, ours, [text for text in texts if text])


def test_unigram_with_compiled_rules(make_folder: Any) -> None:
    from tokenizer_oracles import protobuf_field

    trained = train_sentencepiece(
        "unigram", normalization_rule_name="nmt_nfkc", user_defined_symbols=[]
    )
    charsmap = protobuf_field(protobuf_field(trained.serialized_model_proto(), 3), 2)
    vocab = [(trained.id_to_piece(i), trained.get_score(i)) for i in range(trained.vocab_size())]
    backend = tokenizers.Tokenizer(models.Unigram(vocab, unk_id=trained.unk_id()))
    backend.normalizer = normalizers.Precompiled(charsmap)
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", eos_token="</s>"
    )
    ours = converted(theirs, make_folder())
    # transformers takes "\r\n" for one character, which its rules then do not find.
    texts = [*TEXTS, "ﬁne ① ｆｕｌｌ Ⅳ ½"]
    same_ids(theirs, ours, [text.replace("\r", "").lstrip() for text in texts])


def test_families_are_told_apart_by_the_probes() -> None:
    """All but those that cut every text alike: they differ in nothing or in the use of BOS."""
    seen: dict[str, str] = {}
    alike = {}
    for names, family in FAMILIES:
        if family.byte_level:
            key = str((family.ignore_merges, pieces(pre_tokenizer_steps(family))))
            first = seen.setdefault(key, names.split()[0])
            if first != names.split()[0]:
                alike[names.split()[0]] = first
    assert alike == {"glm4": "llama3", "minicpm5": "llama3", "bailingmoe": "qwen2"}


def test_what_has_no_form_is_refused(make_folder: Any) -> None:
    folder = make_folder()
    for model, pre, words in (
        (models.WordLevel({"a": 0}, "a"), None, "type 'WordLevel' has no GGUF form"),
        (
            models.BPE({"a": 0}, []),
            pre_tokenizers.Punctuation(),
            "cuts words in a way that no GGUF pre-tokenizer knows",
        ),
        (
            models.Unigram([("a", 0.0)], 0, False),
            pre_tokenizers.Digits(),
            "its step 'Digits' before encoding has no GGUF form",
        ),
    ):
        backend = tokenizers.Tokenizer(model)
        if pre is not None:
            backend.pre_tokenizer = pre
        backend.save(str(folder / "tokenizer.json"))
        with pytest.raises(FolderError, match=words):
            folder_metadata(open_folder(folder))
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(FolderError, match=r"tokenizer\.json: "):
        folder_metadata(open_folder(folder))
    (folder / "tokenizer.json").unlink()
    assert folder_metadata(open_folder(folder))["tokenizer.ggml.model"] == "none"
    (folder / "tokenizer.model").write_bytes(b"")
    with pytest.raises(FolderError, match=r"tokenizer\.model: it has no pieces"):
        folder_metadata(open_folder(folder))
