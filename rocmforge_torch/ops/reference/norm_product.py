"""A norm and the product of what it gives."""

from __future__ import annotations

from torch import Tensor

from .norm import add_rms_norm, rms_norm
from .quant_ops import quant_matmul, quant_matmul_gated

UNGATED = "none"  # the act of a plain product


def norm_quant_matmul(
    x: Tensor,
    weight: Tensor | None,
    eps: float,
    qweight: Tensor,
    qtype: int,
    act: str = UNGATED,
    bias: Tensor | None = None,
    layout: int = 0,
    residual: Tensor | None = None,
    x_weight: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    if residual is not None:
        normed, total = add_rms_norm(x, residual, weight, eps, x_weight)
    else:
        total = x.contiguous().clone() if x_weight is None else rms_norm(x, x_weight, eps)
        normed = rms_norm(total, weight, eps)
    if act == UNGATED:
        return quant_matmul(normed, qweight, qtype, bias, layout), total
    return quant_matmul_gated(normed, qweight, qtype, act, bias, layout), total
