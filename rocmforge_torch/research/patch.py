"""Parts of quantized tensors: where a head or an expert lies, what it holds, and how to change it.

A part is an index of a tensor: (rows, columns) slices for a head, an int for an expert. What is not
in the part keeps its bits.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..gguf import GGUFModelFile, TensorSource, typed_metadata, write_gguf
from ..models import DecoderConfig
from ..quant_types import quant_type, row_bytes
from ..tensor import GGUFTensor

Part = tuple[slice, slice]
PROJECTION = re.compile(r"blk\.\d+\.attn_(q|k|v|qkv|output)\.(weight|bias)")
EVERYTHING = slice(None)


def head_parts(file: GGUFModelFile, layer: int, head: int) -> dict[str, Part]:
    """Where a query head, and the key and value head it shares with its group, lie in a layer.

    Args:
        file: a model of one of the supported architectures.
        layer, head: which, from 0.

    Returns:
        Name of a tensor -> (rows, columns): the head's rows of query, key and value, with their
        biases (columns are then everything), and its columns of the output projection. Of a fused
        `attn_qkv` the query's rows are "blk.N.attn_qkv.weight".

    Raises:
        ValueError: there is no such layer or head.
        GGUFError: the architecture is not supported.
    """
    config = DecoderConfig.from_metadata(file.metadata, str(file.path))
    limits = {"layer": (layer, config.num_layers), "head": (head, config.num_heads)}
    for what, (number, count) in limits.items():
        if not 0 <= number < count:
            raise ValueError(f"{what} must be from 0 to {count - 1}, got {number}")
    dim = config.head_dim
    kv_head = head * config.num_kv_heads // config.num_heads
    own, shared = (slice(i * dim, (i + 1) * dim) for i in (head, kv_head))
    places = {
        "q": (own, EVERYTHING),
        "k": (shared, EVERYTHING),
        "v": (shared, EVERYTHING),
        "qkv": (own, EVERYTHING),
        "output": (EVERYTHING, own),
    }
    found: dict[str, Part] = {}
    for name in file.tensors:
        match = PROJECTION.fullmatch(name)
        is_bias_of_output = name.endswith("attn_output.bias")
        if match and name.startswith(f"blk.{layer}.") and not is_bias_of_output:
            found[name] = places[match[1]]
    return found


def part_of(tensor: Tensor, part: Any) -> Tensor:
    """The numbers of a part in float32: tensor [N, K] and two slices -> [n, k]; tensor [E, N, K]
    and an int -> [N, K]."""
    rows, columns = _split(part)
    chosen = tensor[rows]
    values = chosen.dequantize(torch.float32) if isinstance(chosen, GGUFTensor) else chosen.float()
    return values if columns == EVERYTHING else values[..., columns]


def patched(tensor: Tensor, part: Any, values: Tensor) -> Tensor:
    """A copy of a tensor with other numbers in a part.

    The numbers are quantized to the tensor's type, block by block, and no other block is touched;
    so the columns of a part must begin and end between blocks.

    Args:
        tensor: `GGUFTensor` or plain float tensor, [..., K]; not packed.
        part: as of `part_of`.
        values: float, of the part's shape or one that broadcasts to it.

    Raises:
        ValueError: the values do not fit, the columns cut a block, or the type cannot be quantized
            to.
    """
    rows, columns = _split(part)
    if not isinstance(tensor, GGUFTensor):
        out = tensor.clone()
        target = out[rows] if columns == EVERYTHING else out[rows][..., columns]
        target.copy_(_fitting(values, target.shape))
        return out
    row = quant_type(tensor.qtype)
    first, end, step = columns.indices(tensor.shape[-1])
    if step != 1 or first % row.block_size or end % row.block_size:
        raise ValueError(
            f"columns {first} to {end} (step {step}) cut blocks of {row.name}, which hold "
            f"{row.block_size} numbers; requantize the tensor to a type with smaller blocks first"
        )
    blocks = tensor.unpacked().qweight.clone()
    start, stop = (row_bytes(row, at) for at in (first, end))
    target = blocks[rows][..., start:stop]
    wide = _fitting(values, (*target.shape[:-1], end - first)).float().contiguous()
    try:
        target.copy_(torch.ops.rocmforge.quantize(wide, tensor.qtype))
    except (RuntimeError, ValueError) as problem:
        raise ValueError(f"a tensor of {row.name} takes no other numbers: {problem}") from None
    return GGUFTensor(blocks, tensor.qtype, tensor.dtype)


def requantized(tensor: Tensor, part: Any, qtype: str) -> Tensor:
    """A copy of a tensor whose part was rounded to a type, as if it had been stored in that.

    A GGUF tensor has one type, which stays; to see what fewer bits do to a head alone, it should be
    wider than `qtype` (F16, Q8_0).

    Raises:
        ValueError: as `patched`, or for an unknown type, or one whose blocks do not divide the
            columns of the part.
    """
    values = part_of(tensor, part).contiguous()
    row = quant_type(qtype)
    if values.shape[-1] % row.block_size:
        raise ValueError(
            f"{values.shape[-1]} columns are no whole number of {row.name}'s blocks of "
            f"{row.block_size}"
        )
    blocks = torch.ops.rocmforge.quantize(values, row.id)
    return patched(tensor, part, torch.ops.rocmforge.dequantize(blocks, row.id, torch.float32))


def write_patched(file: GGUFModelFile, path: str | Path, changes: Mapping[str, Tensor]) -> None:
    """Write a GGUF file anew with some of its tensors replaced; all else as it was.

    Args:
        file: the model.
        path: the file to write.
        changes: name -> tensor of the same shape, of any type.

    Raises:
        ValueError: a name is none of the file's, or a shape differs.
        OSError: `path` cannot be written.
    """
    for name, tensor in changes.items():
        if name not in file.tensors:
            raise ValueError(f"the file has no tensor {name!r} to change")
        shape = file.tensors.info(name).shape
        if tuple(tensor.shape) != shape:
            raise ValueError(
                f"{name!r} must keep its shape {list(shape)}, got {list(tensor.shape)}"
            )
    sources = [
        TensorSource.of(name, changes.get(name, file.tensors[name])) for name in file.tensors
    ]
    write_gguf(path, typed_metadata(file), sources)


def _split(part: Any) -> tuple[Any, slice]:
    """(index of rows, slice of columns)."""
    rows, columns = part if isinstance(part, tuple) else (part, EVERYTHING)
    if not isinstance(columns, slice):
        raise ValueError(f"columns must be a slice, got {columns!r}")
    return rows, columns


def _fitting(values: Tensor, shape: Any) -> Tensor:
    try:
        return values.expand(shape)
    except RuntimeError:
        raise ValueError(
            f"values must have the part's shape {list(shape)}, got {list(values.shape)}"
        ) from None
