"""Merged products of a graph whose weights are inputs, as Dynamo's are."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch._guards import TracingContext

from rocmforge_torch.fx.products import Constants, merge_products
from rocmforge_torch.fx.stacking import are_one, stack_rows

Arrange = Callable[[Sequence[Any]], list[Any]]


def merge_static_inputs(
    gm: fx.GraphModule, example_inputs: Sequence[Any]
) -> tuple[fx.GraphModule, list[Any], Arrange | None]:
    """`merge_products` over the parameters and buffers among the inputs.

    Args:
        gm: what Dynamo captured; it stays as it is.
        example_inputs: its inputs.

    Returns:
        A graph with other inputs, examples of them, and what makes them of the old ones; or `gm`,
        its inputs and None if there is nothing to merge.
    """
    merged, position, static = copy_with_static_inputs(gm, example_inputs)
    stacks: dict[fx.Node, list[fx.Node]] = {}

    def stack(gm: fx.GraphModule, parts: list[fx.Node]) -> fx.Node:
        first = static[parts[0]]
        shape = (sum(static[part].shape[0] for part in parts), *first.shape[1:])
        node = add_input(gm, f"stacked_{len(stacks)}", parts[0], first, shape)
        stacks[node] = parts
        return node

    merge_products(merged, Constants(static.get, stack))
    if not stacks:
        return gm, list(example_inputs), None
    for part in {part for parts in stacks.values() for part in parts}:
        if not part.users:
            merged.graph.erase_node(part)
    merged.recompile()
    plan: list[int | list[int]] = []
    examples: list[Any] = []
    for node in merged.graph.find_nodes(op="placeholder"):
        parts = stacks.get(node)
        plan.append([position[part] for part in parts] if parts else position[node])
        examples.append(node.meta["val"] if parts else example_inputs[position[node]])

    def arrange(args: Sequence[Any]) -> list[Any]:
        return [args[i] if isinstance(i, int) else stacked([args[j] for j in i]) for i in plan]

    return merged, examples, arrange


def copy_with_static_inputs(
    gm: fx.GraphModule, example_inputs: Sequence[Any]
) -> tuple[fx.GraphModule, dict[fx.Node, int], dict[fx.Node, Tensor]]:
    """A copy to change: where each of its inputs stands, and those that are parameters and buffers,
    whose gradient nobody wants."""
    made = _copy(gm)
    inputs = made.graph.find_nodes(op="placeholder")
    static = {
        node: value
        for node, value in zip(inputs, example_inputs, strict=True)
        if _is_static(node) and type(value) in (Tensor, torch.nn.Parameter) and _is_plain(value)
    }
    return made, {node: i for i, node in enumerate(inputs)}, static


def add_input(
    gm: fx.GraphModule,
    name: str,
    source: fx.Node,
    like: Tensor,
    shape: Sequence[int] | None = None,
) -> fx.Node:
    """A new placeholder, where nodes are inserted, of what is made of static inputs.

    Args:
        gm: the graph.
        name: of the placeholder.
        source: one of the inputs.
        like: a tensor of its dtype and device.
        shape: of it, unless that is `like`'s.
    """
    mode = TracingContext.get().fake_mode
    assert mode is not None, "Dynamo traces with fake tensors"
    node = gm.graph.placeholder(name)
    node.meta["tensor_dict"] = dict(source.meta["tensor_dict"])
    node._dynamo_source = None  # it is nowhere in the program
    with mode:
        node.meta["val"] = torch.empty(
            like.shape if shape is None else shape, dtype=like.dtype, device=like.device
        )
    return node


def _copy(gm: fx.GraphModule) -> fx.GraphModule:
    """A copy that AOTAutograd takes for what Dynamo captured."""
    made = fx.GraphModule(gm, copy.deepcopy(gm.graph))
    made.meta = dict(gm.meta)
    made._param_name_to_source = gm._param_name_to_source
    for old, new in zip(gm.graph.nodes, made.graph.nodes, strict=True):
        if old.op == "placeholder":
            new._dynamo_source = old._dynamo_source
        if "example_value" in old.meta:
            new.meta["val"] = old.meta["example_value"]
    return made


def stacked(parts: list[Tensor]) -> Tensor:
    """The rows of all parts in one tensor, whose memory the parts share from then on.

    The first time the rows are copied, unless they lie one after the other already, and the parts
    become views of the stack, so that there is one copy of them and a later write to a part is
    seen. The next time the parts are found to share it, and nothing is done.
    """
    first = parts[0]
    rows = [part.shape[0] for part in parts]
    if not are_one(parts):
        # Of the kind that the parts are, whatever mode the model runs in.
        with torch.inference_mode(first.is_inference()), torch.no_grad():
            for part, piece in zip(parts, stack_rows(parts).split(rows), strict=True):
                part.data = piece
    return first.as_strided((sum(rows), *first.shape[1:]), first.stride())


def _is_static(node: fx.Node) -> bool:
    return bool(node.meta.get("tensor_dict", {}).get("_dynamo_static_input_type"))


def _is_plain(value: Tensor) -> bool:
    return value.is_contiguous() and not value.requires_grad
