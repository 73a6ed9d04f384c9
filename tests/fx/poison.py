"""Executes a planned graph and destroys every byte of its arena that nobody will read again."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from rocmforge_torch.fx.arena import arena

ADDRESSES = (torch.ops.aten.view.dtype, torch.ops.aten.as_strided.default)


class PoisoningInterpreter(fx.Interpreter):
    """Knows nothing of the plan: after each node, what no value that is still to be used covers is
    filled with 0xFF (NaN, -1). Views that only say where a node shall write do not count."""

    def __init__(self, gm: fx.GraphModule) -> None:
        super().__init__(gm)
        self._addresses: set[fx.Node] = set()
        self._arenas: list[Tensor] = []

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.target is arena:
            self._arenas.append(value)
            self._addresses.add(n)
            value.fill_(0xFF)
        elif n.target in ADDRESSES and self._addresses & set(n.all_input_nodes):
            self._addresses.add(n)
        for memory in self._arenas:
            self._poison(memory, n, value)
        return value

    def _poison(self, memory: Tensor, node: fx.Node, value: Any) -> None:
        live = torch.zeros(memory.numel(), dtype=torch.bool)
        ended = set(self.user_to_last_uses.get(node, ()))
        held = [v for n, v in self.env.items() if n not in self._addresses and n not in ended]
        if node not in self._addresses:
            held.append(value)
        for tensor in _tensors(held):
            if tensor.untyped_storage().data_ptr() == memory.untyped_storage().data_ptr():
                start = tensor.data_ptr() - memory.data_ptr()
                extent = sum(
                    (n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True)
                )
                live[start : start + (extent + 1) * tensor.element_size()] = True
        memory[~live] = 0xFF


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value] if value.numel() else []
    if isinstance(value, (list, tuple)):
        return [t for v in value for t in _tensors(v)]
    return []
