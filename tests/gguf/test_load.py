"""Good files: what gguf-py writes and reads is what `load_gguf` gives."""

from __future__ import annotations

import gc
import math
import pickle
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFEndian, GGUFReader, GGUFWriter

import rocmforge_torch
from rocmforge_torch import GGUFTensor, load_gguf
from rocmforge_torch.gguf.cursor import UTF8_CHUNK
from rocmforge_torch.gguf.shard import COUNTERS
from rocmforge_torch.quant_types import QUANT_TYPES, QuantType
from tools.gguf_bytes import File, Tensor

SCALARS: dict[str, tuple[str, Any]] = {
    "u8": ("uint8", 255),
    "i8": ("int8", -128),
    "u16": ("uint16", 65535),
    "i16": ("int16", -32768),
    "u32": ("uint32", (1 << 32) - 1),
    "i32": ("int32", -(1 << 31)),
    "u64": ("uint64", (1 << 64) - 1),
    "i64": ("int64", -(1 << 63)),
    "f32": ("float32", 0.15625),
    "f64": ("float64", 0.1),
    "bool": ("bool", True),
    "text": ("string", "naïve 漢字 🙂\0\n"),
}
ARRAYS: dict[str, list[Any]] = {
    "ints": [1, -2, 3],
    "floats": [0.5, -1.5],
    "bools": [True, False, True],
    "texts": ["a", "", "éé", "🙂" * 50, "x" * 5000],
}
PLAIN: dict[str, np.ndarray[Any, Any]] = {
    "f32": np.linspace(-2, 2, 24, dtype=np.float32).reshape(2, 3, 4),
    "f16": np.linspace(-2, 2, 15, dtype=np.float16).reshape(3, 5),
    "f64": np.linspace(-2, 2, 7, dtype=np.float64),
    "i8": np.arange(-4, 4, dtype=np.int8).reshape(2, 4),
    "i16": np.arange(-300, 300, 100, dtype=np.int16),
    "i32": np.arange(6, dtype=np.int32).reshape(1, 2, 1, 3) - (1 << 30),
    "i64": np.arange(3, dtype=np.int64) << 40,
}
# ggml-common.h's structs, as far as their fields are wider than a byte: what a big-endian machine
# stores the other way round.
STRUCTS = {
    "Q4_0": "f2,(16,)u1",
    "Q4_1": "f2,f2,(16,)u1",
    "Q5_0": "f2,u4,(16,)u1",
    "Q5_1": "f2,f2,u4,(16,)u1",
    "Q8_0": "f2,(32,)u1",
    "Q8_1": "f2,f2,(32,)u1",
    "Q2_K": "(16,)u1,(64,)u1,f2,f2",
    "Q3_K": "(32,)u1,(64,)u1,(12,)u1,f2",
    "Q4_K": "f2,f2,(12,)u1,(128,)u1",
    "Q5_K": "f2,f2,(12,)u1,(32,)u1,(128,)u1",
    "Q6_K": "(128,)u1,(64,)u1,(16,)i1,f2",
    "Q8_K": "f4,(256,)i1,(16,)i2",
    "IQ2_XS": "f2,(32,)u2,(8,)u1",
    "IQ2_S": "f2,(64,)u1,(8,)u1,(8,)u1",
    "IQ3_XXS": "f2,(64,)u1,(8,)u4",
    "IQ3_S": "f2,(64,)u1,(8,)u1,(32,)u1,(4,)u1",
    "IQ1_S": "f2,(32,)u1,(8,)u2",
    "IQ1_M": "(32,)u1,(16,)u1,(4,)u2",
    "IQ4_NL": "f2,(16,)u1",
    "IQ4_XS": "f2,u2,(4,)u1,(128,)u1",
    "TQ1_0": "(48,)u1,(4,)u1,f2",
    "TQ2_0": "(64,)u1,f2",
    "MXFP4": "u1,(16,)u1",
    "NVFP4": "(4,)u1,(32,)u1",
    "Q1_0": "f2,(16,)u1",
}
QUANTIZED = [row for row in QUANT_TYPES.values() if row.is_quantized]


