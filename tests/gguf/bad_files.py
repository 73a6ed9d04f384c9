"""Bad GGUF files: one field of each is wrong.

A row holds the file, what the error must call the culprit, and a piece of the sentence it must say.
The CVE numbers are of ggml's, llama.cpp's and Ollama's GGUF parsers.
"""

from __future__ import annotations

from typing import NamedTuple

from tools.gguf_bytes import File, Tensor, Value

MAX64 = (1 << 64) - 1
TOKENS = "tokenizer.ggml.tokens"
MERGES = "tokenizer.ggml.merges"
SCORES = "tokenizer.ggml.scores"
TYPES = "tokenizer.ggml.token_type"
BOS = "tokenizer.ggml.bos_token_id"
TEMPLATE = "tokenizer.chat_template"
ARCH = ("general.architecture", ("str", "llama"))
ABC = (TOKENS, ("arr", "str", ["a", "b", "c"]))
DATA = bytes(range(256))


class Bad(NamedTuple):
    file: File | bytes
    subject: str
    problem: str


def value(item: Value, problem: str) -> Bad:
    """A file whose only key has the value `item`."""
    return Bad(File([("x", item)]), "key 'x'", problem)


def known(key: str, item: Value, problem: str, *others: tuple[str, Value]) -> Bad:
    """A file in which `key` means something and has the value `item`."""
    return Bad(File([ARCH, *others, (key, item)]), f"key '{key}'", problem)


def tensor(entry: Tensor, problem: str, *others: Tensor, data: bytes = DATA) -> Bad:
    """A file whose last tensor is `entry`."""
    name = entry.name if isinstance(entry.name, str) else ""
    return Bad(File([ARCH], [*others, entry], data), f"tensor '{name}'", problem)


def alignment(item: Value, problem: str) -> Bad:
    key = "general.alignment"
    return Bad(File([(key, item)], [Tensor("t")], DATA), f"key '{key}'", problem)


def nest(depth: int) -> Value:
    item: Value = ("arr", "u8", [1])
    for _ in range(depth - 1):
        item = ("arr", "arr", [item])
    return item


def overlapping(first: int, second: int) -> Bad:
    return tensor(Tensor("t", [16], offset=second), "overlaps", Tensor("u", [16], offset=first))


