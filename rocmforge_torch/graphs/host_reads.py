"""Finds what no graph can hold before one is captured.

A capture that fails cannot be undone fully: PyTorch's random numbers on that GPU may refuse to work
for the rest of the process. So an eager step is looked at first.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

MASKS = (torch.bool, torch.uint8)


class RefuseHostReads(TorchDispatchMode):
    """Inside, an operator raises RuntimeError if the host would have to wait for its result."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if _reads_values(func, args):
            raise RuntimeError(f"{func} needs values on the host")
        out = func(*args, **(kwargs or {}))
        from_gpu = any(_on(leaf, "cuda") for leaf in tree_leaves((args, kwargs)))
        if from_gpu and any(_on(leaf, "cpu") for leaf in tree_leaves(out)):
            raise RuntimeError(f"{func} copies to the host")
        return out


def _reads_values(func: Any, args: Any) -> bool:
    if func in (torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default):
        return any(index is not None and index.dtype in MASKS for index in args[1])
    reading = torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape
    return any(tag in func.tags for tag in reading)


def _on(value: Any, kind: str) -> bool:
    return isinstance(value, Tensor) and value.device.type == kind
