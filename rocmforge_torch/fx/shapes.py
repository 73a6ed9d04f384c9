"""Shapes, strides and storages of every node, by running the graph on fake tensors."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.fx.node import map_arg
from torch.utils._pytree import tree_leaves, tree_map_only


def annotate(gm: fx.GraphModule, example_inputs: Sequence[Any]) -> None:
    """Sets `node.meta["val"]` of every node to a fake tensor (or number) like its result.

    Runs nothing on a device and changes no input. Inputs that are fake already keep their mode.
    """
    modes = [t.fake_mode for t in example_inputs if isinstance(t, FakeTensor)]
    mode = modes[0] if modes else FakeTensorMode(allow_non_fake_inputs=True, shape_env=ShapeEnv())
    # The graph may change the shape of an input in place: not that of the example.
    with mode, torch.no_grad():
        inputs = [_snapshot(_fake(mode, value)) for value in example_inputs]
    _Annotator(gm, mode).run(*inputs)


def complete(gm: fx.GraphModule) -> None:
    """Sets `node.meta["val"]` of the nodes that have none, from those of their inputs.

    For graphs whose placeholders have one, as AOTAutograd's do. What nodes have stays: symbols of
    sizes that depend on data would not come out the same twice.
    """
    values = [n.meta["val"] for n in gm.graph.nodes if "val" in n.meta]
    modes = [v.fake_mode for v in tree_leaves(values) if isinstance(v, FakeTensor)]
    mode = modes[0] if modes else FakeTensorMode(allow_non_fake_inputs=True)
    interpreter = fx.Interpreter(gm)
    for node in gm.graph.nodes:
        if "val" in node.meta or node.op == "output":
            continue
        args, kwargs = map_arg((node.args, node.kwargs), lambda n: n.meta["val"])
        with mode, torch.no_grad():
            value = _fake(mode, getattr(interpreter, node.op)(node.target, args, kwargs))
        node.meta["val"] = _snapshot(value)


class _Annotator(fx.Interpreter):
    def __init__(self, gm: fx.GraphModule, mode: FakeTensorMode) -> None:
        super().__init__(gm)
        self._mode = mode

    def run_node(self, n: fx.Node) -> Any:
        with self._mode, torch.no_grad():
            value = super().run_node(n)
        # A later node may change the shape of this very tensor in place.
        n.meta["val"] = _snapshot(value)
        return value

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        return _fake(self._mode, super().get_attr(target, args, kwargs))

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        module = self.fetch_attr(target)
        # In training a module changes its statistics: those of its fakes here.
        named = [*module.named_parameters(), *module.named_buffers()]
        fakes = {name: _fake(self._mode, tensor) for name, tensor in named}
        return torch.func.functional_call(module, fakes, args, kwargs)


def _fake(mode: FakeTensorMode, value: Any) -> Any:
    if isinstance(value, torch.Tensor) and not isinstance(value, FakeTensor):
        return mode.from_tensor(value, static_shapes=True)
    return value


def _snapshot(value: Any) -> Any:
    return tree_map_only(torch.Tensor, torch.Tensor.detach, value)


def place_of(node: fx.Node) -> Hashable | None:
    """Equal for nodes that are the same view of the same memory; None where that is unknown."""
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor) or value.layout != torch.strided:
        return None
    if value.is_conj() or value.is_neg():
        return None
    if torch._C._functorch.is_functorch_wrapped_tensor(value):  # inside vmap: it has no storage
        return None
    where = (repr(value.storage_offset()), repr(tuple(value.shape)), repr(value.stride()))
    return value.untyped_storage()._cdata, value.dtype, value.device, where