BAD_FILES: dict[str, Bad] = {
    # The first bytes.
    "empty": Bad(b"", "header", "empty"),
    "one byte": Bad(b"G", "header", "the magic number needs 4 bytes"),
    "magic only": Bad(b"GGUF", "header", "the version needs 4 bytes"),
    "zeros": Bad(bytes(64), "header", "begins with b'GGUF'"),
    "another format": Bad(File(magic=b"ggjt"), "header", "begins with b'GGUF'"),
    "reversed magic": Bad(File(magic=b"FUGG"), "header", "begins with b'GGUF'"),
    "version 0": Bad(File(version=0), "header", "version 0 is not supported"),
    "version 1": Bad(File(version=1), "header", "version 1 is not supported"),
    "version 4": Bad(File(version=4), "header", "version 4 is not supported"),
    "version 2^31": Bad(File(version=1 << 31), "header", "version 128 is not supported"),
    "big-endian version 1": Bad(File(version=1, order=">"), "header", "version 1 is not"),
    # Counts: CVE-2024-21802, CVE-2024-21825, CVE-2024-21836, CVE-2024-23496, CVE-2024-23605.
    "CVE-2024-23496: 2^64 - 1 keys": Bad(File(num_keys=MAX64), "header", "at most 65536"),
    "2^63 keys": Bad(File(num_keys=1 << 63), "header", "keys, at most 65536 are allowed"),
    "keys that do not fit": Bad(File(num_keys=65536), "header", "65536 keys do not fit"),
    "one key missing": Bad(File([ARCH], num_keys=2), "key 1", "needs 8 bytes"),
    "2^64 - 1 tensors": Bad(File(num_tensors=MAX64), "header", "tensors, at most 65536"),
    "CVE-2024-21836: 2^61 tensors": Bad(File(num_tensors=1 << 61), "header", "at most 65536"),
    "tensors that do not fit": Bad(File(num_tensors=9999), "header", "9999 tensors do not fit"),
    "one tensor missing": Bad(
        File([], [Tensor("t", [1] * 4)], num_tensors=2), "tensor 1", "needs 8 bytes"
    ),
    # Names of keys.
    "CVE-2024-21825: key of 2^64 - 1 bytes": Bad(
        File([((b"k", MAX64), ("u8", 1))]), "key 0", "at most 65535"
    ),
    "key of 2^63 bytes": Bad(File([((b"k", 1 << 63), ("u8", 1))]), "key 0", "at most 65535"),
    "key past the end": Bad(File([((b"k", 60000), ("u8", 1))]), "key 0", "needs 60000 bytes"),
    "key of 65536 bytes": Bad(File([("k" * 65536, ("u8", 1))]), "key 0", "at most 65535"),
    "empty key": Bad(File([("", ("u32", 1))]), "key ''", "empty"),
    "key not UTF-8": Bad(File([(b"a\xff", ("u8", 1))]), "key 0", "not UTF-8"),
    "key with a surrogate": Bad(File([(b"\xed\xa0\x80", ("u8", 1))]), "key 0", "not UTF-8"),
    "key overlong UTF-8": Bad(File([(b"\xc0\x80", ("u8", 1))]), "key 0", "not UTF-8"),
    "key twice": Bad(File([("x", ("u8", 1)), ("x", ("u8", 2))]), "key 'x'", "appears twice"),
    # Values.
    "value type 13": value(("raw", 13, bytes(8)), "unknown value type 13"),
    "value type 2^32 - 1": value(("raw", MAX64, bytes(8)), "unknown value type 4294967295"),
    "no value": value(("raw", 10, b"1234567"), "needs 8 bytes"),
    "bool 2": value(("bool", 2), "must be 0 or 1, it is 2"),
    "bool 255": value(("bool", 255), "must be 0 or 1"),
    "CVE-2024-23605: string of 2^64 - 1 bytes": value(("str", "abc", MAX64), "needs 1844674407"),
    "string of 2^64 - 8 bytes": value(("str", "abc", MAX64 - 7), "needs 18446744073709551608"),
    "string of 2^63 bytes": value(("str", "abc", 1 << 63), "needs 9223372036854775808"),
    "string one byte too long": value(("str", "abc", 4), "needs 4 bytes, but the file has 3"),
    "string not UTF-8": value(("str", b"abc\x80"), "not UTF-8"),
    "string cut in a character": value(("str", "é".encode()[:1]), "not UTF-8"),
    # Arrays.
    "element type 13": value(("arr", 13, [bytes(8)]), "unknown element type 13"),
    "element type 2^32 - 1": value(("arr", MAX64, [bytes(8)]), "unknown element type"),
    "CVE-2024-21802: 2^64 - 1 numbers": value(("arr", "u32", [1], MAX64), "an array of 18446744"),
    "2^61 eight-byte numbers": value(("arr", "u64", [1], 1 << 61), "needs 18446744073709551616"),
    "2^62 four-byte numbers": value(("arr", "f32", [1], 1 << 62), "needs 18446744073709551616"),
    "2^62 + 1 numbers": value(("arr", "i32", [1], (1 << 62) + 1), "needs 18446744073709551620"),
    "2^63 bytes": value(("arr", "i8", [1], 1 << 63), "needs 9223372036854775808"),
    "one number too many": value(("arr", "u16", [1, 2], 3), "needs 6 bytes, but the file has 4"),
    "2^61 strings": value(("arr", "str", ["a"], 1 << 61), "an array of 2305843009213693952 str"),
    "2^30 strings": value(("arr", "str", ["a"], 1 << 30), "an array of 1073741824 strings"),
    "one string too many": value(("arr", "str", ["abcdefgh", "b"], 3), "string 2 of 3"),
    "string of an array wraps": value(("arr", "str", ["a", ("str", "b", MAX64 - 8)]), "string 1"),
    "string of an array past the end": value(("arr", "str", [("str", "b", 2)]), "has 2 bytes, but"),
    "strings not UTF-8": value(("arr", "str", ["ab", b"c\xfe"]), "not UTF-8"),
    "character across two strings": value(("arr", "str", [b"\xc3", b"\xa9"]), "not UTF-8"),
    "bools of 2": value(("arr", "bool", [1, 0, 2]), "not 0 or 1"),
    "nested 5 deep": value(nest(5), "deeper than 4"),
    "nested 400 deep": value(nest(400), "deeper than 4"),
    "2^60 nested arrays": value(("arr", "arr", [nest(1)], 1 << 60), "array of 1152921504606846976"),
    "65537 nested arrays": value(("arr", "arr", [nest(1)] * 65537), "more than 65536 nested"),
    "nested array past the end": value(("arr", "arr", [("arr", "u8", [1], 2)]), "needs 2 bytes"),
    # Alignment; llama.cpp PR #24759 is the sum that wraps.
    "alignment 0": alignment(("u32", 0), "power of two"),
    "alignment 1": alignment(("u32", 1), "power of two"),
    "alignment 3": alignment(("u32", 3), "power of two"),
    "alignment 4": alignment(("u32", 4), "power of two"),
    "alignment 48": alignment(("u32", 48), "power of two"),
    "alignment 2^31": alignment(("u32", 1 << 31), "it is 2147483648"),
    "PR 24759: alignment 2^32 - 1": alignment(("u32", (1 << 32) - 1), "it is 4294967295"),
    "alignment as uint64": alignment(("u64", 32), "must be a uint32"),
    "alignment -8": alignment(("i32", -8), "must be a uint32"),
    "alignment as text": alignment(("str", "32"), "must be a uint32"),
    "data moved away by alignment": Bad(
        File([("general.alignment", ("u32", 1 << 30))], [Tensor("t")], DATA),
        "tensor 't'",
        "at byte 1073741824 end past",
    ),
    # The tensor table.
    "tensor without a name": tensor(Tensor(""), "the name is empty"),
    "tensor name of 2^64 - 1 bytes": Bad(
        File([], [Tensor("t", name_length=MAX64)]), "tensor 0", "at most 65535"
    ),
    "tensor name past the end": Bad(
        File([], [Tensor("t", name_length=5000)]), "tensor 0", "needs 5000 bytes"
    ),
    "tensor name not UTF-8": Bad(File([], [Tensor(b"\xff")], DATA), "tensor 0", "not UTF-8"),
    "tensor twice": tensor(Tensor("t", offset=32), "appears twice", Tensor("t")),
    "6 dimensions": tensor(Tensor("t", [1] * 6), "6 dimensions, at most 5"),
    "2^32 - 1 dimensions": tensor(Tensor("t", num_dims=MAX64), "4294967295 dimensions"),
    "dimension 0": tensor(Tensor("t", [8, 0]), "dimension 1 must be from 1"),
    "dimension -1": tensor(Tensor("t", [-1]), "dimension 0 must be from 1"),
    "dimension 2^63": tensor(Tensor("t", [1 << 63]), "it is 9223372036854775808"),
    "dimension 2^63 - 1": tensor(Tensor("t", [(1 << 63) - 1]), "but the file has"),
    "2^32 x 2^32 elements": tensor(Tensor("t", [1 << 32] * 2), "4294967296x4294967296 elements"),
    "2^64 elements in four": tensor(Tensor("t", [1 << 16] * 4), "take 73786976294838206464 bytes"),
    "CVE-2026-33298: F32 size wraps to 4": tensor(Tensor("t", [(1 << 62) + 1]), "take 18446744"),
    "F64 size wraps to 8": tensor(
        Tensor("t", [(1 << 61) + 1], 28), "F64 take 18446744073709551624"
    ),
    "Q8_0 size wraps": tensor(Tensor("t", [1 << 62, 1 << 3], 8), "elements of Q8_0 take"),
    "type 4, removed": tensor(Tensor("t", [32], 4), "unknown tensor type 4"),
    "type 5, removed": tensor(Tensor("t", [32], 5), "unknown tensor type 5"),
    "type 31, removed": tensor(Tensor("t", [32], 31), "unknown tensor type 31"),
    "type 38, removed": tensor(Tensor("t", [32], 38), "unknown tensor type 38"),
    "type 42": tensor(Tensor("t", [32], 42), "unknown tensor type 42"),
    "type 2^32 - 1": tensor(Tensor("t", [32], MAX64), "unknown tensor type 4294967295"),
    "row of 33 in Q4_0": tensor(Tensor("t", [33, 32], 2), "no multiple of Q4_0's block of 32"),
    "row of 128 in Q4_K": tensor(Tensor("t", [128, 2], 12), "rows of 128 elements are no multiple"),
    "scalar in Q8_0": tensor(Tensor("t", [], 8), "rows of 1 elements are no multiple"),
    "offset 1": tensor(Tensor("t", offset=1), "offset 1 is no multiple of the alignment 32"),
    "offset 16": tensor(Tensor("t", offset=16), "no multiple of the alignment"),
    "offset at the end": tensor(Tensor("t", offset=256), "end past the file's"),
    "offset 2^63": tensor(Tensor("t", offset=1 << 63), "end past the file's"),
    "offset wraps to the header": tensor(Tensor("t", offset=MAX64 - 31), "end past the file's"),
    "CVE-2026-7482: last byte missing": tensor(Tensor("t", [64]), "end past", data=DATA[:-1]),
    "CVE-2026-7482: offset plus size": tensor(Tensor("t", [16], offset=224), "end past the file's"),
    "no data": tensor(Tensor("t"), "end past the file's", data=b""),
    "CVE-2025-53630: padded sizes wrap": tensor(
        Tensor("t", [1 << 61], 24, 1 << 61), "take 2305843009213693952 bytes", Tensor("u")
    ),
    "CVE-2026-27940: sum of sizes wraps": tensor(
        Tensor("t", [(1 << 63) - 1], 24, 1 << 63), "take 9223372036854775807 bytes", Tensor("u")
    ),
    "overlap, same place": overlapping(0, 0),
    "overlap, second half": overlapping(0, 32),
    "overlap, out of order": Bad(
        File([], [Tensor("u", [16], offset=32), Tensor("t", [16])], DATA), "tensor 'u'", "overlaps"
    ),
    # Keys that other code relies on.
    "file type as text": known("general.file_type", ("str", "x"), "must be an integer"),
    "architecture as an array": Bad(
        File([(ARCH[0], ("arr", "u8", [1]))]), "key 'general.architecture'", "must be a string"
    ),
    "tokenizer model as a number": known("tokenizer.ggml.model", ("u32", 1), "must be a string"),
    "pre-tokenizer as a bool": known("tokenizer.ggml.pre", ("bool", 1), "must be a string"),
    "tokens as text": known(TOKENS, ("str", "abc"), "must be an array of strings"),
    "tokens as numbers": known(TOKENS, ("arr", "u32", [1]), "it is an array of 1 uint32"),
    "tokens as arrays": known(TOKENS, ("arr", "arr", [nest(1)]), "it is an array of 1 arrays"),
    "no tokens": known(TOKENS, ("arr", "str", []), "must hold 1 to 2147483647 tokens"),
    "CVE-2025-52566: token of 2^31 bytes": known(
        TOKENS, ("arr", "str", [("str", "a", 1 << 31)]), "has 2147483648 bytes"
    ),
    "CVE-2025-52566: token of -1 bytes": known(
        TOKENS, ("arr", "str", [("str", "a", MAX64)]), "has 18446744073709551615 bytes"
    ),
    "token not UTF-8": known(TOKENS, ("arr", "str", ["a", b"\xf0\x9f"]), "not UTF-8"),
    "scores as integers": known(SCORES, ("arr", "i32", [1, 2, 3]), "an array of floats", ABC),
    "too few scores": known(SCORES, ("arr", "f32", [0, 0]), "has 2 entries for 3 tokens", ABC),
    "too many scores": known(SCORES, ("arr", "f32", [0] * 4), "4 entries for 3 tokens", ABC),
    "scores without tokens": known(SCORES, ("arr", "f32", [0]), "needs tokenizer.ggml.tokens"),
    "token types as floats": known(TYPES, ("arr", "f32", [1, 1, 1]), "array of integers", ABC),
    "too few token types": known(TYPES, ("arr", "i32", [1]), "has 1 entries for 3 tokens", ABC),
    "token id at the end": known(BOS, ("u32", 3), "token id 3 is not in the vocabulary", ABC),
    "token id 2^32 - 1": known(BOS, ("u32", MAX64), "token id 4294967295 is not in", ABC),
    "token id 2^64 - 1": known(BOS, ("u64", MAX64), "is not in the vocabulary", ABC),
    "token id -1": known(BOS, ("i32", -1), "token id -1 is not in the vocabulary", ABC),
    "token id as text": known(BOS, ("str", "1"), "must be an integer", ABC),
    "token id as a float": known(BOS, ("f32", 1), "must be an integer", ABC),
    "token id as a bool": known(BOS, ("bool", 1), "must be an integer", ABC),
    "some token id": known(
        "tokenizer.ggml.fim_pre_token_id", ("u32", 99), "token id 99 is not in the", ABC
    ),
    "token id beyond vocab_size": known(
        BOS, ("u32", 9), "vocabulary of 9 tokens", ("llama.vocab_size", ("u32", 9))
    ),
    "vocab_size 0": known("llama.vocab_size", ("u32", 0), "must be an integer from 1"),
    "vocab_size -1": known("llama.vocab_size", ("i32", -1), "must be an integer from 1"),
    "vocab_size 2^40": known("llama.vocab_size", ("u64", 1 << 40), "must be an integer from 1"),
    "vocab_size as text": known("llama.vocab_size", ("str", "9"), "must be an integer from 1"),
    "add_bos_token as a number": known("tokenizer.ggml.add_bos_token", ("u8", 1), "must be a bool"),
    "merges as text": known(MERGES, ("str", "a b"), "must be an array of strings", ABC),
    "merges as numbers": known(MERGES, ("arr", "u8", [1]), "must be an array of strings", ABC),
    "merge of one token": known(MERGES, ("arr", "str", ["a b", "ab"]), "merge 1 must be two", ABC),
    "merge of nothing": known(MERGES, ("arr", "str", [""]), "merge 0 must be two tokens", ABC),
    "merge with no first": known(MERGES, ("arr", "str", [" b"]), "merge 0 must be two", ABC),
    "merge with no second": known(MERGES, ("arr", "str", ["a "]), "merge 0 must be two", ABC),
    "merge, space in the next length": known(
        MERGES, ("arr", "str", ["ab", "a " + "b" * 30]), "merge 0 must be two", ABC
    ),
    "template as a number": known(TEMPLATE, ("u32", 1), "must be a string"),
    "template as an array": known(TEMPLATE, ("arr", "str", ["x"]), "must be a string"),
    "named template as a bool": known(TEMPLATE + ".tool_use", ("bool", 1), "must be a string"),
    "template of a megabyte": known(TEMPLATE, ("str", "x" * ((1 << 20) + 1)), "at most 1048576"),
    "template not UTF-8": known(TEMPLATE, ("str", b"{{\xff}}"), "not UTF-8"),
    "template past the end": known(TEMPLATE, ("str", "x", 2), "needs 2 bytes"),
    "template names as numbers": known("tokenizer.chat_templates", ("arr", "u8", [1]), "strings"),
    "split number as text": known("split.no", ("str", "0"), "must be an integer"),
}
