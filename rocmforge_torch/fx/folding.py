"""Vectors that follow from weights alone, such as the 1 + w of Gemma's norms, are computed once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from rocmforge_torch.fx.memory import Memory
from rocmforge_torch.fx.static_inputs import Arrange, add_input, copy_with_static_inputs

LARGEST = 1 << 16  # elements, of what is kept beside the weights


def fold_static_inputs(
    gm: fx.GraphModule, example_inputs: Sequence[Any]
) -> tuple[fx.GraphModule, list[Any], Arrange | None]:
    """Vectors that are computed of parameters alone become inputs.

    Args:
        gm: what Dynamo captured; it stays as it is.
        example_inputs: its inputs.

    Returns:
        A graph with more inputs, examples of them, and what makes them of the old ones; or `gm`,
        its inputs and None if there is nothing to fold.
    """
    folded, position, static = copy_with_static_inputs(gm, example_inputs)
    # Buffers may be what a step counts with, which replays of a captured graph would not see.
    weights = {node for node, tensor in static.items() if isinstance(tensor, torch.nn.Parameter)}
    vectors = _vectors(folded.graph, weights)
    if not vectors:
        return gm, list(example_inputs), None
    program, sources = _program(vectors)
    kept = _Kept(program, [position[node] for node in sources])
    examples = list(example_inputs)
    for i, node in enumerate(vectors):
        with folded.graph.inserting_after(folded.graph.find_nodes(op="placeholder")[-1]):
            new = add_input(folded, f"folded_{i}", sources[0], node.meta["val"])
        examples.append(new.meta["val"])
        node.replace_all_uses_with(new)
        folded.graph.erase_node(node)
    folded.recompile()
    return folded, examples, kept


class _Kept:
    """The inputs of a graph, followed by what a program makes of some of them.

    It runs again when one of these is another tensor, or was written to as far as autograd counts
    writes (those through `.data` it does not).
    """

    def __init__(self, program: fx.GraphModule, sources: list[int]) -> None:
        self._program = program
        self._sources = sources
        self._made_of: list[tuple[int, int]] = []
        self._made: Sequence[Tensor] = ()

    def __call__(self, args: Sequence[Any]) -> list[Any]:
        sources = [args[i] for i in self._sources]
        if any(source.is_inference() for source in sources):  # whose writes nobody counts
            return [*args, *self._program(*sources)]
        made_of = [(source.data_ptr(), source._version) for source in sources]
        if made_of != self._made_of:
            with torch.inference_mode(False), torch.no_grad():
                self._made = self._program(*sources)
            self._made_of = made_of
        return [*args, *self._made]


def _vectors(graph: fx.Graph, static: set[fx.Node]) -> list[fx.Node]:
    """New vectors that follow from static inputs, but not those that only others of them read."""
    memory = Memory(graph)
    constant = {node for node in static if memory.group(node) not in memory.written}
    found = []
    for node in graph.nodes:
        read = node.all_input_nodes
        value, behaviour = node.meta.get("val"), memory.behaviours[node]
        is_call = node.op in ("call_function", "call_method")
        if not (is_call and read and constant.issuperset(read) and behaviour.is_functional):
            continue
        if not isinstance(value, Tensor) or not value.is_floating_point():
            continue
        if value.dim() != 1 or value.numel() > LARGEST:
            continue
        constant.add(node)
        # What may be its input seen in another way is no work saved.
        if not behaviour.aliases and memory.group(node) not in memory.escaping | memory.written:
            found.append(node)
    return [node for node in found if not constant.issuperset(node.users)]


def _program(vectors: list[fx.Node]) -> tuple[fx.GraphModule, list[fx.Node]]:
    """What computes the vectors, and the inputs that it takes."""
    graph, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    needed, waiting = set[fx.Node](), list(vectors)
    while waiting:
        node = waiting.pop()
        if node not in needed:
            needed.add(node)
            waiting += node.all_input_nodes
    ordered = sorted(needed)
    sources = [node for node in ordered if node.op == "placeholder"]
    for node in ordered:
        copies[node] = graph.node_copy(node, copies.__getitem__)
        copies[node].meta = {}
    graph.output(tuple(copies[node] for node in vectors))
    return fx.GraphModule({}, graph), sources
