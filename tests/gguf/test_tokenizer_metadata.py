"""What metadata may say: special tokens, defaults, and everything that ends in a GGUFError."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rocmforge_torch import GGUFError
from rocmforge_torch.gguf.tokenizer import Tokenizer
from rocmforge_torch.gguf.tokenizer.scanner import Scanner

KEY = "tokenizer.ggml."


def metadata(model: str = "llama", /, **changes: Any) -> dict[str, Any]:
    """A small valid vocabulary; a change of ``None`` removes the key."""
    values = {
        "model": model,
        "pre": "gpt-2",
        "tokens": ["<unk>", "<s>", "</s>", "a", "b", "ab", "▁", "▁a", "<x>"],
        "scores": np.array([0, 0, 0, -4, -5, -1, -6, -2, 0], np.float32),
        "token_type": np.array([2, 3, 3, 1, 1, 1, 1, 1, 4], np.int32),
        "merges": ["a b"],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "unknown_token_id": 0,
    } | changes
    return {KEY + name: value for name, value in values.items() if value is not None}


@pytest.mark.parametrize("model", ["llama", "gpt2", "t5"])
def test_small_vocabulary(model: str) -> None:
    tokenizer = Tokenizer.from_metadata(metadata(model, add_space_prefix=False))
    ids = tokenizer.encode("ab<x>a<s>", add_special=False, parse_special=True)
    assert ids == [5, 8, 3, 1]
    assert tokenizer.decode(ids) == "ab<x>a"
    assert tokenizer.decode(np.array(ids), skip_special=False) == "ab<x>a<s>"
    assert tokenizer.backend.token_to_id("ab") == 5


def test_what_is_added() -> None:
    llama = Tokenizer.from_metadata(metadata("llama"))
    assert llama.encode("a") == [1, 7]
    assert llama.encode("") == [1]
    assert llama.encode("", add_special=False) == []
    t5 = Tokenizer.from_metadata(metadata("t5"))
    assert t5.encode("a") == [3, 2]
    gpt2 = Tokenizer.from_metadata(metadata("gpt2"))
    assert gpt2.encode("a") == [3]
    both = Tokenizer.from_metadata(metadata("gpt2", add_bos_token=True, add_eos_token=True))
    assert both.encode("a") == [1, 3, 2]
    neither = Tokenizer.from_metadata(metadata("llama", add_bos_token=False))
    assert neither.encode("a") == [7]


def test_ids_that_files_leave_out() -> None:
    """SentencePiece models had them at fixed places; a byte-level model has none."""
    llama = Tokenizer.from_metadata(
        metadata("llama", bos_token_id=None, eos_token_id=None, unknown_token_id=None)
    )
    assert (llama.bos_id, llama.eos_id, llama.unk_id, llama.pad_id) == (1, 2, 0, None)
    gpt2 = Tokenizer.from_metadata(
        metadata("gpt2", bos_token_id=None, eos_token_id=None, unknown_token_id=None)
    )
    assert (gpt2.bos_id, gpt2.eos_id, gpt2.unk_id, gpt2.pad_id) == (None,) * 4


def eog(tokens: list[str], **changes: Any) -> set[str]:
    tokens = ["<unk>", "<s>", "stop", *tokens]
    values = {"tokens": tokens, "scores": None, "token_type": None, "merges": []}
    tokenizer = Tokenizer.from_metadata(metadata("gpt2", **values | changes))
    return {tokens[token_id] for token_id in tokenizer.eog_ids}


def test_ends_of_generation() -> None:
    assert eog([]) == {"stop"}
    assert eog(["<|im_end|>", "<end_of_turn>", "x"]) == {"stop", "<|im_end|>", "<end_of_turn>"}
    assert eog(["x", "y"], eot_token_id=3, eom_token_id=4) == {"stop", "x", "y"}
    assert eog(["<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"]) == {
        "stop", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"
    }  # fmt: skip
    assert eog(["x", "<|fim_pad|>"], fim_pad_token_id=3) == {"stop", "x"}
    # gpt-oss: "<|end|>" ends a message, and its parts are marked by tokens to be shown.
    assert eog(["<|end|>"]) == {"stop", "<|end|>"}
    assert eog(["<|end|>", "<|return|>", "<|call|>"]) == {"stop", "<|return|>", "<|call|>"}
    # Gemma 4: "</s>" is a tag of HTML.
    assert eog(["</s>"]) == {"stop", "</s>"}
    assert eog(["</s>", "<|tool_response>"]) == {"stop", "<|tool_response>"}


def test_types_that_texts_correct() -> None:
    """Ends that a file calls ordinary are control tokens; gpt-oss's channels are shown."""
    tokens = ["<unk>", "<s>", "</s>", "a", "<|im_end|>", "<|channel|>", "<|fim_prefix|>"]
    changes = {"tokens": tokens, "scores": None, "merges": [], "token_type": [3, 3, 3, 1, 1, 3, 1]}
    tokenizer = Tokenizer.from_metadata(metadata("gpt2", **changes))
    text = "a<|im_end|><|channel|>a<|fim_prefix|>"
    ids = tokenizer.encode(text, parse_special=True)
    assert ids == [3, 4, 5, 3, 6]
    assert tokenizer.decode(ids) == "a<|channel|>a"
    assert tokenizer.encode("<|channel|>") == [5]
    assert 4 not in tokenizer.encode("<|im_end|>")


