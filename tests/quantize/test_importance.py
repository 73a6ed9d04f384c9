"""Importance matrices: both formats, as gguf-py reads and llama.cpp writes them."""

from __future__ import annotations

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from rocmforge_torch.gguf import GGUFError
from rocmforge_torch.gguf.lazy_tensor import LazyTensor
from rocmforge_torch.ops.reference import WEIGHTED, weighted_quantize
from rocmforge_torch.quant_types import QUANT_TYPES, quant_type
from rocmforge_torch.quantize import Importance

ops = torch.ops.rocmforge
MEANS = {"blk.0.ffn_up.weight": [[1.0, 4.0, 0.0]], "blk.0.exps.weight": [[1.0, 2.0], [3.0, 1.0]]}


def importance() -> Importance:
    counts = {name: torch.full((len(rows),), 512.0) for name, rows in MEANS.items()}
    means = {name: torch.tensor(rows) for name, rows in MEANS.items()}
    return Importance(means, counts, ("text",), 2, 256)


def legacy(entries: dict[str, list[float]], calls: int = 4, tail: bool = True) -> bytes:
    """A file as llama.cpp wrote it until 2025: sums of means over calls."""
    data = struct.pack("<i", len(entries))
    for name, means in entries.items():
        data += struct.pack("<i", len(name)) + name.encode() + struct.pack("<ii", calls, len(means))
        data += np.array([m * calls for m in means], np.float32).tobytes()
    return data + (struct.pack("<ii", 7, 4) + b"text" if tail else b"")


def test_gguf_py_reads_what_is_written(tmp_path: Path) -> None:
    path = tmp_path / "imatrix.gguf"
    importance().save(path)
    reader = gguf.GGUFReader(path)
    assert reader.fields["general.type"].contents() == "imatrix"
    assert reader.fields["imatrix.chunk_count"].contents() == 2
    assert reader.fields["imatrix.chunk_size"].contents() == 256
    assert reader.fields["imatrix.datasets"].contents() == ["text"]
    assert "general.architecture" not in reader.fields  # as in llama.cpp's files
    tensors = {t.name: t.data for t in reader.tensors}
    for name, rows in MEANS.items():
        np.testing.assert_array_equal(tensors[f"{name}.in_sum2"], 512 * np.array(rows))
        np.testing.assert_array_equal(tensors[f"{name}.counts"], np.full((len(rows), 1), 512))


def test_gguf_is_read_again(tmp_path: Path) -> None:
    importance().save(tmp_path / "imatrix.gguf")
    found = Importance.load(tmp_path / "imatrix.gguf")
    assert (found.datasets, found.chunks, found.chunk_size) == (("text",), 2, 256)
    assert {name: means.tolist() for name, means in found.means.items()} == MEANS


@pytest.mark.parametrize("tail", [True, False])
def test_legacy_format(tmp_path: Path, tail: bool) -> None:
    path = tmp_path / "imatrix.dat"
    path.write_bytes(legacy({"a.weight": [1.0, 4.0, 0.5]}, tail=tail))
    found = Importance.load(path)
    assert found.means["a.weight"].tolist() == [[1.0, 4.0, 0.5]]
    assert (found.datasets, found.chunks) == ((("text",), 7) if tail else ((), 0))


def test_experts_without_input_count_as_even(tmp_path: Path) -> None:
    found = importance()
    found.counts["blk.0.exps.weight"][1] = 0
    found.save(tmp_path / "imatrix.gguf")
    again = Importance.load(tmp_path / "imatrix.gguf")
    assert again.means["blk.0.exps.weight"].tolist() == [[1.0, 2.0], [1.0, 1.0]]


def test_broken_files_are_refused(tmp_path: Path) -> None:
    path, whole = tmp_path / "imatrix.dat", legacy({"a.weight": [1.0, 4.0], "b": [2.0]})
    with_tail = len(whole) - 12
    for size in [*range(with_tail), *range(with_tail + 1, len(whole))]:
        path.write_bytes(whole[:size])
        with pytest.raises(GGUFError):
            Importance.load(path)
    for bad in (-1.0, float("nan"), float("inf")):
        path.write_bytes(legacy({"a.weight": [1.0, bad]}))
        with pytest.raises(GGUFError, match="finite and not negative"):
            Importance.load(path)
    path.write_bytes(struct.pack("<iii", 1, -5, 0))
    with pytest.raises(GGUFError):
        Importance.load(path)


def test_importance_of_another_model_is_refused() -> None:
    def tensor(name: str, *shape: int) -> LazyTensor:
        return LazyTensor(name, quant_type("F32"), shape, lambda: torch.zeros(0))

    found = importance()
    found.check([tensor("blk.0.ffn_up.weight", 5, 3), tensor("blk.0.exps.weight", 2, 7, 2)])
    with pytest.raises(ValueError, match="of another model"):
        found.check([tensor("blk.0.ffn_up.weight", 5, 4)])
    with pytest.raises(ValueError, match="of no tensor"):
        found.check([tensor("other.weight", 5, 4)])


@pytest.mark.parametrize("qtype", sorted(WEIGHTED), ids=lambda qtype: QUANT_TYPES[qtype].name)
def test_weights_lower_the_weighted_error(qtype: int) -> None:
    generator = torch.Generator().manual_seed(qtype)
    x = torch.randn(12, 512, generator=generator)
    weights = torch.rand(512, generator=generator) ** 4
    weights[17] = 0.0

    def error(blocks: torch.Tensor, weights: torch.Tensor) -> float:
        values = ops.dequantize(blocks, qtype, torch.float32).double()
        return ((values - x) ** 2 * weights).sum().item()

    plain = ops.quantize(x, qtype)
    weighted = weighted_quantize(x, qtype, weights)
    assert error(weighted, weights) < 0.85 * error(plain, weights)
    ones = torch.ones(512)
    assert error(weighted_quantize(x, qtype, ones), ones) <= error(plain, ones) * (1 + 1e-6)
    # Only relations count, and where nothing is known all columns are alike.
    assert torch.equal(weighted_quantize(x, qtype, 4 * weights), weighted)
    even = weighted_quantize(x, qtype, torch.zeros(512))
    assert torch.equal(even, weighted_quantize(x, qtype, ones))


def test_weights_of_each_row() -> None:
    qtype = quant_type("Q4_0").id
    x, weights = torch.randn(3, 64), torch.rand(3, 64)
    rows = [weighted_quantize(x[i], qtype, weights[i]) for i in range(3)]
    assert torch.equal(weighted_quantize(x, qtype, weights), torch.stack(rows))


def test_what_knows_no_weights_is_refused() -> None:
    with pytest.raises(ValueError, match="Q8_0 has no weighted quantizer"):
        weighted_quantize(torch.zeros(1, 32), quant_type("Q8_0").id, torch.ones(32))
