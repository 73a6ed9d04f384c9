"""Blocks between processes: collectives that move bytes and compute nothing.

A reduction has no meaning for blocks and stays an operation without a quantized form. The ops go by
their names, since PyTorch may be built without some, and defines others when they are first used.
"""

from __future__ import annotations

from typing import Any

from torch.utils._pytree import tree_map_only

from .dispatch import OPS, handles
from .gguf_tensor import GGUFTensor


@handles(OPS, "c10d::broadcast_", "c10d::scatter_", "c10d::send", "c10d::recv_")
def _in_place(func: Any, *args: Any, **kwargs: Any) -> Any:
    """Sends or fills the blocks; callers look at the tensors that they gave."""
    args, kwargs = tree_map_only(GGUFTensor, lambda t: t.qweight, (args, kwargs))
    return func(*args, **kwargs)


@handles(
    OPS,
    "_c10d_functional::all_gather_into_tensor",
    "_c10d_functional::broadcast",
    "_c10d_functional::wait_tensor",
    "_c10d_functional::_wrap_tensor_autograd",
)
def _out_of_place(func: Any, tensor: GGUFTensor, *args: Any) -> GGUFTensor:
    return tensor.with_blocks(func(tensor.qweight, *args))
