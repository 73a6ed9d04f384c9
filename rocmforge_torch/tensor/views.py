"""Views, and whatever else moves whole blocks: transposing, slicing, reshaping, joining.

A dimension seen from outside is one of `qweight`, except that `transposed` swaps the last two. The
last dimension of `qweight`, a row, can only be cut between blocks.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from ..quant_types import quant_type, row_bytes
from .dispatch import OPS, NoQuantizedForm, handles
from .gguf_tensor import GGUFTensor

aten = torch.ops.aten


def _unpacked(tensor: GGUFTensor) -> GGUFTensor:
    if tensor.qlayout:
        raise NotImplementedError(
            "a packed GGUFTensor has neither rows nor blocks that lie together; "
            "call .unpacked() first"
        )
    return tensor


def _inner(tensor: GGUFTensor, dim: int) -> int:
    """The dimension of `qweight` that `dim` is."""
    n = tensor.dim()
    if not -n <= dim < n:
        raise IndexError(f"dimension {dim} is not within the {n} of a GGUFTensor")
    dim %= n
    return 2 * n - 3 - dim if tensor.transposed and dim >= n - 2 else dim


def _rows(tensor: GGUFTensor, dim: int) -> int:
    """As `_inner`, for a dimension that is not within rows."""
    inner = _inner(tensor, dim)
    if inner == tensor.dim() - 1:
        raise NoQuantizedForm(f"dimension {dim} of {tensor.dim()} runs along the blocks of a row")
    return inner


def _bytes(tensor: GGUFTensor, elements: int) -> int:
    """Bytes of so many elements of a row, from its start."""
    row = quant_type(tensor.qtype)
    if elements % row.block_size:
        raise NoQuantizedForm(
            f"{elements} of a row's elements are no whole blocks of {row.name}, which have "
            f"{row.block_size}"
        )
    return row_bytes(row, elements)


def sizes_of_blocks(tensor: GGUFTensor, shape: Sequence[int]) -> list[int]:
    """The shape of `qweight` for a shape outside, of a tensor that is not transposed."""
    return [*shape[:-1], _bytes(tensor, shape[-1])]


def _remade(tensor: GGUFTensor, qweight: Tensor, transposed: bool) -> GGUFTensor:
    return GGUFTensor(qweight, tensor.qtype, tensor.dtype, tensor.qlayout, transposed)


@handles(OPS, aten.permute.default)
def _permute(func: Any, tensor: GGUFTensor, dims: Sequence[int]) -> GGUFTensor:
    order = [_inner(tensor, dim) for dim in dims]
    within = tensor.dim() - 1
    if order[-1] != within:
        if order[-2:-1] != [within]:
            raise NoQuantizedForm("only the last two dimensions can be swapped")
        order[-2:] = order[:-3:-1]
        return _remade(tensor, tensor.qweight.permute(order), True)
    return _remade(tensor, tensor.qweight.permute(order), False)


@handles(OPS, aten.t.default)
def _t(func: Any, tensor: GGUFTensor) -> GGUFTensor:
    if tensor.dim() > 2:
        raise RuntimeError(f"t() expects a tensor of at most 2 dimensions, got {tensor.dim()}")
    return _permute(func, tensor, range(tensor.dim())[::-1])


@handles(OPS, aten.transpose.int)
def _transpose(func: Any, tensor: GGUFTensor, dim0: int, dim1: int) -> GGUFTensor:
    order = list(range(tensor.dim()))
    order[dim0], order[dim1] = order[dim1], order[dim0]
    return _permute(func, tensor, order)


@handles(OPS, aten.select.int)
def _select(func: Any, tensor: GGUFTensor, dim: int, index: int) -> GGUFTensor:
    inner = _rows(tensor, dim)
    transposed = tensor.transposed and inner != tensor.dim() - 2
    return _remade(tensor, func(_unpacked(tensor).qweight, inner, index), transposed)


@handles(OPS, aten.unbind.int)
def _unbind(func: Any, tensor: GGUFTensor, dim: int = 0) -> list[GGUFTensor]:
    return [_select(aten.select.int, tensor, dim, i) for i in range(tensor.shape[dim])]


@handles(OPS, aten.slice.Tensor)
def _slice(
    func: Any,
    tensor: GGUFTensor,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> GGUFTensor:
    inner = _inner(tensor, dim)
    size = tensor.shape[dim]
    start = 0 if start is None else start
    end = size if end is None or end == sys.maxsize else end
    if inner == tensor.dim() - 1:
        if step != 1:
            raise NoQuantizedForm(f"a step of {step} along the blocks of a row")
        # Counted from the end or beyond it, as Python's slices do.
        start, end = (min(max(i + size if i < 0 else i, 0), size) for i in (start, end))
        start, end = _bytes(tensor, start), _bytes(tensor, end)
    return tensor.with_blocks(func(_unpacked(tensor).qweight, inner, start, end, step))


@handles(OPS, aten.split.Tensor, aten.split_with_sizes.default)
def _split(
    func: Any, tensor: GGUFTensor, size: int | Sequence[int], dim: int = 0
) -> list[GGUFTensor]:
    inner = _inner(tensor, dim)
    if inner == tensor.dim() - 1:
        if isinstance(size, Sequence):
            size = [_bytes(tensor, n) for n in size]
        else:
            size = _bytes(tensor, size)
    parts = func(_unpacked(tensor).qweight, size, inner)
    return [tensor.with_blocks(part) for part in parts]


@handles(OPS, aten.index_select.default)
def _index_select(func: Any, tensor: GGUFTensor, dim: int, index: Tensor) -> GGUFTensor:
    return tensor.with_blocks(func(_unpacked(tensor).qweight, _rows(tensor, dim), index))


@handles(OPS, aten.index.Tensor)
def _index(func: Any, tensor: GGUFTensor, indices: Sequence[Tensor | None]) -> GGUFTensor:
    if tensor.transposed or len(indices) >= tensor.dim():
        raise NoQuantizedForm("an index along the blocks of a row")
    return tensor.with_blocks(func(_unpacked(tensor).qweight, indices))


@handles(OPS, aten.unsqueeze.default)
def _unsqueeze(func: Any, tensor: GGUFTensor, dim: int) -> GGUFTensor:
    n = tensor.dim()
    place = dim + n + 1 if dim < 0 else dim
    if place > n - (2 if tensor.transposed else 1):
        raise NoQuantizedForm("a dimension behind that of rows or blocks")
    return tensor.with_blocks(func(_unpacked(tensor).qweight, place))


@handles(OPS, aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims)
def _squeeze(func: Any, tensor: GGUFTensor, dim: int | Sequence[int] | None = None) -> GGUFTensor:
    n = tensor.dim()
    asked = range(n) if dim is None else dim if isinstance(dim, Sequence) else [dim]
    for i in sorted((d % n for d in asked), reverse=True):
        if tensor.shape[i] == 1:
            tensor = _select(aten.select.int, tensor, i, 0)
    return tensor.with_blocks(tensor.qweight)


@handles(OPS, aten.expand.default)
def _expand(
    func: Any, tensor: GGUFTensor, size: Sequence[int], *, implicit: bool = False
) -> GGUFTensor:
    sizes = list(size)
    if tensor.transposed:
        sizes[-2:] = sizes[:-3:-1]
    if sizes[-1] not in (-1, tensor.shape[-2 if tensor.transposed else -1]):
        raise NoQuantizedForm("a row is made longer")
    return tensor.with_blocks(func(tensor.qweight, [*sizes[:-1], -1]))


@handles(OPS, aten.view.default, aten._unsafe_view.default, aten._reshape_alias.default)
def _view(func: Any, tensor: GGUFTensor, size: Sequence[int], *strides: Any) -> GGUFTensor:
    """Any shape whose last dimension is whole blocks; a transposed one keeps its own."""
    size = _filled_in(tensor, size)
    if tuple(size) == tuple(tensor.shape):
        return tensor.with_blocks(tensor.qweight)
    if tensor.transposed:
        raise NoQuantizedForm("a transposed tensor takes another shape")
    return tensor.with_blocks(_unpacked(tensor).qweight.view(sizes_of_blocks(tensor, size)))


def _filled_in(tensor: GGUFTensor, size: Sequence[int]) -> list[int]:
    """A shape whose -1, if any, is what the others leave."""
    known = reduce(lambda a, b: a * b, (n for n in size if n != -1), 1)
    return [tensor.numel() // known if n == -1 else n for n in size]


@handles(OPS, aten.as_strided.default)
def _as_strided(
    func: Any,
    tensor: GGUFTensor,
    size: Sequence[int],
    stride: Sequence[int],
    storage_offset: int | None = None,
) -> GGUFTensor:
    """Whatever views of rows, transposed or not, have for strides (compiled graphs ask for it)."""
    transposed = stride[-1] != 1 and stride[-2:-1] == [1]
    if tensor.transposed or not (transposed or stride[-1] == 1):
        raise NoQuantizedForm("no dimension runs along the rows of blocks")
    sizes, strides = list(size), list(stride)
    if transposed:
        sizes[-2:], strides[-2:] = sizes[:-3:-1], strides[:-3:-1]
    # Offsets of files are no multiples of blocks, but their differences within a tensor are.
    start: Any = tensor.storage_offset()
    skipped = (start if storage_offset is None else storage_offset) - start
    blocks = func(
        _unpacked(tensor).qweight,
        sizes_of_blocks(tensor, sizes),
        [*(_bytes(tensor, n) for n in strides[:-1]), 1],
        tensor.qweight.storage_offset() + _bytes(tensor, skipped),
    )
    return _remade(tensor, blocks, transposed)


@handles(OPS, aten.constant_pad_nd.default)
def _pad(func: Any, tensor: GGUFTensor, pad: Sequence[int], value: float = 0) -> GGUFTensor:
    """More rows of zeros (shards of uneven size); `pad` counts from the last dimension."""
    if tensor.transposed or value or any(pad[:2]):
        raise NoQuantizedForm("anything but rows of zeros is added")
    return tensor.with_blocks(func(_unpacked(tensor).qweight, pad, 0))


def _alike(tensors: Sequence[Tensor]) -> tuple[GGUFTensor, torch.dtype]:
    """The first of several tensors whose blocks can be joined, and their common dtype."""
    first = tensors[0]
    if not all(isinstance(t, GGUFTensor) for t in tensors):
        raise NoQuantizedForm(
            "some are ordinary tensors; DistributedDataParallel needs init_sync=False"
        )
    kinds = {(t.qtype, t.transposed) for t in tensors if isinstance(t, GGUFTensor)}
    if len(kinds) > 1:
        names = [f"{quant_type(t).name}{' transposed' * swapped}" for t, swapped in sorted(kinds)]
        raise NoQuantizedForm(f"they differ: {', '.join(names)}")
    assert isinstance(first, GGUFTensor)
    return first, reduce(torch.promote_types, (t.dtype for t in tensors))


@handles(OPS, aten.cat.default)
def _cat(func: Any, tensors: Sequence[Any], dim: int = 0) -> GGUFTensor:
    first, dtype = _alike(tensors)
    blocks = [_unpacked(t).qweight for t in tensors]
    return first.with_blocks(func(blocks, _inner(first, dim)), dtype)


@handles(OPS, aten.stack.default)
def _stack(func: Any, tensors: Sequence[Any], dim: int = 0) -> GGUFTensor:
    return _cat(aten.cat.default, [t.unsqueeze(dim) for t in tensors], dim)
