"""`write_gguf`: metadata and tensors as a GGUF file, through gguf-py, one piece after the other."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..quant_types import QUANT_TYPES_BY_NAME, QuantType, quant_type, row_bytes
from ..tensor import GGUFTensor
from .checks import ARCHITECTURE
from .reader import ALIGNMENT_KEY
from .tensor_map import PLAIN_DTYPES

if TYPE_CHECKING:
    import gguf

TYPE_OF_DTYPE = {dtype: QUANT_TYPES_BY_NAME[name] for name, dtype in PLAIN_DTYPES.items()}
KIND = "general.type"
INTEGER_RANGES = (
    ("UINT32", 0, 2**32),
    ("INT32", -(2**31), 2**31),
    ("UINT64", 0, 2**64),
    ("INT64", -(2**63), 2**63),
)
NUMPY_INTEGERS = tuple(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64))
NUMPY_TYPES = (*NUMPY_INTEGERS, "float32", "float64", "bool")


@dataclass(frozen=True)
class TensorSource:
    """A tensor to be written whose data is made when its turn comes.

    Attributes:
        name: its name.
        qtype: its GGML type.
        shape: its size in elements, slowest dimension first.
        pieces: gives contiguous tensors on the CPU; their bytes, one after the other, are the data.
            Only one piece is in memory at a time if it is a generator.
    """

    name: str
    qtype: QuantType
    shape: tuple[int, ...]
    pieces: Callable[[], Iterable[Tensor]]

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return row_bytes(self.qtype, self.elements)

    @classmethod
    def of(cls, name: str, tensor: Tensor) -> TensorSource:
        """A tensor that exists already: a `GGUFTensor`, or one of a dtype that GGML has.

        Raises:
            ValueError: it has another dtype.
        """
        if isinstance(tensor, GGUFTensor):
            qtype = quant_type(tensor.qtype)
            return cls(name, qtype, tuple(tensor.shape), lambda: [tensor.unpacked().qweight.cpu()])
        if tensor.dtype not in TYPE_OF_DTYPE:
            raise ValueError(
                f"tensor {name!r} has dtype {tensor.dtype}, for which GGML has no type"
            )
        return cls(
            name, TYPE_OF_DTYPE[tensor.dtype], tuple(tensor.shape), lambda: [tensor.detach().cpu()]
        )


def write_gguf(
    path: str | os.PathLike[str],
    metadata: Mapping[str, Any],
    tensors: Iterable[TensorSource | tuple[str, Tensor]],
) -> None:
    """Write a GGUF file (version 3, little endian); it appears whole or not at all.

    Args:
        path: the file to write; an existing one is replaced.
        metadata: key -> ``bool | int | float | str``, a numpy scalar or one-dimensional array, or a
            sequence of ``bool``, ``int``, ``float`` or ``str``. An ``int`` becomes a uint32 where
            it fits, in a sequence an int32; a ``float`` becomes a float32; numpy numbers keep their
            type (`typed_metadata` gives a loaded file's). Empty arrays are left out: readers take a
            missing key for one. ``general.architecture`` is
            required, unless ``general.type`` says that the file is no model.
        tensors: ``(name, tensor)``, where `GGUFTensor`s keep their blocks, or `TensorSource`s.

    Raises:
        ValueError: a value or tensor cannot be stored, a name comes twice, or the architecture is
            missing.
        OSError: `path` cannot be written.
    """
    import gguf  # half of what importing this package would take, and only writers need it

    path = Path(path)
    architecture = metadata.get(ARCHITECTURE)
    is_model = metadata.get(KIND, "model") == "model"
    if is_model and not isinstance(architecture, str):
        raise ValueError(f"metadata must have {ARCHITECTURE!r}, a string, it has {architecture!r}")
    sources = [t if isinstance(t, TensorSource) else TensorSource.of(*t) for t in tensors]
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    writer = gguf.GGUFWriter(partial, architecture or "")  # which adds no key for an empty one
    try:
        for key, value in metadata.items():
            if key == ALIGNMENT_KEY:
                writer.add_custom_alignment(int(value))
            elif key != ARCHITECTURE:
                _add(writer, key, value)
        for source in sources:
            # Any item type but uint8 leaves the shape as it is.
            writer.add_tensor_info(
                source.name,
                source.shape,
                np.dtype(np.float32),
                source.nbytes,
                raw_dtype=gguf.GGMLQuantizationType(source.qtype.id),
            )
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for source in sources:
            _write_data(writer, source)
        writer.close()
        partial.replace(path)
    finally:
        writer.close()
        partial.unlink(missing_ok=True)


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    from gguf import GGUFValueType

    if isinstance(value, str | bool | int | float | np.generic):
        writer.add_key_value(key, value, GGUFValueType[_value_type(key, value)])
    elif len(value):
        items = value.tolist() if isinstance(value, np.ndarray) else list(value)
        element_type = GGUFValueType[_value_type(key, _typical(value, items))]
        writer.add_key_value(key, items, GGUFValueType.ARRAY, sub_type=element_type)


def _typical(value: Any, items: list[Any]) -> Any:
    """A value of the type that an array's elements are stored in; the array itself for none."""
    if all(isinstance(item, str) for item in items):
        return ""
    array = value if isinstance(value, np.ndarray) else np.asarray(items)
    if array.ndim != 1 or array.dtype.kind not in "biuf":
        return value
    if array is value or array.dtype.kind == "b":
        return array.dtype.type(0)
    if array.dtype.kind == "f":
        return 0.0
    fits = array.min() >= -(2**31) and array.max() < 2**31
    return np.int32(0) if fits else np.int64(0)


def _value_type(key: str, value: Any) -> str:
    """The name of a value's type in `gguf.GGUFValueType`."""
    if isinstance(value, str):
        return "STRING"
    if isinstance(value, bool):
        return "BOOL"
    if isinstance(value, float) and not isinstance(value, np.generic):
        return "FLOAT32"
    if isinstance(value, int):
        for found, low, high in INTEGER_RANGES:
            if low <= value < high:
                return found
    if isinstance(value, np.generic) and value.dtype.name in NUMPY_TYPES:
        return value.dtype.name.upper()
    raise ValueError(f"key {key!r} holds {value!r:.80}, which GGUF has no type for")


def _write_data(writer: gguf.GGUFWriter, source: TensorSource) -> None:
    assert writer.fout is not None
    file, written = writer.fout[0], 0
    writer.write_padding(file, file.tell())
    for piece in source.pieces():
        data = piece.contiguous().view(-1).view(torch.uint8).numpy()
        written += data.nbytes
        file.write(data.data)
    if written != source.nbytes:
        raise ValueError(
            f"tensor {source.name!r} of {source.qtype.name} {list(source.shape)} takes "
            f"{source.nbytes} bytes, its pieces have {written}"
        )
    writer.write_padding(file, written)
