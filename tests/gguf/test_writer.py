"""`write_gguf`: what it writes is read by gguf-py and by us, value by value and bit by bit."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from small_files import write_gguf as write_small_file

from rocmforge_torch import load_gguf
from rocmforge_torch.gguf import TensorSource, typed_metadata, write_gguf
from rocmforge_torch.quant_types import quant_type
from rocmforge_torch.tensor import GGUFTensor

V = gguf.GGUFValueType
ARCHITECTURE = {"general.architecture": "llama"}
# value -> GGUF type, of an array the type of its elements
VALUES: dict[str, tuple[Any, list[V]]] = {
    "bool": (True, [V.BOOL]),
    "int": (7, [V.UINT32]),
    "negative": (-7, [V.INT32]),
    "long": (2**40, [V.UINT64]),
    "long negative": (-(2**40), [V.INT64]),
    "float": (0.5, [V.FLOAT32]),
    "text": ("héllo\n", [V.STRING]),
    "double": (np.float64(0.1), [V.FLOAT64]),
    "byte": (np.uint8(200), [V.UINT8]),
    "words": (["a", "", "b"], [V.ARRAY, V.STRING]),
    "ints": ([1, -2], [V.ARRAY, V.INT32]),
    "longs": ([1, 2**40], [V.ARRAY, V.INT64]),
    "floats": ([1, 2.5], [V.ARRAY, V.FLOAT32]),
    "flags": ([True, False], [V.ARRAY, V.BOOL]),
    "shorts": (np.array([1, 60000], np.uint16), [V.ARRAY, V.UINT16]),
}


def test_values_as_gguf_py_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "out.gguf"
    metadata = ARCHITECTURE | {f"test.{k}": value for k, (value, _) in VALUES.items()}
    write_gguf(path, metadata | {"test.empty": []}, [])
    fields = gguf.GGUFReader(path).fields
    assert "test.empty" not in fields
    for key, (value, types) in VALUES.items():
        field = fields[f"test.{key}"]
        assert field.types == types
        expected = value.tolist() if isinstance(value, np.ndarray) else value
        assert field.contents() == expected


def test_every_type_of_tensor_keeps_its_bits(tmp_path: Path) -> None:
    source, target = tmp_path / "in.gguf", tmp_path / "out.gguf"
    write_small_file(source)
    file = load_gguf(source)
    write_gguf(target, ARCHITECTURE, file.tensors.items())
    copy = load_gguf(target)
    assert list(copy.tensors) == list(file.tensors)
    theirs = {t.name: t for t in gguf.GGUFReader(target).tensors}
    for name, tensor in file.tensors.items():
        assert copy.tensors.info(name).qtype == file.tensors.info(name).qtype
        got = copy.tensors[name]
        assert got.shape == tensor.shape
        assert torch.equal(_bytes(got), _bytes(tensor))
        if name != "Q8_1":  # whose blocks gguf-py takes for 40 bytes long, not 36
            assert theirs[name].data.tobytes() == _bytes(tensor).numpy().tobytes()


def test_typed_metadata_writes_the_same_file(tmp_path: Path) -> None:
    first, second = tmp_path / "first.gguf", tmp_path / "second.gguf"
    metadata = ARCHITECTURE | {f"test.{k}": value for k, (value, _) in VALUES.items()}
    tensors = {"a": torch.randn(3, 5), "b": torch.randn(2, 4).half(), "c": torch.arange(3)}
    write_gguf(first, metadata | {"general.alignment": 64}, tensors.items())
    file = load_gguf(first)
    write_gguf(second, typed_metadata(file), file.tensors.items())
    assert second.read_bytes() == first.read_bytes()


def test_packed_and_strided_tensors(tmp_path: Path) -> None:
    qtype = quant_type("Q4_0").id
    weight = GGUFTensor(torch.ops.rocmforge.quantize(torch.randn(64, 64), qtype), qtype)
    strided = torch.randn(5, 3).t()
    write_gguf(tmp_path / "out.gguf", ARCHITECTURE, [("w", weight.packed()), ("s", strided)])
    file = load_gguf(tmp_path / "out.gguf")
    assert torch.equal(_bytes(file.tensors["w"]), weight.qweight.view(-1))
    assert torch.equal(file.tensors["s"], strided)


def test_pieces_are_one_at_a_time_in_memory(tmp_path: Path) -> None:
    rows, pieces, row_bytes = 256, 16, 4 * 4096

    def data() -> Iterator[torch.Tensor]:
        for i in range(pieces):
            yield torch.from_numpy(np.full((rows, 4096), i, np.float32))

    source = TensorSource("w", quant_type("F32"), (rows * pieces, 4096), data)
    tracemalloc.start()
    write_gguf(tmp_path / "out.gguf", ARCHITECTURE, [source])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2.5 * rows * row_bytes  # of 16
    tensor = load_gguf(tmp_path / "out.gguf").tensors["w"]
    assert tensor[::rows, 0].tolist() == list(range(pieces))


@pytest.mark.parametrize(
    ("metadata", "tensors", "complaint"),
    [
        ({}, [], "must have 'general.architecture'"),
        ({"a": 2**70}, [], "key 'a' holds 1180591620717411303424"),
        ({"a": [[1, 2]]}, [], "key 'a' holds [[1, 2]]"),
        ({"a": ["x", 1]}, [], "key 'a' holds"),
        ({}, [("c", torch.zeros(2, dtype=torch.complex64))], "tensor 'c' has dtype"),
        ({}, [("a", torch.zeros(2)), ("a", torch.zeros(2))], "Duplicated tensor name 'a'"),
        (
            {},
            [TensorSource("w", quant_type("F32"), (2, 2), lambda: [torch.zeros(3)])],
            "tensor 'w' of F32 [2, 2] takes 16 bytes, its pieces have 12",
        ),
    ],
)  # fmt: skip
def test_refusals_leave_nothing(
    tmp_path: Path, metadata: dict[str, Any], tensors: list[Any], complaint: str
) -> None:
    has_key = complaint.startswith("must have")
    with pytest.raises(ValueError) as caught:
        write_gguf(tmp_path / "out.gguf", metadata if has_key else ARCHITECTURE | metadata, tensors)
    assert complaint in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    raw = tensor.qweight if isinstance(tensor, GGUFTensor) else tensor
    return raw.contiguous().view(-1).view(torch.uint8)
