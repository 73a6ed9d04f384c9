"""Writes a GGUF file anew, each tensor in the type that its plan says, through gguf-py."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..gguf import GGUFModelFile
from ..gguf.reader import Header
from ..quant_types import QuantType
from ..tensor import GGUFTensor
from .errors import CommandError
from .quantize_plan import Plan

# llama.cpp's general.file_type of a file whose matrices have one type (its enum llama_ftype).
FILE_TYPES = {
    "F32": 0,
    "F16": 1,
    "Q4_0": 2,
    "Q4_1": 3,
    "Q8_0": 7,
    "Q5_0": 8,
    "Q5_1": 9,
    "Q2_K": 10,
    "Q3_K": 11,
    "Q4_K": 14,
    "Q5_K": 16,
    "Q6_K": 18,
    "IQ4_NL": 25,
    "IQ4_XS": 30,
    "BF16": 32,
    "TQ1_0": 36,
    "TQ2_0": 37,
    "MXFP4": 38,
    "NVFP4": 39,
    "Q1_0": 40,
}
GUESSED_FILE_TYPE = 1024
QUANTIZATION_VERSION = 2  # of ggml's block layouts
ALIGNMENT = "general.alignment"
REWRITTEN = ("general.architecture", "general.file_type", "general.quantization_version")
SPLIT = ("split.no", "split.count", "split.tensors.count")
CHUNK_ELEMENTS = 1 << 24  # dequantized at a time, 64 MiB of float32

Report = Callable[[int], object]


def write(
    file: GGUFModelFile, plans: Sequence[Plan], main_type: QuantType, target: Path, report: Report
) -> None:
    """Write `file` to `target` as `plans` say; `target` appears whole or not at all.

    Args:
        file: the model.
        plans: one per tensor.
        main_type: what the file as a whole is called after.
        target: the file to write.
        report: called with the number of elements done.

    Raises:
        CommandError: the file holds what gguf-py cannot write.
        OSError: `target` cannot be written.
    """
    if file.architecture is None:
        raise CommandError(f"{file.path}: no general.architecture, so this is no model")
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    writer = gguf.GGUFWriter(partial, file.architecture)
    try:
        _add_metadata(writer, file, main_type)
        for plan in plans:
            # Any item type but uint8 leaves the shape as it is.
            writer.add_tensor_info(
                plan.info.name,
                plan.info.shape,
                np.dtype(np.float32),
                plan.nbytes,
                raw_dtype=gguf.GGMLQuantizationType(plan.target.id),
            )
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for plan in plans:
            writer.write_tensor_data(_data(file.tensors[plan.info.name], plan, report))
        writer.close()
        partial.replace(target)
    finally:
        writer.close()
        partial.unlink(missing_ok=True)


def _data(tensor: Tensor, plan: Plan, report: Report) -> npt.NDArray[np.uint8]:
    """The bytes of a tensor in its new type."""
    if not plan.changes:
        report(plan.elements)
        raw = tensor.qweight if isinstance(tensor, GGUFTensor) else tensor
        return raw.contiguous().view(-1).view(torch.uint8).numpy()
    k = plan.info.shape[-1]
    rows = tensor.view(-1, k) if not isinstance(tensor, GGUFTensor) else tensor
    done = []
    for part in _rows(rows, k):
        done.append(torch.ops.rocmforge.quantize(part, plan.target.id).view(-1))
        report(part.numel())
    return torch.cat(done).numpy()


def _rows(tensor: Tensor, k: int) -> Iterator[Tensor]:
    """Float32 rows [n, k] of a tensor, some at a time."""
    step = max(1, CHUNK_ELEMENTS // k)
    if not isinstance(tensor, GGUFTensor):
        yield from (part.float() for part in tensor.split(step))
        return
    qweight = tensor.qweight.view(-1, tensor.qweight.shape[-1])
    for part in qweight.split(step):
        yield torch.ops.rocmforge.dequantize(part, tensor.qtype, torch.float32)


def _add_metadata(writer: gguf.GGUFWriter, file: GGUFModelFile, main_type: QuantType) -> None:
    """Copy every key with its type; the keys about quantization say what the new file is."""
    seen = {*REWRITTEN, *SPLIT}
    for header in file.headers:
        for key, value, value_type, element_type in _values(header):
            if key in seen:
                continue
            seen.add(key)
            if key == ALIGNMENT:
                writer.add_custom_alignment(value)
            elif value_type != gguf.GGUFValueType.ARRAY:
                writer.add_key_value(key, value, value_type)
            elif element_type == gguf.GGUFValueType.ARRAY:
                raise CommandError(f"{header.source}: {key!r} nests arrays, which cannot be copied")
            elif len(value):  # gguf-py writes no empty arrays; readers take a missing key for one
                items = value.tolist()
                writer.add_key_value(key, items, value_type, sub_type=element_type)
    writer.add_file_type(FILE_TYPES.get(main_type.name, GUESSED_FILE_TYPE))
    writer.add_quantization_version(QUANTIZATION_VERSION)


def _values(header: Header) -> Iterator[tuple[str, Any, Any, Any]]:
    """(key, value, type, type of an array's elements): types as the file states them."""
    with open(header.source, "rb") as source:
        for key, value in header.metadata.items():
            source.seek(header.offsets[key] - 4)
            value_type, element_type = struct.unpack(header.order + "II", source.read(8).ljust(8))
            value_type = gguf.GGUFValueType(value_type)
            is_array = value_type == gguf.GGUFValueType.ARRAY
            yield key, value, value_type, gguf.GGUFValueType(element_type) if is_array else None
