from __future__ import annotations

import dataclasses

import pytest
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from rocmforge_torch.quant_types import (
    QUANT_TYPES,
    QUANT_TYPES_BY_NAME,
    QuantType,
    quant_type,
    row_bytes,
    row_elements,
)

# gguf-py keeps the old layout of Q8_1 (two floats); ggml-common.h has two halves: 36 bytes.
PEER_DIFFERS = {"Q8_1": (32, 40)}


def test_table_holds_exactly_the_types_of_gguf_py() -> None:
    assert {(t.name, int(t)) for t in GGMLQuantizationType} == {
        (t.name, t.id) for t in QUANT_TYPES.values()
    }


@pytest.mark.parametrize("peer", list(GGMLQuantizationType), ids=lambda t: t.name)
def test_sizes_against_gguf_py(peer: GGMLQuantizationType) -> None:
    ours = QUANT_TYPES[int(peer)]
    if ours.name in PEER_DIFFERS:
        assert GGML_QUANT_SIZES[peer] == PEER_DIFFERS[ours.name]
        assert (ours.block_size, ours.block_bytes) == (32, 2 + 2 + 32)
    else:
        assert (ours.block_size, ours.block_bytes) == GGML_QUANT_SIZES[peer]


@pytest.mark.parametrize("row", QUANT_TYPES.values(), ids=lambda t: t.name)
def test_wide_fields_lie_inside_the_block_and_do_not_overlap(row: QuantType) -> None:
    end = 0
    for offset, size, count in row.wide_fields or ():
        assert offset >= end
        assert size in (2, 4, 8)
        assert count > 0
        end = offset + size * count
    assert end <= row.block_bytes
    assert (row.wide_fields is None) == (row.name == "IQ2_XXS")


def test_lookup_by_name_number_and_row() -> None:
    for row in QUANT_TYPES.values():
        assert quant_type(row.id) is row
        assert quant_type(row.name) is quant_type(row.name.lower()) is quant_type(row) is row
        assert QUANT_TYPES_BY_NAME[row.name] is row


@pytest.mark.parametrize("key", [4, 5, 31, -1, 1 << 40, "Q4_2", "", "q4"])
def test_lookup_of_an_unknown_type(key: int | str) -> None:
    with pytest.raises(ValueError, match="unknown GGML type"):
        quant_type(key)


@pytest.mark.parametrize("row", QUANT_TYPES.values(), ids=lambda t: t.name)
def test_row_bytes_and_elements_are_inverse(row: QuantType) -> None:
    for blocks in (0, 1, 3, 1000):
        k = blocks * row.block_size
        assert row_bytes(row, k) == blocks * row.block_bytes
        assert row_elements(row.id, row_bytes(row.name, k)) == k


@pytest.mark.parametrize(
    ("function", "size", "message"),
    [
        (row_bytes, 255, "k = 255 must be a non-negative multiple of Q4_K's block size 256"),
        (row_bytes, -256, "k = -256"),
        (row_elements, 143, "row of 143 bytes .* Q4_K's block of 144 bytes"),
        (row_elements, -144, "row of -144 bytes"),
    ],
)
def test_sizes_that_do_not_fit(function: object, size: int, message: str) -> None:
    assert callable(function)
    with pytest.raises(ValueError, match=message):
        function("Q4_K", size)


def test_table_is_read_only() -> None:
    with pytest.raises(TypeError):
        QUANT_TYPES[0] = QUANT_TYPES[1]  # type: ignore[index]
    with pytest.raises(dataclasses.FrozenInstanceError):
        QUANT_TYPES[0].id = 3  # type: ignore[misc]
