"""Notices that a model no longer is the one that was captured."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from ..config import config
from ..tensor import GGUFTensor


class ModelWatch:
    """A picture of a model: modules, tensors and where they lie, and what its ops depend on.

    Numbers that change in place need no notice, since a replay reads them where they are. The
    tensors are kept, so that a replay never reads memory that belongs to somebody else.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        tables: list[dict[str, Any]] = []
        tensors: list[Tensor] = []
        for module in modules:
            for table in (module._parameters, module._buffers):
                tensors += [_data(tensor) for tensor in table.values() if tensor is not None]
            tables += [module._parameters, module._buffers, module._modules]
        self._tables = [table for table in tables if table]
        self._were = [dict(table) for table in self._tables]
        self._tensors = tensors
        # Other tensors over the same memory: `parameter.data = ...` takes it from the parameter.
        self._memory = [tensor.detach() for tensor in tensors]
        self._addresses = [*map(Tensor.data_ptr, tensors)]
        self._exact = config.exact

    def unchanged(self) -> bool:
        """Whether the model is still the same; about 0.1 µs a tensor, for every step asks."""
        try:
            # Equal means identical: objects are compared by identity first, and tensors that are
            # not identical have no truth value (or, of one element, are equal in it).
            same = self._tables == self._were
        except RuntimeError:
            return False
        return (
            same
            and [*map(Tensor.data_ptr, self._tensors)] == self._addresses
            and config.exact == self._exact
        )


def _data(tensor: Tensor) -> Tensor:
    return tensor.qweight if isinstance(tensor, GGUFTensor) else tensor