def write_plain(path: Path, endian: GGUFEndian, version: int) -> None:
    writer = GGUFWriter(path, "llama", endianess=endian)
    for key, (kind, value) in SCALARS.items():
        getattr(writer, f"add_{kind}")(f"scalar.{key}", value)
    for key, values in ARRAYS.items():
        writer.add_array(f"array.{key}", values)
    for name, array in PLAIN.items():
        writer.add_tensor(name, array.copy())  # which the writer swaps in place for big-endian
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    data = bytearray(path.read_bytes())
    order = "little" if endian is GGUFEndian.LITTLE else "big"
    data[4:8] = version.to_bytes(4, order)  # type: ignore[arg-type]
    path.write_bytes(data)


def blocks_of(row: QuantType, rows: int, blocks: int) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(row.id)
    return rng.integers(0, 256, (rows, blocks * row.block_bytes), dtype=np.uint8)


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("endian", list(GGUFEndian), ids=["little", "big"])
def test_against_gguf_py(tmp_path: Path, endian: GGUFEndian, version: int) -> None:
    path = tmp_path / "plain.gguf"
    write_plain(path, endian, version)
    model, peer = load_gguf(path), GGUFReader(path)
    assert model.headers[0].version == version
    assert list(model.metadata) == [key for key in peer.fields if not key.startswith("GGUF.")]
    for key, value in model.metadata.items():
        expected = peer.fields[key].contents()
        found = list(value) if isinstance(expected, list) else value
        assert found == expected, key
        assert isinstance(expected, list) or type(value) is type(expected)
    for key, (_, value) in SCALARS.items():
        assert model.metadata[f"scalar.{key}"] == value
    for key, values in ARRAYS.items():
        assert list(model.metadata[f"array.{key}"]) == values
    assert list(model.tensors) == [tensor.name for tensor in peer.tensors] == list(PLAIN)
    for name, array in PLAIN.items():
        tensor = model.tensors[name]
        assert tensor.shape == array.shape
        assert tensor.numpy().dtype == array.dtype
        np.testing.assert_array_equal(tensor.numpy(), array)


@pytest.mark.parametrize("row", QUANTIZED, ids=lambda row: row.name)
def test_quantized_tensor(tmp_path: Path, row: QuantType) -> None:
    path, blocks = tmp_path / "q.gguf", blocks_of(row, 3, 2)
    entry = Tensor("w", [2 * row.block_size, 3], row.id)
    path.write_bytes(File([], [entry], blocks.tobytes()).pack())
    weight = load_gguf(path).tensors["w"]
    assert isinstance(weight, GGUFTensor)
    assert (weight.shape, weight.qtype) == ((3, 2 * row.block_size), row.id)
    np.testing.assert_array_equal(weight.qweight.numpy(), blocks)
    if row.name != "Q8_1":  # whose size gguf-py has wrong
        (peer,) = GGUFReader(path).tensors
        assert peer.tensor_type == row.id
        np.testing.assert_array_equal(weight.qweight.numpy(), peer.data)


@pytest.mark.parametrize("row", QUANTIZED, ids=lambda row: row.name)
def test_big_endian_blocks(tmp_path: Path, row: QuantType) -> None:
    path, blocks = tmp_path / "q.gguf", blocks_of(row, 3, 2)
    swapped = blocks
    if row.name in STRUCTS:
        struct = np.dtype(STRUCTS[row.name])
        assert struct.itemsize == row.block_bytes
        swapped = blocks.view(struct).byteswap().view(np.uint8)
    entry = Tensor("w", [2 * row.block_size, 3], row.id)
    path.write_bytes(File([], [entry], swapped.tobytes(), order=">").pack())
    model = load_gguf(path)
    if row.name == "IQ2_XXS":
        with pytest.raises(
            rocmforge_torch.GGUFError, match="'w' at byte 24: IQ2_XXS has no defined big-endian"
        ):
            model.tensors["w"]
        return
    weight = model.tensors["w"]
    assert isinstance(weight, GGUFTensor)
    np.testing.assert_array_equal(weight.qweight.numpy(), blocks)


