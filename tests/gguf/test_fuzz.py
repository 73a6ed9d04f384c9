"""Random files: valid ones come back as written, broken ones load or end in GGUFError."""

from __future__ import annotations

import random
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rocmforge_torch.gguf import GGUFModelFile
from rocmforge_torch.gguf.shard import open_buffer
from rocmforge_torch.quant_types import QUANT_TYPES, QuantType, row_bytes
from rocmforge_torch.tensor import GGUFTensor
from tools import fuzz_gguf
from tools.gguf_bytes import CODES, File, Tensor, Value

DTYPES = {
    "u8": np.uint8,
    "i8": np.int8,
    "u16": np.uint16,
    "i16": np.int16,
    "u32": np.uint32,
    "i32": np.int32,
    "u64": np.uint64,
    "i64": np.int64,
    "f32": np.float32,
    "f64": np.float64,
    "bool": np.bool_,
}
ORDERS = st.sampled_from("<>")
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


def numbers(kind: str) -> st.SearchStrategy[Any]:
    if kind == "bool":
        return st.booleans()
    if kind in ("f32", "f64"):
        return st.floats(width=32 if kind == "f32" else 64, allow_nan=False)
    info = np.iinfo(DTYPES[kind])
    return st.integers(int(info.min), int(info.max))


def texts() -> st.SearchStrategy[str]:
    return st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


def arrays(depth: int) -> st.SearchStrategy[Value]:
    plain = st.sampled_from(sorted(CODES)).flatmap(
        lambda kind: st.tuples(st.just("arr"), st.just(kind), st.lists(numbers(kind), max_size=8))
    )
    strings = st.tuples(st.just("arr"), st.just("str"), st.lists(texts(), max_size=8))
    if depth == 1:
        return plain | strings
    nested = st.tuples(st.just("arr"), st.just("arr"), st.lists(arrays(depth - 1), max_size=3))
    return plain | strings | nested


def values() -> st.SearchStrategy[Value]:
    scalars = st.sampled_from(sorted(CODES)).flatmap(
        lambda kind: st.tuples(st.just(kind), numbers(kind))
    )
    return scalars | st.tuples(st.just("str"), texts()) | arrays(4)


@st.composite
def tensor_data(draw: st.DrawFn) -> tuple[QuantType, list[int], bytes]:
    """A type, dimensions (fastest first) and the bytes of such a tensor."""
    row = draw(st.sampled_from(list(QUANT_TYPES.values())))
    dims = [row.block_size * draw(st.integers(1, 3))]
    dims += draw(st.lists(st.integers(1, 3), max_size=3))
    size = row_bytes(row, dims[0]) * int(np.prod(dims[1:], dtype=np.int64))
    return row, dims, random.Random(draw(st.integers(0, 99))).randbytes(size)


def plain(value: Value) -> Any:
    """What a value tuple stands for, as lists, numbers and text."""
    kind, content = value[0], value[-1]
    if kind != "arr":
        return content
    if value[1] == "arr":
        return [plain(item) for item in content]
    if value[1] == "str":
        return content
    return np.array(content, DTYPES[value[1]]).tolist()


def listed(value: Any) -> Any:
    if isinstance(value, tuple):
        return [listed(item) for item in value]
    return value.tolist() if hasattr(value, "tolist") else value


def load(file: File) -> GGUFModelFile:
    shard = open_buffer(file.pack(), "memory")
    return GGUFModelFile(Path("memory"), [], [shard], torch.device("cpu"), None)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(NAMES, values(), max_size=6), ORDERS, st.sampled_from([2, 3]))
def test_metadata_comes_back(keys: dict[str, Value], order: str, version: int) -> None:
    prefixed = {f"test.{name}": value for name, value in keys.items()}  # no key with a meaning
    model = load(File(list(prefixed.items()), order=order, version=version))
    assert list(model.metadata) == list(prefixed)
    for key, value in prefixed.items():
        expected = np.float32(value[1]).item() if value[0] == "f32" else plain(value)
        assert listed(model.metadata[key]) == expected


@settings(max_examples=200, deadline=None)
@given(st.lists(tensor_data(), max_size=4), st.sampled_from([8, 32, 128]), st.randoms())
def test_tensors_come_back(
    entries: list[tuple[QuantType, list[int], bytes]], alignment: int, rng: random.Random
) -> None:
    """Tensors of every type, shape and order of their data in the file."""
    tensors, data = {}, bytearray()
    for index in rng.sample(range(len(entries)), len(entries)):
        row, dims, raw = entries[index]
        tensors[index] = Tensor(f"t{index}", dims, row.id, len(data))
        data += raw + bytes(-len(raw) % alignment)
    keys: list[Any] = [("general.alignment", ("u32", alignment))]
    table = [tensors[index] for index in range(len(entries))]
    model = load(File(keys, table, bytes(data), padding=alignment))
    assert list(model.tensors) == [tensor.name for tensor in table]
    for index, (row, dims, raw) in enumerate(entries):
        tensor = model.tensors[f"t{index}"]
        assert list(tensor.shape) == dims[::-1]
        assert isinstance(tensor, GGUFTensor) == row.is_quantized
        stored = tensor.qweight if isinstance(tensor, GGUFTensor) else tensor
        assert stored.contiguous().view(-1).view(torch.uint8).numpy().tobytes() == raw


@settings(max_examples=400, deadline=None)
@given(st.randoms(use_true_random=False), st.booleans(), st.booleans())
def test_broken_files_load_or_are_refused(
    rng: random.Random, structure: bool, mutation: bool
) -> None:
    file = fuzz_gguf.random_file(rng)
    if structure:
        fuzz_gguf.break_structure(rng, file)
    data = fuzz_gguf.break_bytes(rng, file.pack()) if mutation else file.pack()
    outcome = fuzz_gguf.probe(data)
    assert outcome in ({"loaded", "refused"} if structure or mutation else {"loaded"})


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400), st.sampled_from([b"", b"GGUF", File().pack()[:8]]))
def test_random_bytes(noise: bytes, prefix: bytes) -> None:
    assert fuzz_gguf.probe(bytearray(prefix + noise)) in ("loaded", "refused")


def test_fuzzer_finds_both_outcomes_and_no_bug() -> None:
    outcomes, slowest = fuzz_gguf.fuzz(5000, seed=4)
    assert sum(outcomes.values()) == 5000
    assert min(outcomes["loaded"], outcomes["refused"]) > 500
    assert slowest < fuzz_gguf.MAX_SECONDS
    assert fuzz_gguf.make_input(4, 17) == fuzz_gguf.make_input(4, 17)
    assert fuzz_gguf.make_input(4, 17) != fuzz_gguf.make_input(4, 18)


def test_fuzzer_reports_a_bug(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def crash(data: bytearray) -> str:
        raise IndexError("the bug")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fuzz_gguf, "probe", crash)
    assert fuzz_gguf.main(["--inputs", "3", "--seed", "5"]) == 1
    assert "IndexError: the bug" in capsys.readouterr().err
    assert (tmp_path / "fuzz-gguf-5-0.gguf").read_bytes() == fuzz_gguf.make_input(5, 0)


def test_memory_of_broken_files() -> None:
    """Parsing costs a bounded number of bytes for each byte that is really there."""
    for index in range(1000):
        data = fuzz_gguf.make_input(6, index)
        tracemalloc.start()
        fuzz_gguf.probe(data)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 40 * len(data) + (1 << 18), index
