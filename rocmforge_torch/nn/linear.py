"""`QuantLinear`: a linear layer whose weight stays in GGUF blocks."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .. import ops  # noqa: F401  (registers the operators)
from ..quant_types import quant_type, row_elements
from ..tensor import GGUFTensor
from .blocks import as_blocks

if TYPE_CHECKING:
    from .normed_input import Normed

quant_matmul = torch.ops.rocmforge.quant_matmul.default
pack_weight = torch.ops.rocmforge.pack_weight.default
unpack_weight = torch.ops.rocmforge.unpack_weight.default


class QuantLinear(nn.Module):
    """y = x W^T + b, with W in GGUF blocks.

    Plain float weights are blocks of one element, so one module serves every type.

    The packed layout (1) is the one that products on a GPU are fastest in. It stays inside: a
    state_dict always holds the blocks as the file has them (a copy, if they are packed), loading
    one packs them again, and a module that leaves the GPU is unpacked.

    Attributes:
        qweight: uint8 [out_features, row_bytes], a buffer.
        qtype: the GGML type number.
        layout: 0: the blocks are as the file has them; 1: as `pack_weight` arranges them.
        bias: float [out_features], a buffer, or None.
    """

    qweight: Tensor
    bias: Tensor | None

    def __init__(
        self, qweight: Tensor, qtype: int, bias: Tensor | None = None, layout: int = 0
    ) -> None:
        super().__init__()
        self.qtype = qtype
        self.layout = layout
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
        layout = weight.qlayout if isinstance(weight, GGUFTensor) else 0
        return cls(*as_blocks(weight), bias, layout)

    def pack_(self) -> QuantLinear:
        """Change to the packed layout, where there is one; returns itself."""
        if self.layout == 0 and quant_type(self.qtype).is_quantized:
            self.qweight = pack_weight(self.qweight, self.qtype)
            self.layout = 1
        return self

    @property
    def weight(self) -> GGUFTensor:
        """The weight as a tensor [out_features, in_features], its blocks shared with `qweight`."""
        return GGUFTensor(self.qweight, self.qtype, layout=self.layout)

    def forward(self, x: Tensor | Normed) -> Tensor:
        """x [..., in_features] -> [..., out_features], in x's dtype."""
        if not isinstance(x, Tensor):
            return x.multiply(self, "none")
        buffers = self._buffers  # faster than the attributes, and this is the hot path
        return quant_matmul(x, buffers["qweight"], self.qtype, buffers["bias"], self.layout)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> QuantLinear:
        super()._apply(fn, recurse)
        if self.layout == 1 and self.qweight.device.type == "cpu":
            self.qweight = unpack_weight(self.qweight, self.qtype)
            self.layout = 0
        return self

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.layout == 1:
            destination[f"{prefix}qweight"] = unpack_weight(self.qweight, self.qtype)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        found = state_dict.get(f"{prefix}qweight")
        if self.layout == 1 and found is not None and found.shape == self.qweight.shape:
            packed = pack_weight(found.to(self.qweight.device), self.qtype)
            state_dict = {**state_dict, f"{prefix}qweight": packed}
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"type={quant_type(self.qtype).name}, bias={self.bias is not None}"
            f"{', packed' if self.layout else ''}"
        )