@pytest.mark.parametrize("order", ["<", ">"])
def test_bfloat16(tmp_path: Path, order: str) -> None:
    path, values = tmp_path / "bf16.gguf", torch.randn(4, 8).bfloat16()
    words = values.view(torch.int16).numpy().astype(order + "i2")
    path.write_bytes(File([], [Tensor("w", [8, 4], 30)], words.tobytes(), order=order).pack())
    assert load_gguf(path).tensors["w"].equal(values)


def test_nested_arrays_scalars_and_names(tmp_path: Path) -> None:
    path = tmp_path / "odd.gguf"
    nested = ("arr", "arr", [("arr", "arr", [("arr", "u8", [1]), ("arr", "str", ["é"])])])
    keys = [
        ("nested", nested),
        ("none", ("arr", "str", [])),
        ("", ("u8", 1)),
        ("empty", ("str", "")),
    ]
    keys[2] = ("Ключ", ("arr", "f64", []))
    tensors = [Tensor("scalar", []), Tensor("x" * 500, [1] * 4, offset=32)]
    path.write_bytes(File(keys, tensors, bytes(36)).pack())  # type: ignore[arg-type]
    model = load_gguf(path)
    ((numbers, texts),) = model.metadata["nested"]
    assert numbers.tolist() == [1]
    assert texts == ["é"]
    assert list(model.metadata["none"]) == []
    assert len(model.metadata["Ключ"]) == 0
    assert model.metadata["empty"] == ""
    assert model.tensors["scalar"].shape == ()
    assert model.tensors["x" * 500].shape == (1, 1, 1, 1)
    assert model.architecture is None
    assert model.vocab_size is None


