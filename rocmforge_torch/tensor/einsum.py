"""`torch.einsum` over a quantized matrix: equations that are a product with it, whatever the names
and order of the indices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .dispatch import FUNCTIONS, handles
from .gguf_tensor import GGUFTensor, plainly

ELLIPSIS = "..."


@dataclass(frozen=True)
class MatrixProduct:
    """x [..., K] times a matrix.

    Attributes:
        last: the dimension of x that is summed over, counted from the end (-1: the last).
        by_rows: the matrix is [N, K], as opposed to [K, N].
        order: for each dimension of the result that has a name, from the last one backwards, which
            dimension of the product [..., N] it is, counted from the end.
    """

    last: int
    by_rows: bool
    order: tuple[int, ...]


def matrix_product(equation: str, matrix: int) -> MatrixProduct | None:
    """What an equation of two operands computes, if it is x times a matrix.

    Args:
        equation: as `torch.einsum` takes it.
        matrix: which operand is the matrix, 0 or 1; the other is x.

    Returns:
        None if it is something else (another index of x is summed over or repeated, the matrix has
        not one index that is summed over and one that is kept) or "..." does not come first.
    """
    terms, arrow, out = equation.replace(" ", "").partition("->")
    operands = terms.split(",")
    if len(operands) != 2:
        return None
    names, (x, dots) = operands[matrix], _letters(operands[1 - matrix])
    if len(names) != 2 or len(set(names)) != 2 or len(set(x)) != len(x):
        return None
    if arrow:
        result, kept_dots = _letters(out)
    else:  # what stands in one operand only, in the order of the alphabet
        result, kept_dots = "".join(sorted(set(x) ^ set(names))), dots
    summed = [name for name in names if name in x]
    if len(summed) != 1 or len(set(result)) != len(result) or dots != kept_dots:
        return None
    by_rows = names[1] == summed[0]
    # A product has x's other indices in their order, then the matrix's.
    product = x.replace(summed[0], "") + (names[0] if by_rows else names[1])
    if set(product) != set(result):
        return None
    # Positions are counted from the end, as "..." is any number of dimensions: it must come first.
    if dots and not (_begins(operands[1 - matrix]) and (not arrow or _begins(out))):
        return None
    order = tuple(product.index(name) - len(product) for name in reversed(result))
    return MatrixProduct(x.index(summed[0]) - len(x), by_rows, order)


def _letters(term: str) -> tuple[str, bool]:
    return term.replace(ELLIPSIS, ""), ELLIPSIS in term


def _begins(term: str) -> bool:
    return term.startswith(ELLIPSIS)


@handles(FUNCTIONS, torch.einsum)
def _einsum(func: Any, equation: str, *operands: Any) -> Tensor:
    if len(operands) == 1 and isinstance(operands[0], list | tuple):
        operands = tuple(operands[0])
    quantized = [i for i, operand in enumerate(operands) if isinstance(operand, GGUFTensor)]
    if len(quantized) == 1 and len(operands) == 2:
        x, weight = operands[1 - quantized[0]], operands[quantized[0]]
        found = matrix_product(equation, quantized[0]) if weight.dim() == 2 else None
        if found is not None and _fits(x, weight, found):
            return _multiplied(x, weight, found)
    out: Tensor = plainly(func, equation, *operands)
    return out


def _fits(x: Tensor, weight: Tensor, found: MatrixProduct) -> bool:
    """Whether x has the indices and the size; einsum would spread a size of 1."""
    named = len(found.order)  # x has as many: one is summed over, the matrix brings another
    return x.dim() >= named and x.shape[found.last] == weight.shape[1 if found.by_rows else 0]


def _multiplied(x: Tensor, weight: Tensor, found: MatrixProduct) -> Tensor:
    x = x.movedim(found.last, -1)
    out = functional.linear(x, weight) if found.by_rows else torch.matmul(x, weight)
    named = len(found.order)
    if found.order == tuple(range(-1, -named - 1, -1)):
        return out
    spread = out.dim() - named
    return out.permute(*range(spread), *(out.dim() + i for i in reversed(found.order)))
