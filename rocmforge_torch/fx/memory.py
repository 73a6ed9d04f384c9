"""Which nodes of a graph may share memory, and what is written, kept and handed out."""

from __future__ import annotations

import torch
from torch import fx

from rocmforge_torch.fx.attributes import attribute_of
from rocmforge_torch.fx.behaviour import Behaviour, behaviour_of


class Memory:
    """Groups of nodes that may share memory, by the behaviours of all nodes of a graph.

    Two nodes of different groups certainly share none, with one exception: the caller may pass
    inputs that overlap each other or the module's own tensors, which `outside` accounts for.
    """

    def __init__(self, graph: fx.Graph) -> None:
        self.behaviours: dict[fx.Node, Behaviour] = {n: behaviour_of(n) for n in graph.nodes}
        self._parent: dict[fx.Node, fx.Node] = {n: n for n in graph.nodes}
        attributes: dict[int, fx.Node] = {}
        for node, behaviour in self.behaviours.items():
            for alias in behaviour.aliases:
                self._join(node, alias)
            if node.op == "get_attr":
                self._join(node, attributes.setdefault(_storage_key(node), node))
        self.written = {self.group(n) for b in self.behaviours.values() for n in b.writes}
        # An in-place op returns its very input: what may be the same tensor changes shape with it.
        reshaped = {self.group(n) for b in self.behaviours.values() for n in b.reshapes}
        self.reshaped = {n for n in graph.nodes if self.group(n) in reshaped}
        self.escaping = {self.group(n) for n in _outputs(graph)}
        outside = [n for n in graph.nodes if n.op in ("placeholder", "get_attr")]
        self.outside = {self.group(n) for n in outside}

    def group(self, node: fx.Node) -> fx.Node:
        """The node that stands for everything `node` may share memory with."""
        root = node
        while self._parent[root] is not root:
            root = self._parent[root]
        while self._parent[node] is not root:
            self._parent[node], node = root, self._parent[node]
        return root

    def add(self, node: fx.Node) -> None:
        """Takes note of a node that was inserted."""
        self._parent[node] = node
        self.behaviours[node] = behaviour_of(node)
        for alias in self.behaviours[node].aliases:
            self.merge(alias, node)
        self.written |= {self.group(n) for n in self.behaviours[node].writes}

    def merge(self, kept: fx.Node, replaced: fx.Node) -> None:
        """Takes note that `kept` is used wherever `replaced` was."""
        before = {self.group(kept), self.group(replaced)}
        self._join(replaced, kept)
        for groups in (self.written, self.escaping, self.outside):
            if groups & before:
                groups -= before
                groups.add(self.group(kept))

    def _join(self, a: fx.Node, b: fx.Node) -> None:
        self._parent[self.group(a)] = self.group(b)


class Versions:
    """Counts the writes to each group on a walk through the graph in order."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._of_group: dict[fx.Node, int] = {}
        self._outside = 0
        self._barriers = 0

    def of(self, node: fx.Node) -> tuple[int, int]:
        """Differs between two moments if the node's memory may have been written in between."""
        group = self._memory.group(node)
        outside = self._outside if group in self._memory.outside else 0
        return self._barriers, self._of_group.get(group, 0) + outside

    def step(self, node: fx.Node) -> None:
        """Takes note of what `node` writes."""
        behaviour = self._memory.behaviours[node]
        if behaviour.is_opaque:
            self._barriers += 1
        for written in behaviour.writes | behaviour.reshapes:
            group = self._memory.group(written)
            if group in self._memory.outside:
                self._outside += 1
            else:
                self._of_group[group] = self._of_group.get(group, 0) + 1


def _storage_key(node: fx.Node) -> int:
    value = attribute_of(node)
    if isinstance(value, torch.Tensor) and value.layout == torch.strided:
        return id(value) if type(value) not in _PLAIN else value.untyped_storage()._cdata
    return id(value)


_PLAIN = (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer)


def _outputs(graph: fx.Graph) -> list[fx.Node]:
    return [n for node in graph.nodes if node.op == "output" for n in node.all_input_nodes]