@pytest.mark.parametrize("alignment", [8, 32, 4096, 1 << 16])
def test_alignment_gaps_and_order(tmp_path: Path, alignment: int) -> None:
    path, data = tmp_path / "a.gguf", np.arange(3 * alignment // 4, dtype=np.int32)
    tensors = [Tensor("b", [2], 26, 2 * alignment), Tensor("a", [2], 26, 0)]
    keys = [("general.alignment", ("u32", alignment))]
    path.write_bytes(File(keys, tensors, data.tobytes(), padding=alignment).pack())  # type: ignore[arg-type]
    model = load_gguf(path)
    assert list(model.tensors) == ["b", "a"]
    assert model.tensors["a"].tolist() == [0, 1]
    assert model.tensors["b"].tolist() == [alignment // 2, alignment // 2 + 1]


def test_strings_behave_like_a_list(tmp_path: Path) -> None:
    path, words = tmp_path / "s.gguf", ["zero", "", "zwei", "trois 🙂", "four"]
    path.write_bytes(File([("words", ("arr", "str", words))]).pack())
    found = load_gguf(path).metadata["words"]
    assert found == words
    assert found != words[:-1]
    assert (found[0], found[-2], found[1:4], found[::-2]) == (
        "zero",
        "trois 🙂",
        words[1:4],
        words[::-2],
    )
    assert found.index("zwei") == 2
    assert "four" in found
    assert found.tolist() == words
    with pytest.raises(IndexError):
        found[5]
    assert pickle.loads(pickle.dumps(found)) == words


def test_arrays_are_read_only_views(tmp_path: Path) -> None:
    path = tmp_path / "n.gguf"
    path.write_bytes(File([("n", ("arr", "i32", [1, 2]))]).pack())
    numbers = load_gguf(path).metadata["n"]
    assert numbers.base is not None
    with pytest.raises(ValueError, match="read-only"):
        numbers[0] = 5


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Two tensors: `f` F32 [2, 4], `q` Q8_0 [3, 64]."""
    path, row = tmp_path / "small.gguf", QUANT_TYPES[8]
    data = np.arange(8, dtype=np.float32).tobytes() + blocks_of(row, 3, 2).tobytes()
    tensors = [Tensor("f", [4, 2]), Tensor("q", [64, 3], row.id, 32)]
    keys = [("general.architecture", ("str", "llama"))]
    path.write_bytes(File(keys, tensors, data).pack())  # type: ignore[arg-type]
    return path


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/maps")
def test_cpu_tensors_are_the_mapped_file(small: Path) -> None:
    model = load_gguf(small)
    quantized = model.tensors["q"]
    assert isinstance(quantized, GGUFTensor)
    lines = [
        line for line in Path("/proc/self/maps").read_text().splitlines() if str(small) in line
    ]
    spans = [[int(end, 16) for end in line.split()[0].split("-")] for line in lines]
    for name, address in (
        ("f", model.tensors["f"].data_ptr()),
        ("q", quantized.qweight.data_ptr()),
    ):
        offset = model.tensors.info(name).offset
        assert any(start + offset == address < end for start, end in spans)


def test_mapping_lives_as_long_as_a_tensor(small: Path) -> None:
    before = small.read_bytes()
    tensor = load_gguf(small).tensors["f"]
    gc.collect()
    assert tensor.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    tensor.add_(1)  # reaches this process's copy of the page only
    assert tensor[0, 0] == 1
    assert small.read_bytes() == before
    assert load_gguf(small).tensors["f"][0, 0] == 0


def test_asking_twice_gives_the_same_tensor(small: Path) -> None:
    tensors = load_gguf(small).tensors
    first = tensors["q"]
    assert tensors["q"] is first
    with pytest.raises(KeyError):
        tensors["none"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtype_and_device(small: Path, dtype: torch.dtype) -> None:
    tensors = load_gguf(small, device="meta", dtype=dtype).tensors
    for name, shape in (("f", (2, 4)), ("q", (3, 64))):
        assert (tensors[name].dtype, tensors[name].shape) == (dtype, shape)
        assert tensors[name].device.type == "meta"
    quantized = tensors["q"]
    assert isinstance(quantized, GGUFTensor)
    assert quantized.qweight.device.type == "meta"
    on_cpu = load_gguf(small, dtype=dtype).tensors["f"]
    assert on_cpu.equal(torch.arange(8, dtype=dtype).view(2, 4))
    assert load_gguf(small).tensors["q"].dtype == torch.float32


OPENED: list[str] = []


def test_every_file_is_opened_and_parsed_once(small: Path, tmp_path: Path) -> None:
    def count_opens(event: str, args: tuple[Any, ...]) -> None:
        if event == "open" and str(args[0]).startswith(str(tmp_path)):
            OPENED.append(str(args[0]))

    sys.addaudithook(count_opens)
    COUNTERS.clear()
    OPENED.clear()
    model = load_gguf(small)
    for name in model.tensors:
        assert model.tensors[name].numel()
    assert model.architecture == "llama"
    assert model.vocab_size is None
    assert model.nbytes == 32 + 3 * 68
    assert [str(small)] == OPENED
    assert COUNTERS == {"opens": 1, "header_parses": 1}


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ([("llama.vocab_size", ("u32", 70))], 70),
        ([("tokenizer.ggml.tokens", ("arr", "str", ["a", "b"]))], 2),
        ([("llama.vocab_size", ("u32", 9)), ("tokenizer.ggml.tokens", ("arr", "str", ["a"]))], 9),
        ([], 3),
    ],
)
def test_vocab_size(tmp_path: Path, keys: list[Any], expected: int) -> None:
    path = tmp_path / "v.gguf"
    keys = [("general.architecture", ("str", "llama")), *keys]
    path.write_bytes(File(keys, [Tensor("token_embd.weight", [4, 3])], bytes(48)).pack())
    assert load_gguf(path).vocab_size == expected


def test_a_float_that_is_no_number(tmp_path: Path) -> None:
    path = tmp_path / "nan.gguf"
    path.write_bytes(File([("nan", ("f32", float("nan"))), ("inf", ("f64", -math.inf))]).pack())
    metadata = load_gguf(path).metadata
    assert math.isnan(metadata["nan"])
    assert metadata["inf"] == -math.inf


@pytest.mark.parametrize("at", [0, 1, 2])
def test_long_strings_are_checked_across_pieces(tmp_path: Path, at: int) -> None:
    """Characters of three bytes lie across every boundary of the pieces that are checked."""
    path, text = tmp_path / "long.gguf", ("x" * at + "漢" * (UTF8_CHUNK // 2)).encode()
    path.write_bytes(File([("x", ("arr", "str", ["a", text, "b"]))]).pack())
    strings = load_gguf(path).metadata["x"]
    assert strings.tolist() == ["a", text.decode(), "b"]
    bad = text[:-1] + b"\xff"
    data = File([("x", ("arr", "str", ["a", bad, "b"]))]).pack()
    path.write_bytes(data)
    with pytest.raises(rocmforge_torch.GGUFError, match=r"key 'x' .* not UTF-8") as caught:
        load_gguf(path)
    assert caught.value.offset == data.index(b"\xff") - 2  # where the broken character begins


def test_repr_is_one_line(small: Path) -> None:
    model = load_gguf(str(small))
    assert repr(model) == (
        f"GGUFModelFile({str(small)!r}, architecture='llama', tensors=2, shards=1)"
    )
    assert repr(model.tensors) == "TensorMap(2 tensors, device=cpu)"


def test_demo_model(demo_model_path: Path) -> None:
    model = load_gguf(demo_model_path)
    assert model.architecture == "gemma3"
    assert model.vocab_size == len(model.metadata["tokenizer.ggml.tokens"]) == 262144
    assert model.metadata["tokenizer.ggml.tokens"][2] == "<bos>"
    assert len(model.tensors) == 236
    assert model.tensors["token_embd.weight"].shape == (262144, 640)


@pytest.mark.slow
def test_demo_model_against_gguf_py(demo_model_path: Path) -> None:
    model, peer = load_gguf(demo_model_path), GGUFReader(demo_model_path)
    assert len(model.tensors) == len(peer.tensors)
    for expected in peer.tensors:
        tensor = model.tensors[expected.name]
        assert tensor.shape == tuple(reversed(expected.shape.tolist()))
        raw = tensor.qweight if isinstance(tensor, GGUFTensor) else tensor
        np.testing.assert_array_equal(raw.numpy(), expected.data)
    tokens = peer.fields["tokenizer.ggml.tokens"]
    for index in range(0, len(tokens.data), 97):
        expected_text = bytes(tokens.parts[tokens.data[index]]).decode()
        assert model.metadata["tokenizer.ggml.tokens"][index] == expected_text


def test_every_type_that_gguf_py_dequantizes(tmp_path: Path) -> None:
    """The mapped blocks go straight into the op, and come out as gguf-py's numbers."""
    path = tmp_path / "quants.gguf"
    writer = GGUFWriter(path, "llama")
    expected = {}
    for row in QUANTIZED:
        peer_type = GGMLQuantizationType(row.id)
        blocks = np.minimum(blocks_of(row, 2, 2), 0x3B)  # no infinities in the scales
        try:
            expected[row.name] = gguf.quants.dequantize(blocks, peer_type)
        except NotImplementedError:
            continue
        writer.add_tensor(row.name, blocks, raw_dtype=peer_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert len(expected) >= 22
    model = load_gguf(path)
    assert set(model.tensors) == set(expected)
    for name, values in expected.items():
        weight = model.tensors[name]
        assert isinstance(weight, GGUFTensor)
        assert np.count_nonzero(values)
        np.testing.assert_array_equal(weight.dequantize().numpy(), values, err_msg=name)
