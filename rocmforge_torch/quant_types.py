"""The one table of GGML tensor types: names, numbers and block layouts.

Numbers and sizes are those of ggml's ``ggml.h`` and ``ggml-common.h``. A row of ``K`` elements is
stored as ``K / block_size`` blocks of ``block_bytes`` bytes each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

WideField = tuple[int, int, int]


@dataclass(frozen=True)
class QuantType:
    """One GGML type.

    Attributes:
        name: ggml's name, upper case, e.g. ``"Q4_K"``.
        id: ggml's type number, the ``qtype`` of every op.
        block_size: elements in a block (1 for plain types).
        block_bytes: bytes in a block.
        wide_fields: ``(offset, item bytes, count)`` of every multi-byte number in a block, which is
            what a big-endian file stores swapped; ``None`` where ggml defines no such layout.
    """

    name: str
    id: int
    block_size: int
    block_bytes: int
    wide_fields: tuple[WideField, ...] | None = ()

    @property
    def is_quantized(self) -> bool:
        """Whether elements share a block (``False`` for plain floats and integers)."""
        return self.block_size > 1


# Q8_1 is 36 bytes as in ggml-common.h (two halves and 32 codes); gguf-py's table still holds the 40
# of the layout with two floats, which ggml left in 2023.
_ROWS = (
    QuantType("F32", 0, 1, 4, ((0, 4, 1),)),
    QuantType("F16", 1, 1, 2, ((0, 2, 1),)),
    QuantType("Q4_0", 2, 32, 18, ((0, 2, 1),)),
    QuantType("Q4_1", 3, 32, 20, ((0, 2, 2),)),
    QuantType("Q5_0", 6, 32, 22, ((0, 2, 1), (2, 4, 1))),
    QuantType("Q5_1", 7, 32, 24, ((0, 2, 2), (4, 4, 1))),
    QuantType("Q8_0", 8, 32, 34, ((0, 2, 1),)),
    QuantType("Q8_1", 9, 32, 36, ((0, 2, 2),)),
    QuantType("Q2_K", 10, 256, 84, ((80, 2, 2),)),
    QuantType("Q3_K", 11, 256, 110, ((108, 2, 1),)),
    QuantType("Q4_K", 12, 256, 144, ((0, 2, 2),)),
    QuantType("Q5_K", 13, 256, 176, ((0, 2, 2),)),
    QuantType("Q6_K", 14, 256, 210, ((208, 2, 1),)),
    QuantType("Q8_K", 15, 256, 292, ((0, 4, 1), (260, 2, 16))),
    # ggml reads these codes both as bytes and as 32-bit words, so swapping has two answers.
    QuantType("IQ2_XXS", 16, 256, 66, None),
    QuantType("IQ2_XS", 17, 256, 74, ((0, 2, 33),)),
    QuantType("IQ3_XXS", 18, 256, 98, ((0, 2, 1), (66, 4, 8))),
    QuantType("IQ1_S", 19, 256, 50, ((0, 2, 1), (34, 2, 8))),
    QuantType("IQ4_NL", 20, 32, 18, ((0, 2, 1),)),
    QuantType("IQ3_S", 21, 256, 110, ((0, 2, 1),)),
    QuantType("IQ2_S", 22, 256, 82, ((0, 2, 1),)),
    QuantType("IQ4_XS", 23, 256, 136, ((0, 2, 2),)),
    QuantType("I8", 24, 1, 1),
    QuantType("I16", 25, 1, 2, ((0, 2, 1),)),
    QuantType("I32", 26, 1, 4, ((0, 4, 1),)),
    QuantType("I64", 27, 1, 8, ((0, 8, 1),)),
    QuantType("F64", 28, 1, 8, ((0, 8, 1),)),
    QuantType("IQ1_M", 29, 256, 56, ((48, 2, 4),)),
    QuantType("BF16", 30, 1, 2, ((0, 2, 1),)),
    QuantType("TQ1_0", 34, 256, 54, ((52, 2, 1),)),
    QuantType("TQ2_0", 35, 256, 66, ((64, 2, 1),)),
    QuantType("MXFP4", 39, 32, 17),
    QuantType("NVFP4", 40, 64, 36),
    QuantType("Q1_0", 41, 128, 18, ((0, 2, 1),)),
)

QUANT_TYPES: Mapping[int, QuantType] = MappingProxyType({row.id: row for row in _ROWS})
QUANT_TYPES_BY_NAME: Mapping[str, QuantType] = MappingProxyType({row.name: row for row in _ROWS})


def quant_type(key: int | str | QuantType) -> QuantType:
    """Look a type up by number or by name (case does not matter).

    Raises:
        ValueError: no GGML type has this number or name.
    """
    if isinstance(key, QuantType):
        return key
    found = QUANT_TYPES_BY_NAME.get(key.upper()) if isinstance(key, str) else QUANT_TYPES.get(key)
    if found is None:
        known = ", ".join(f"{row.name} ({row.id})" for row in _ROWS)
        raise ValueError(f"unknown GGML type {key!r}; known types: {known}")
    return found


def row_bytes(qtype: int | str | QuantType, k: int) -> int:
    """Bytes of a row of ``k`` elements.

    Raises:
        ValueError: the type is unknown, or ``k`` is negative or no multiple of the block size.
    """
    row = quant_type(qtype)
    if k < 0 or k % row.block_size:
        raise ValueError(
            f"k = {k} must be a non-negative multiple of {row.name}'s block size {row.block_size}"
        )
    return k // row.block_size * row.block_bytes


def row_elements(qtype: int | str | QuantType, num_bytes: int) -> int:
    """Elements of a row of ``num_bytes`` bytes.

    Raises:
        ValueError: the type is unknown, or ``num_bytes`` is negative or no multiple of a block.
    """
    row = quant_type(qtype)
    if num_bytes < 0 or num_bytes % row.block_bytes:
        raise ValueError(
            f"row of {num_bytes} bytes must be a non-negative multiple of {row.name}'s "
            f"block of {row.block_bytes} bytes"
        )
    return num_bytes // row.block_bytes * row.block_size