def test_phi3_swallows_white_space() -> None:
    changes = {
        "tokens": ["<unk>", "<s>", "</s>", "a", "<|user|>", "\n", "▁"],
        "scores": np.zeros(7, np.float32),
        "token_type": [2, 3, 3, 1, 3, 1, 1],
        "add_space_prefix": False,
        "add_bos_token": False,
    }
    text = "<|user|>\n a<s> a"
    phi3 = Tokenizer.from_metadata({**metadata(**changes), "general.name": "Phi-3 mini"})
    assert phi3.encode(text, parse_special=True) == [4, 3, 1, 6, 3]
    other = Tokenizer.from_metadata({**metadata(**changes), "general.name": "Phi-4"})
    assert other.encode(text, parse_special=True) == [4, 5, 6, 3, 1, 6, 3]


def test_empty_tokens_have_names() -> None:
    tokens = ["<unk>", "<s>", "</s>", "a", "", ""]
    values = {"tokens": tokens, "scores": np.zeros(6, np.float32), "token_type": None}
    tokenizer = Tokenizer.from_metadata(metadata(**values))
    assert tokenizer.decode([4, 5]) == "[EMPTY_4][EMPTY_5]"


N = 9
BAD = {
    "no-model": ({"model": None}, "tokenizer.ggml.model"),
    "unknown-model": ({"model": "bert"}, "'bert' is not supported"),
    "model-number": ({"model": 3}, "must be a string"),
    "no-tokens": ({"tokens": None}, "tokenizer.ggml.tokens"),
    "no-token": ({"tokens": [], "scores": [], "token_type": []}, "is empty"),
    "tokens-text": ({"tokens": "abc"}, "must be an array of strings"),
    "tokens-numbers": ({"tokens": list(range(N))}, "must hold strings only"),
    "tokens-mixed": ({"tokens": ["a"] * (N - 1) + [None]}, "must hold strings only"),
    "twice": ({"tokens": ["a"] * N}, "'a' appears more than once"),
    "surrogate": ({"tokens": [*"abcdefgh", "\ud800"]}, "no valid Unicode"),
    "placeholder-twice": ({"tokens": [*"abcdefg", "", "[EMPTY_7]"]}, "more than once"),
    "long-token": ({"tokens": [*"abcdefgh", "x" * 513]}, "has 513 characters"),
    "few-scores": ({"scores": np.zeros(N - 1)}, "8 entries for 9 tokens"),
    "many-scores": ({"scores": np.zeros(N + 1)}, "10 entries for 9 tokens"),
    "no-scores": ({"scores": None}, "tokenizer.ggml.scores"),
    "nan-score": ({"scores": np.full(N, np.nan)}, "score of token 0 is nan"),
    "infinite-score": ({"scores": [0.0] * (N - 1) + [np.inf]}, "score of token 8 is inf"),
    "scores-text": ({"scores": ["x"] * N}, "must be an array of numbers"),
    "scores-number": ({"scores": 1.0}, "must be an array of numbers"),
    "scores-nested": ({"scores": np.zeros((N, 1))}, "must be an array of numbers"),
    "scores-ragged": ({"scores": [[1], [1, 2]]}, "must be an array of numbers"),
    "few-types": ({"token_type": np.ones(3, np.int32)}, "3 entries for 9 tokens"),
    "float-types": ({"token_type": np.ones(N)}, "must be an array of numbers"),
    "unknown-type": ({"token_type": np.full(N, 7)}, "unknown type 7"),
    "negative-type": ({"token_type": np.full(N, -1)}, "unknown type -1"),
    "no-byte": ({"token_type": np.full(N, 6)}, "is no byte"),
    "bos-outside": ({"bos_token_id": N}, "token id 9 is not in the vocabulary of 9 tokens"),
    "eos-negative": ({"eos_token_id": -1}, "token id -1"),
    "unk-huge": ({"unknown_token_id": 2**32 - 1}, "token id 4294967295"),
    "pad-text": ({"padding_token_id": "1"}, "must be an integer"),
    "eot-float": ({"eot_token_id": 1.0}, "must be an integer"),
    "eom-bool": ({"eom_token_id": True}, "must be an integer"),
    "fim-outside": ({"fim_pad_token_id": 99}, "token id 99"),
    "prefix-outside": ({"prefix_token_id": 99}, "token id 99"),
    "add-bos-number": ({"add_bos_token": 1}, "must be a bool"),
    "prefix-text": ({"add_space_prefix": "yes"}, "must be a bool"),
}
BAD_GPT2 = {
    "no-merges": ({"merges": None}, "must be an array of strings"),
    "merges-text": ({"merges": "a b"}, "must be an array of strings"),
    "merge-alone": ({"merges": ["a b", "ab"]}, "merge 1 is no two tokens"),
    "merge-empty": ({"merges": [""]}, "merge 0 is no two tokens"),
    "merge-space": ({"merges": [" "]}, "merge 0 is no two tokens"),
    "merge-number": ({"merges": ["a b", 1]}, "merge 1 is no two tokens"),
    "merge-list": ({"merges": [["a", "b"]]}, "merge 0 is no two tokens"),
    "merge-unknown-part": ({"merges": ["a z"]}, "out of vocabulary"),
    "merge-unknown-whole": ({"merges": ["b a"]}, "out of vocabulary"),
    "merge-half": ({"merges": ["a "]}, ""),
    "pre": ({"pre": "nonsense"}, "unknown pre-tokenizer 'nonsense'"),
    "pre-number": ({"pre": 1}, "must be a string"),
    "bos-missing": ({"bos_token_id": None, "add_bos_token": True}, "bos_token_id is missing"),
    "eos-missing": ({"eos_token_id": None, "add_eos_token": True}, "eos_token_id is missing"),
}
BAD_T5 = {
    "no-scores": ({"scores": None}, "tokenizer.ggml.scores"),
    "charsmap-text": ({"precompiled_charsmap": "abc"}, "must be an array of numbers"),
    "charsmap-short": ({"precompiled_charsmap": [1, 2]}, "a trie of 513 bytes in 2"),
    "charsmap-outside": ({"precompiled_charsmap": [255] * 8}, "a trie of"),
    "charsmap-empty": ({"precompiled_charsmap": [0] * 8}, "a trie of 0 bytes"),
    "charsmap-large": ({"precompiled_charsmap": [4, 0, 0, 0, 300, 0, 0, 0]}, "array of bytes"),
}
CASES = [
    pytest.param(model, changes, message, id=f"{model}-{name}")
    for model, bad in (("llama", BAD), ("gpt2", BAD_GPT2), ("t5", BAD_T5))
    for name, (changes, message) in bad.items()
]


