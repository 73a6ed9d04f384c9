"""Quantized state dicts in safetensors files, and what safetensors' own reader sees."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from rocmforge_torch import GGUFTensor
from rocmforge_torch.quant_types import QUANT_TYPES, quant_type
from rocmforge_torch.safetensors_io import load_safetensors, save_safetensors


def blocks(name: str, rows: int = 3, k: int = 2, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    shape = (rows, k * quant_type(name).block_bytes)
    return torch.from_numpy(rng.integers(0, 256, shape, dtype=np.uint8))


def state() -> dict[str, torch.Tensor]:
    """Quantized tensors of every type, odd sizes between numbers that must be aligned."""
    made: dict[str, torch.Tensor] = {}
    for i, row in enumerate(QUANT_TYPES.values()):
        if row.is_quantized:
            dtype = (torch.float32, torch.bfloat16)[i % 2]
            made[f"{row.name}.weight"] = GGUFTensor(blocks(row.name, seed=i), row.id, dtype)
            made[f"{row.name}.bias"] = torch.randn(3).to((torch.float64, torch.float16)[i % 2])
    made["mask"] = torch.tensor([True, False, True])
    made["fp8"] = torch.randn(5).to(torch.float8_e4m3fn)
    made["scalar"] = torch.tensor(3)
    made["experts"] = GGUFTensor(blocks("Q8_0", 12).view(4, 3, -1), quant_type("Q8_0").id)
    return made


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    if isinstance(one, GGUFTensor) and isinstance(other, GGUFTensor):
        facts = [(t.qtype, t.qlayout, t.dtype, t.shape) for t in (one, other)]
        return facts[0] == facts[1] and torch.equal(one.qweight, other.qweight)
    if isinstance(one, GGUFTensor) or isinstance(other, GGUFTensor) or one.dtype != other.dtype:
        return False
    bits = [t.contiguous().view(-1).view(torch.uint8) for t in (one, other)]
    return one.shape == other.shape and torch.equal(*bits)


@pytest.mark.parametrize("most", [None, 4000, 1])
def test_what_was_saved_is_loaded(tmp_path: Path, most: int | None) -> None:
    saved = state()
    files = save_safetensors(tmp_path / "m.safetensors", saved, max_shard_bytes=most)
    loaded = load_safetensors(tmp_path / "m.safetensors")
    assert list(loaded) == list(saved)
    assert all(same(saved[name], loaded[name]) for name in saved)
    if most == 4000:
        data = [sum(t.nbytes for t in load_file(file).values()) for file in files]
        assert len(files) > 2
        assert all(size <= most for size in data)


def test_other_readers_see_blocks_and_numbers(tmp_path: Path) -> None:
    saved = state()
    save_safetensors(tmp_path / "m.safetensors", saved)
    theirs = load_file(tmp_path / "m.safetensors")
    assert theirs.keys() == saved.keys()
    for name, tensor in saved.items():
        stored = tensor.qweight if isinstance(tensor, GGUFTensor) else tensor
        assert same(stored, theirs[name])
    with safe_open(tmp_path / "m.safetensors", "pt") as file:
        assert file.metadata()["format"] == "pt"
        entry = json.loads(file.metadata()["gguf.tensors"])["Q4_K.weight"]
    assert entry == {"type": "Q4_K", "dtype": "float32", "layout": 0}


def test_files_of_others(tmp_path: Path) -> None:
    saved = {"a": torch.randn(3, 4), "b": torch.arange(5)}
    save_file(saved, tmp_path / "m.safetensors")
    loaded = load_safetensors(tmp_path / "m.safetensors")
    assert loaded.keys() == saved.keys()
    assert all(same(saved[name], loaded[name]) for name in saved)


def test_a_packed_tensor_is_stored_as_blocks(tmp_path: Path) -> None:
    """And unpacked on the CPU, where the packed layout has no use."""
    plain = GGUFTensor(blocks("Q4_K"), quant_type("Q4_K").id)
    save_safetensors(tmp_path / "m.safetensors", {"w": plain.packed()})
    assert torch.equal(load_file(tmp_path / "m.safetensors")["w"], plain.qweight)
    assert same(load_safetensors(tmp_path / "m.safetensors")["w"], plain)
    with safe_open(tmp_path / "m.safetensors", "pt") as file:
        assert json.loads(file.metadata()["gguf.tensors"])["w"]["layout"] == 1


@pytest.mark.parametrize("suffix", ["", ".index.json"])
def test_products_of_a_mapped_file(tmp_path: Path, suffix: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 512)
    qweight = torch.ops.rocmforge.quantize(torch.randn(8, 512), quant_type("Q4_K").id)
    weight = GGUFTensor(qweight, quant_type("Q4_K").id)
    most = 1 if suffix else None
    tensors = {"b": torch.ones(1), "w": weight}
    save_safetensors(tmp_path / "m.safetensors", tensors, max_shard_bytes=most)
    loaded = load_safetensors(tmp_path / f"m.safetensors{suffix}")["w"]
    linear = torch.nn.functional.linear
    assert torch.equal(linear(x, loaded), linear(x, weight))


def rewrite(path: Path, change: Any) -> None:
    """Changes the header of a file."""
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size :])


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        ("{", "'gguf.tensors' in the header is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("[]", "must be a dict"),
        ('{"w": 3}', "describes no GGUF tensor by 3"),
        ('{"w": {"type": "Q9", "dtype": "float32", "layout": 0}}', "unknown GGML type 'Q9'"),
        ('{"w": {"type": "Q6_K", "dtype": "float32", "layout": 0}}', "multiple of Q6_K"),
        ('{"w": {"type": "Q4_K", "dtype": "nn", "layout": 0}}', "describes no GGUF tensor"),
        ('{"w": {"type": "Q4_K", "dtype": "int8", "layout": 0}}', "must be a floating-point dtype"),
    ],
)
def test_headers_that_lie(tmp_path: Path, entry: str, complaint: str) -> None:
    path = tmp_path / "m.safetensors"
    save_safetensors(path, {"w": GGUFTensor(blocks("Q4_K"), quant_type("Q4_K").id)})
    rewrite(path, lambda header: header["__metadata__"].update({"gguf.tensors": entry}))
    with pytest.raises(ValueError, match=complaint) as caught:
        load_safetensors(path)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize("content", [b"", b"\xff" * 40, struct.pack("<Q", 10) + b"{}"])
def test_no_safetensors(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="no safetensors file"):
        load_safetensors(tmp_path / "m.safetensors")


@pytest.mark.parametrize("text", ["", "[]", '{"weight_map": {"a": "../x.safetensors"}}', "{}"])
def test_no_index(tmp_path: Path, text: str) -> None:
    (tmp_path / "m.safetensors.index.json").write_text(text)
    with pytest.raises(ValueError, match="no index of safetensors files"):
        load_safetensors(tmp_path / "m.safetensors")


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must end in \.safetensors"):
        save_safetensors(tmp_path / "m.bin", {})
    with pytest.raises(ValueError, match="max_shard_bytes must be positive, got 0"):
        save_safetensors(tmp_path / "m.safetensors", {}, max_shard_bytes=0)
    with pytest.raises(ValueError, match=r"'x' has dtype torch\.complex64"):
        save_safetensors(tmp_path / "m.safetensors", {"x": torch.ones(1, dtype=torch.complex64)})
    with pytest.raises(ValueError, match="holds no array of dict"):
        save_safetensors(tmp_path / "m.safetensors", {}, {"a": [{}]})
    with pytest.raises(FileNotFoundError):
        load_safetensors(tmp_path / "none.safetensors")
    assert list(tmp_path.iterdir()) == []
