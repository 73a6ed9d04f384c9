"""`QuantLinear`: a linear layer whose weight stays in GGUF blocks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .. import ops  # noqa: F401  (registers the operators)
from ..quant_types import quant_type, row_elements
from ..tensor import GGUFTensor
from .blocks import as_blocks

quant_matmul = torch.ops.rocmforge.quant_matmul.default


class QuantLinear(nn.Module):
    """y = x W^T + b, with W in GGUF blocks.

    Plain float weights are blocks of one element, so one module serves every type.

    Attributes:
        qweight: uint8 [out_features, row_bytes], a buffer.
        qtype: the GGML type number.
        bias: float [out_features], a buffer, or None.
    """

    qweight: Tensor
    bias: Tensor | None

    def __init__(self, qweight: Tensor, qtype: int, bias: Tensor | None = None) -> None:
        super().__init__()
        self.qtype = qtype
        self.out_features = qweight.shape[0]
        self.in_features = row_elements(qtype, qweight.shape[-1])
        self.register_buffer("qweight", qweight)
        self.register_buffer("bias", bias)

    @classmethod
    def from_weight(cls, weight: Tensor, bias: Tensor | None = None) -> QuantLinear:
        """Wrap a `GGUFTensor` or a plain float tensor [out_features, in_features]; no copy.

        Raises:
            ValueError: the weight has no two dimensions, or a dtype that is no float.
        """
        return cls(*as_blocks(weight), bias)

    @property
    def weight(self) -> GGUFTensor:
        """The weight as a tensor [out_features, in_features], its blocks shared with `qweight`."""
        return GGUFTensor(self.qweight, self.qtype)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in_features] -> [..., out_features], in x's dtype."""
        buffers = self._buffers  # faster than the attributes, and this is the hot path
        return quant_matmul(x, buffers["qweight"], self.qtype, buffers["bias"])

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"type={quant_type(self.qtype).name}, bias={self.bias is not None}"
        )