@pytest.mark.parametrize(("model", "changes", "message"), CASES)
def test_bad_metadata(model: str, changes: dict[str, Any], message: str) -> None:
    changes = {"model": model} | changes
    with pytest.raises(GGUFError, match=r"^key 'tokenizer\.ggml\.\w+': ") as error:
        Tokenizer.from_metadata(metadata(**changes))
    assert message in str(error.value)
    assert len(str(error.value)) < 400


def test_absurdly_many_merges() -> None:
    """Runs of one letter, each of which splits everywhere."""
    tokens = ["<unk>", "<s>", "</s>", *("a" * length for length in range(1, 200))]
    with pytest.raises(GGUFError, match="merges of"):
        Tokenizer.from_metadata(
            metadata(tokens=tokens, scores=np.zeros(len(tokens)), token_type=None)
        )


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(),
    st.text(max_size=10),
    st.binary(max_size=40),
    st.lists(st.integers(-300, 300), max_size=12),
    st.lists(st.floats(width=32), min_size=N, max_size=N),
    st.lists(st.text(max_size=4), min_size=1, max_size=12),
    st.lists(st.sampled_from(["a b", "b a", "ab a", "a ab", " ", "a  b"]), max_size=4),
    st.lists(st.integers(0, 6), min_size=N, max_size=N).map(np.array),
    st.lists(st.lists(st.integers(), max_size=2), max_size=3),
)
NAMES = (
    "model", "pre", "tokens", "scores", "token_type", "merges", "bos_token_id", "eos_token_id",
    "unknown_token_id", "padding_token_id", "add_bos_token", "add_space_prefix",
    "remove_extra_whitespaces", "precompiled_charsmap",
)  # fmt: skip


@settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from(["llama", "gpt2", "t5", "gemma4"]),
    st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=3),
    st.text(max_size=20),
)
@pytest.mark.filterwarnings("ignore:the file lacks")
def test_any_metadata(model: str, changes: dict[str, Any], text: str) -> None:
    """Anything but a working tokenizer ends in a GGUFError."""
    try:
        tokenizer = Tokenizer.from_metadata(metadata(model, **changes))
    except GGUFError:
        return
    for parse_special in (False, True):
        ids = tokenizer.encode(text, parse_special=parse_special)
        assert all(0 <= token_id < tokenizer.vocab_size for token_id in ids)
        assert isinstance(tokenizer.decode(ids), str)


def test_bad_arguments() -> None:
    tokenizer = Tokenizer.from_metadata(metadata())
    with pytest.raises(ValueError, match="character 1 is half a surrogate pair"):
        tokenizer.encode("a\ud800")
    with pytest.raises(TypeError, match="text must be a str, it is a bytes"):
        tokenizer.encode(b"a")  # type: ignore[arg-type]
    for token_id in (-1, N):
        with pytest.raises(ValueError, match=f"token id {token_id} is not in the vocabulary of 9"):
            tokenizer.decode([token_id])
        with pytest.raises(ValueError, match="not in the vocabulary"):
            tokenizer.stream().push(token_id)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.text("ab<>", min_size=1, max_size=4), unique=True), st.text("ab<> ", max_size=30)
)
def test_scanner(tokens: list[str], text: str) -> None:
    """Nothing is lost; what is found is the leftmost, and the longest there."""
    ids = {token: index for index, token in enumerate(tokens)}
    parts = list(Scanner(ids).split(text))
    assert "".join(tokens[p] if isinstance(p, int) else p for p in parts) == text
    at = 0
    for part in parts:
        if isinstance(part, int):
            longer = [t for t in tokens if text.startswith(t, at)]
            assert len(tokens[part]) == max(map(len, longer))
            at += len(tokens[part])
        else:
            assert part
            assert not any(token in part for token in tokens)
            at += len(part)
