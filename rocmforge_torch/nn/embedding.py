"""`QuantEmbedding`: token embeddings whose table stays in GGUF blocks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .. import ops  # noqa: F401  (registers the operators)
from ..quant_types import quant_type, row_elements
from ..tensor import GGUFTensor
from .blocks import as_blocks

quant_embedding = torch.ops.rocmforge.quant_embedding.default
quant_matmul = torch.ops.rocmforge.quant_matmul.default


class QuantEmbedding(nn.Module):
    """Rows of a table of GGUF blocks, dequantized when they are looked up.

    The blocks are always as the file has them: the packed layout of `QuantLinear` has no rows.

    Attributes:
        qweight: uint8 [num_embeddings, row_bytes], a buffer.
        qtype: the GGML type number.
        dtype: the dtype of the looked-up rows.
    """

    qweight: Tensor

    def __init__(self, qweight: Tensor, qtype: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.qtype = qtype
        self.dtype = dtype
        self.num_embeddings = qweight.shape[0]
        self.embedding_dim = row_elements(qtype, qweight.shape[-1])
        self.register_buffer("qweight", qweight)

    @classmethod
    def from_weight(cls, weight: Tensor, dtype: torch.dtype = torch.float32) -> QuantEmbedding:
        """Wrap a `GGUFTensor` or a plain float tensor [num_embeddings, embedding_dim]; no copy.

        Raises:
            ValueError: the weight has no two dimensions, a dtype that is no float, or is packed.
        """
        if isinstance(weight, GGUFTensor) and weight.qlayout:
            raise ValueError("an embedding looks up rows, which a packed weight has not")
        return cls(*as_blocks(weight), dtype)

    @property
    def weight(self) -> GGUFTensor:
        """The table as a tensor [num_embeddings, embedding_dim], sharing `qweight`."""
        return GGUFTensor(self.qweight, self.qtype, self.dtype)

    def forward(self, ids: Tensor) -> Tensor:
        """ids int [...] -> [..., embedding_dim]."""
        return quant_embedding(ids, self.qweight, self.qtype, self.dtype)

    def attend(self, x: Tensor) -> Tensor:
        """x [..., embedding_dim] times the table transposed: the output layer of a tied model."""
        return quant_matmul(x, self.qweight, self.qtype)

    def extra_repr(self) -> str:
        return (
            f"num_embeddings={self.num_embeddings}, embedding_dim={self.embedding_dim}, "
            f"type={quant_type(self.qtype).name}"
        )
