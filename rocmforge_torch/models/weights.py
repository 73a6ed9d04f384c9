"""The tensors of a file, handed out by name, once each, with their shapes checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..gguf import GGUFError
from ..gguf.errors import quote
from ..nn import QuantEmbedding, QuantLinear
from ..tensor import GGUFTensor


class Weights:
    """What modules are built from. Nothing is copied, except that vectors become float32."""

    def __init__(self, tensors: Mapping[str, Tensor], source: str = "") -> None:
        self._tensors = tensors
        self._source = source
        self._used: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def error(self, name: str, problem: str) -> GGUFError:
        return GGUFError(problem, source=self._source, subject=f"tensor {quote(name)}")

    def take(self, name: str, shape: Sequence[int | None]) -> Tensor:
        """The tensor, its shape checked; None stands for any size.

        Raises:
            GGUFError: the tensor is missing or has another shape.
        """
        if name not in self._tensors:
            raise self.error(name, "is missing, the model needs it")
        self._used.add(name)
        tensor = self._tensors[name]
        same = tensor.dim() == len(shape)
        if not same or any(b not in (None, a) for a, b in zip(tensor.shape, shape, strict=True)):
            needed = ["any" if size is None else size for size in shape]
            raise self.error(name, f"must have shape {needed}, it has {list(tensor.shape)}")
        return tensor

    def linear(self, name: str, out_features: int, in_features: int) -> QuantLinear:
        """`NAME.weight` [out_features, in_features], with `NAME.bias` if the file has one."""
        weight = self.take(f"{name}.weight", [out_features, in_features])
        try:
            return QuantLinear.from_weight(weight, self.optional(f"{name}.bias", [out_features]))
        except ValueError as failure:
            raise self.error(f"{name}.weight", str(failure)) from None

    def embedding(self, name: str, dim: int, dtype: torch.dtype) -> QuantEmbedding:
        """`NAME.weight` [any, dim], whose rows are given out in `dtype`."""
        weight = self.take(f"{name}.weight", [None, dim])
        try:
            return QuantEmbedding.from_weight(weight, dtype)
        except ValueError as failure:
            raise self.error(f"{name}.weight", str(failure)) from None

    def vector(self, name: str, shape: Sequence[int]) -> Tensor:
        """A small tensor in float32."""
        tensor = self.take(name, shape)
        if isinstance(tensor, GGUFTensor):
            return tensor.dequantize(torch.float32)
        return tensor.to(torch.float32)

    def optional(self, name: str, shape: Sequence[int]) -> Tensor | None:
        """As `vector`, or None if the file has no such tensor."""
        return self.vector(name, shape) if name in self._tensors else None

    def finish(self, ignored: Sequence[str] = ()) -> None:
        """Refuse a file that holds tensors nobody took: its model is not the one that was built.

        Raises:
            GGUFError: a tensor is left over whose name ends in none of `ignored`.
        """
        for name in self._tensors:
            if name not in self._used and not name.endswith(tuple(ignored)):
                raise self.error(name, "is no part of the model that the metadata describes")
