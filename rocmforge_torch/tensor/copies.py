"""Copies: to other places, from other values, and of the same kind without values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..quant_types import quant_type
from .dispatch import FUNCTIONS, OPS, NoQuantizedForm, handles
from .fallback import without_quantized_form
from .gguf_tensor import GGUFTensor
from .views import sizes_of_blocks

aten = torch.ops.aten
ops = torch.ops.rocmforge


@handles(OPS, aten.detach.default, aten.alias.default, aten.lift_fresh.default)
def _same(func: Any, tensor: GGUFTensor) -> GGUFTensor:
    return tensor.with_blocks(func(tensor.qweight))


@handles(OPS, aten._pin_memory.default)
def _pin_memory(func: Any, tensor: GGUFTensor, device: Any = None) -> GGUFTensor:
    return tensor.with_blocks(func(tensor.qweight, device))


@handles(OPS, aten.is_pinned.default, aten.record_stream.default)
def _ask_blocks(func: Any, tensor: GGUFTensor, *args: Any, **kwargs: Any) -> Any:
    return func(tensor.qweight, *args, **kwargs)


@handles(OPS, aten.clone.default)
def _clone(
    func: Any, tensor: GGUFTensor, *, memory_format: torch.memory_format | None = None
) -> GGUFTensor:
    if tensor.transposed and memory_format == torch.contiguous_format:
        raise NoQuantizedForm("a transposed one cannot be contiguous: blocks lie along its columns")
    return tensor.with_blocks(func(tensor.qweight, memory_format=memory_format))


@handles(OPS, aten._to_copy.default)
def _to_copy(
    func: Any, tensor: GGUFTensor, *, dtype: torch.dtype | None = None, **kwargs: Any
) -> GGUFTensor:
    """Moves the blocks; a new dtype changes what they compute in, not what they are.

    The packed layout is the GPU's: away from there it goes.
    """
    if tensor.qlayout and torch.device(kwargs.get("device") or tensor.device).type == "cpu":
        tensor = tensor.unpacked()
    return tensor.with_blocks(func(tensor.qweight, **kwargs), dtype)


@handles(OPS, aten.copy_.default)
def _copy_(func: Any, target: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
    """Blocks from blocks of the same type; quantizes ordinary values; dequantizes into them."""
    if not isinstance(target, GGUFTensor):
        assert isinstance(source, GGUFTensor)
        out: Tensor = func(target, source.dequantize(), non_blocking)
        return out
    func(target.qweight, _blocks_like(target, source), non_blocking)
    return target


def _blocks_like(target: GGUFTensor, source: Tensor) -> Tensor:
    """The blocks of `source` as those of `target` are."""
    if source.shape != target.shape:
        if isinstance(source, GGUFTensor):
            raise ValueError(
                f"copy_ takes a GGUFTensor of the same shape, {list(target.shape)}, got "
                f"{list(source.shape)}"
            )
        source = source.expand(target.shape)
    if not isinstance(source, GGUFTensor):
        values = source.mT if target.transposed else source
        values = values if values.is_floating_point() else values.float()
        blocks: Tensor = ops.quantize(values.to(target.device), target.qtype)
        return ops.pack_weight(blocks, target.qtype) if target.qlayout else blocks
    if (source.qtype, source.transposed) != (target.qtype, target.transposed):
        raise ValueError(
            f"copy_ takes blocks of the same type and orientation, {_kind(target)}, got "
            f"{_kind(source)}; copy_(source.dequantize()) quantizes them anew"
        )
    return (source.packed() if target.qlayout else source.unpacked()).qweight


def _kind(tensor: GGUFTensor) -> str:
    return f"{quant_type(tensor.qtype).name}{' transposed' * tensor.transposed}"


@handles(OPS, aten.empty_like.default, aten.zeros_like.default)
def _like(func: Any, tensor: GGUFTensor, *, dtype: Any = None, **kwargs: Any) -> GGUFTensor:
    """Of the same type and shape; blocks of zeros are zeros in every type."""
    if dtype is not None and not dtype.is_floating_point:
        raise NoQuantizedForm(f"{dtype} is no floating-point dtype")
    return tensor.with_blocks(func(tensor.qweight, **kwargs), dtype)


@handles(OPS, aten.new_empty.default, aten.new_zeros.default)
def _new(
    func: Any, tensor: GGUFTensor, size: Sequence[int], *, dtype: Any = None, **kwargs: Any
) -> GGUFTensor:
    blocks = func(tensor.qweight, sizes_of_blocks(tensor, size), **kwargs)
    return GGUFTensor(blocks, tensor.qtype, dtype or tensor.dtype)


@handles(OPS, aten.equal.default)
def _equal(func: Any, tensor: Tensor, other: Tensor) -> bool:
    """Whether blocks are the same, for tensors of one type."""
    if (
        isinstance(tensor, GGUFTensor)
        and isinstance(other, GGUFTensor)
        and tensor._context == other._context
    ):
        return bool(func(tensor.qweight, other.qweight))
    raise NoQuantizedForm("not both are of one type")


@handles(FUNCTIONS, Tensor.share_memory_)
def _share_memory_(func: Any, tensor: GGUFTensor) -> GGUFTensor:
    tensor.qweight.share_memory_()
    return tensor


@handles(FUNCTIONS, Tensor.is_shared)
def _is_shared(func: Any, tensor: GGUFTensor) -> bool:
    return tensor.qweight.is_shared()


@handles(FUNCTIONS, Tensor.numpy, Tensor.tolist, Tensor.__array__)
def _values(func: Any, tensor: GGUFTensor, *args: Any, **kwargs: Any) -> Any:
    """PyTorch takes these for no ops."""
    return without_quantized_form(GGUFTensor, func, (tensor, *args), kwargs)
