"""Products and look-ups: what weights are for."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .dispatch import FUNCTIONS, OPS, NoQuantizedForm, handles
from .gguf_tensor import GGUFTensor, plainly

aten = torch.ops.aten
ops = torch.ops.rocmforge


def product(x: Tensor, weight: GGUFTensor, rows_are_outputs: bool, bias: Tensor | None) -> Tensor:
    """x [..., K] times a matrix of blocks, or its transpose, plus bias [N] -> [..., N], x's dtype.

    Args:
        rows_are_outputs: every row of blocks gives one output (what `quant_matmul` computes), as
            opposed to taking one input (`quant_matmul_transposed`).
    """
    if isinstance(x, GGUFTensor):
        raise NoQuantizedForm("two GGUFTensors are multiplied")
    if rows_are_outputs:
        out: Tensor = ops.quant_matmul(x, weight.qweight, weight.qtype, bias, weight.qlayout)
        return out
    out = ops.quant_matmul_transposed(x, weight.unpacked().qweight, weight.qtype)
    return out if bias is None else out + bias.to(out.dtype)


def times(x: Tensor, weight: GGUFTensor, bias: Tensor | None = None) -> Tensor:
    """x [..., K] @ weight [K, N] + bias."""
    return product(x, weight, weight.transposed, bias)


def _in_autocast(*tensors: Tensor | None) -> list[Tensor | None]:
    """The tensors as autocast, which functions are met before, would pass them on."""
    kind = next(t.device.type for t in tensors if t is not None)
    if kind == "meta" or not torch.is_autocast_enabled(kind):
        return list(tensors)
    dtype = torch.get_autocast_dtype(kind)
    return [
        t.to(dtype) if t is not None and t.is_floating_point() and t.dtype != torch.float64 else t
        for t in tensors
    ]


def _is_frozen_matrix(x: object, weight: object) -> bool:
    """Whether x times weight is a product that autograd need not see taken apart."""
    return (
        isinstance(weight, GGUFTensor)
        and weight.dim() == 2
        and not isinstance(x, GGUFTensor)
        and not (weight.requires_grad and torch.is_grad_enabled())
    )


@handles(FUNCTIONS, functional.linear)
def _linear(func: Any, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    if not _is_frozen_matrix(input, weight):
        out: Tensor = plainly(func, input, weight, bias)
        return out
    assert isinstance(weight, GGUFTensor)
    x, bias = _in_autocast(input, bias)
    assert x is not None
    return product(x, weight, not weight.transposed, bias)


@handles(FUNCTIONS, torch.matmul, Tensor.matmul, Tensor.__matmul__)
def _matmul(func: Any, input: Tensor, other: Tensor) -> Tensor:
    if not _is_frozen_matrix(input, other):
        out: Tensor = plainly(func, input, other)
        return out
    assert isinstance(other, GGUFTensor)
    (x,) = _in_autocast(input)
    assert x is not None
    return times(x, other)


@handles(OPS, aten.linear.default)
def _linear_op(func: Any, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    out = aten.matmul(input, weight.t())
    return out if bias is None else out + bias


@handles(OPS, aten.mm.default)
def _mm(func: Any, input: Tensor, mat2: Tensor) -> Tensor:
    """Whichever of the two is quantized; a matrix on the left is one on the right, transposed."""
    if isinstance(mat2, GGUFTensor):
        return times(input, mat2)
    assert isinstance(input, GGUFTensor)
    return product(mat2.t(), input, not input.transposed, None).t()


@handles(OPS, aten.mv.default)
def _mv(func: Any, input: Tensor, vec: Tensor) -> Tensor:
    if not isinstance(input, GGUFTensor):
        raise NoQuantizedForm("the vector is a GGUFTensor")
    return product(vec, input, not input.transposed, None)


@handles(OPS, aten.addmm.default, aten.addmv.default)
def _addmm(
    func: Any, bias: Tensor, input: Tensor, other: Tensor, *, beta: float = 1, alpha: float = 1
) -> Tensor:
    if isinstance(bias, GGUFTensor):
        raise NoQuantizedForm("the bias is a GGUFTensor")
    if beta == alpha == 1 and isinstance(other, GGUFTensor) and bias.shape == other.shape[1:]:
        return times(input, other, bias)
    out = aten.mm(input, other) if func is aten.addmm.default else aten.mv(input, other)
    return alpha * out if beta == 0 else beta * bias + alpha * out


@handles(OPS, aten.bmm.default)
def _bmm(func: Any, input: Tensor, mat2: Tensor) -> Tensor:
    if not isinstance(mat2, GGUFTensor):
        assert isinstance(input, GGUFTensor)
        return _bmm(func, mat2.mT, input.mT).mT
    matrices: Any = mat2.unbind()
    if mat2.qweight.stride(0) == 0 and matrices:
        return times(input, matrices[0])  # matmul spreads one matrix over a batch
    return torch.stack([times(x, m) for x, m in zip(input.unbind(), matrices, strict=True)])


@handles(OPS, aten.baddbmm.default)
def _baddbmm(
    func: Any, bias: Tensor, batch1: Tensor, batch2: Tensor, *, beta: float = 1, alpha: float = 1
) -> Tensor:
    out = alpha * aten.bmm(batch1, batch2)
    return out if beta == 0 else beta * bias + out


@handles(FUNCTIONS, functional.embedding)
def _embedding(
    func: Any,
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    *args: Any,
    **kwargs: Any,
) -> Tensor:
    by_rows = isinstance(weight, GGUFTensor) and not weight.transposed
    if by_rows and max_norm is None and _is_frozen_matrix(input, weight):
        return _embedding_op(func, weight, input)
    out: Tensor = plainly(func, input, weight, padding_idx, max_norm, *args, **kwargs)
    return out


@handles(OPS, aten.embedding.default)
def _embedding_op(func: Any, weight: Tensor, indices: Tensor, *gradient: Any) -> Tensor:
    """The arguments `gradient` say how to add up the weight's gradient, which autograd does."""
    if not isinstance(weight, GGUFTensor) or weight.transposed:
        raise NoQuantizedForm("look-ups need rows of blocks")
    if weight.qlayout:
        raise NotImplementedError(
            "embedding takes rows, which a packed GGUFTensor has not; call .unpacked() first"
        )
    rows: Tensor = ops.quant_embedding(indices, weight.qweight, weight.qtype, weight.dtype)
    return rows
