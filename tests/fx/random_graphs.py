"""Random graphs for the passes: views, in-place ops, random ops, dead branches, duplicates."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from hypothesis import strategies as st
from torch import fx
from torch.nn import functional

aten = torch.ops.aten
SHAPE = (4, 6)

# What makes a new [4, 6] tensor of one; of two.
UNARY: list[Any] = [
    lambda g, x: g.call_function(torch.relu, (x,)),
    lambda g, x: g.call_function(aten.sin.default, (x,)),
    lambda g, x: g.call_function(torch.add, (x,), {"other": 1, "alpha": 2}),
    lambda g, x: g.call_function(torch.add, (x, 1.0)),
    lambda g, x: g.call_function(torch.add, (x, 1)),
    lambda g, x: g.call_function(torch.mul, (x, 0.5)),
    lambda g, x: g.call_function(functional.softmax, (x,), {"dim": -1}),
    lambda g, x: g.call_function(torch.cat, ([x, x],), {"dim": 0}),
    lambda g, x: g.call_method("clone", (x,)),
    lambda g, x: g.call_method("double", (x,)),
    lambda g, x: g.call_function(operator.neg, (x,)),
    lambda g, x: g.call_function(torch.zeros_like, (x,)),
]
BINARY: list[Any] = [
    lambda g, x, y: g.call_function(torch.add, (x, y)),
    lambda g, x, y: g.call_function(torch.add, (), {"input": x, "other": y}),
    lambda g, x, y: g.call_function(aten.mul.Tensor, (x, y)),
    lambda g, x, y: g.call_function(operator.sub, (x, y)),
    lambda g, x, y: g.call_function(torch.maximum, (x, y)),
]
# What may share memory with its input.
VIEWS: list[Any] = [
    lambda g, x: g.call_method("view", (x, -1)),
    lambda g, x: g.call_method("reshape", (x, -1)),
    lambda g, x: g.call_method("t", (x,)),
    lambda g, x: g.call_function(torch.transpose, (x, 0, -1)),
    lambda g, x: g.call_function(operator.getitem, (x, slice(0, 2))),
    lambda g, x: g.call_function(operator.getitem, (g.call_function(torch.split, (x, 2)), 0)),
    lambda g, x: g.call_method("contiguous", (x,)),
    lambda g, x: g.call_method("float", (x,)),
    lambda g, x: g.call_function(aten.slice.Tensor, (x, 0, 1, 3)),
    lambda g, x: g.call_function(aten.alias.default, (x,)),
    lambda g, x: g.call_function(functional.dropout, (x, 0.5, False)),
]
WRITES: list[Any] = [
    lambda g, x: g.call_method("add_", (x, 1)),
    lambda g, x: g.call_method("mul_", (x, 2)),
    lambda g, x: g.call_function(torch.relu_, (x,)),
    lambda g, x: g.call_function(aten.add_.Scalar, (x, 3)),
    lambda g, x: g.call_function(operator.iadd, (x, 1)),
    lambda g, x: g.call_function(functional.relu, (x,), {"inplace": True}),
    lambda g, x: g.call_function(operator.setitem, (x, (slice(None), 0), 7.0)),
    lambda g, x: g.call_function(torch.sin, (x,), {"out": x}),
    lambda g, x: g.call_method("copy_", (x, 0.25)),
]
RANDOM: list[Any] = [
    lambda g, x: g.call_function(torch.rand_like, (x,)),
    lambda g, x: g.call_function(functional.dropout, (x, 0.5, True)),
    lambda g, x: g.call_method("bernoulli_", (x, 0.5)),
    lambda g, x: g.call_function(torch.rand, (2,)),
]


@dataclass
class Case:
    """A graph with what it needs to run."""

    gm: fx.GraphModule
    make_inputs: Callable[[], list[torch.Tensor]]
    notes: list[str] = field(default_factory=list)


@dataclass
class Outcome:
    """All that a caller can see of a run."""

    outputs: list[Any]
    inputs: list[torch.Tensor]
    attributes: dict[str, torch.Tensor]
    random_state: torch.Tensor
    overlaps: list[tuple[int, int]]


def run(case: Case, gm: fx.GraphModule) -> Outcome:
    """Runs a copy of `gm` on fresh inputs under a fixed seed."""
    gm = copy.deepcopy(gm)
    torch.manual_seed(3)
    inputs = case.make_inputs()
    torch.manual_seed(4)
    outputs = list(gm(*inputs))
    seen = [t for t in [*outputs, *inputs] if isinstance(t, torch.Tensor)]
    pointers = [t.untyped_storage().data_ptr() for t in seen]
    pairs = [
        (i, j)
        for i in range(len(seen))
        for j in range(i)
        if pointers[i] == pointers[j] and seen[i].numel() and seen[j].numel()
    ]
    attributes = dict(gm.named_buffers(remove_duplicate=False)) | dict(
        gm.named_parameters(remove_duplicate=False)
    )
    return Outcome(outputs, inputs, attributes, torch.get_rng_state(), pairs)


def same_tensor(a: Any, b: Any) -> bool:
    if not isinstance(a, torch.Tensor):
        return bool(a == b)
    return (
        a.dtype == b.dtype
        and a.shape == b.shape
        and a.stride() == b.stride()
        and torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))
    )


def assert_same(want: Outcome, got: Outcome) -> None:
    """Values, dtypes, strides, mutations, random stream and sharing of memory, to the bit."""
    assert len(want.outputs) == len(got.outputs)
    assert all(map(same_tensor, want.outputs, got.outputs)), "outputs differ"
    assert all(map(same_tensor, want.inputs, got.inputs)), "inputs were changed differently"
    for name, value in got.attributes.items():
        assert same_tensor(want.attributes[name], value), name
    assert torch.equal(want.random_state, got.random_state), "the random stream differs"
    assert want.overlaps == got.overlaps, "other tensors share memory"


class _Root(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.arange(24.0).view(SHAPE) / 7, requires_grad=False)
        self.unused = torch.nn.Parameter(torch.ones(3))
        self.register_buffer("state", torch.full(SHAPE, 0.5))
        self.linear = torch.nn.Linear(6, 6)
        self.act = torch.nn.ReLU(inplace=True)
        self.quiet = torch.nn.Dropout(0.0)
        self.spare = torch.nn.Linear(2, 2)
        self._tensor_constant0 = torch.tensor([1.0, 2, 3, 4, 5, 6])
        self._tensor_constant1 = torch.tensor([1.0, 2, 3, 4, 5, 6])
        self.same_weight = self.weight


def nested_graph() -> fx.GraphModule:
    """relu(x) + relu(x) + 1, with a dead sine."""
    graph = fx.Graph()
    x = graph.placeholder("x")
    a, b = graph.call_function(torch.relu, (x,)), graph.call_function(torch.relu, (x,))
    graph.call_function(torch.sin, (a,))
    total = graph.call_function(torch.add, (a, b))
    graph.output(graph.call_function(torch.add, (total, 1)))
    return fx.GraphModule(torch.nn.Module(), graph)


KINDS = ["unary", "unary", "binary", "view", "view", "write", "random", "attribute", "constant"]
KINDS += ["module", "again", "again", "again"]
STEPS = {"unary": UNARY, "view": VIEWS, "write": WRITES, "random": RANDOM}


def _add_step(graph: fx.Graph, step: tuple[str, int, list[int]], values: list[fx.Node]) -> fx.Node:
    kind, which, operands = step
    x, y = (values[i] for i in operands)
    if kind == "attribute":
        return graph.get_attr(["weight", "state", "same_weight"][which % 3])
    if kind == "constant":
        constant = graph.get_attr(f"_tensor_constant{which % 2}")
        return graph.call_function(torch.mul, (constant, 2))
    if kind == "module":
        return graph.call_module(["linear", "act", "quiet", "inner"][which % 4], (x,))
    if kind == "binary":
        return BINARY[which % len(BINARY)](graph, x, y)
    return STEPS[kind][which % len(STEPS[kind])](graph, x)


class _Evaluator:
    """Runs every node as it is added, to keep only those that work."""

    def __init__(self, root: torch.nn.Module) -> None:
        self.root = copy.deepcopy(root)
        self.values: dict[fx.Node, Any] = {}

    def accepts(self, graph: fx.Graph, new: list[fx.Node]) -> bool:
        try:
            for node in new:
                self.values[node] = self._value(node)
        except (RuntimeError, IndexError, TypeError):
            for node in reversed(new):
                graph.erase_node(node)
            return False
        return True

    def _value(self, node: fx.Node) -> Any:
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: self.values[n])
        if node.op == "placeholder":
            return torch.rand(SHAPE)
        if node.op == "get_attr":
            return operator.attrgetter(str(node.target))(self.root)
        if node.op == "call_module":
            return self.root.get_submodule(str(node.target))(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        return node.target(*args, **kwargs)


@st.composite
def cases(draw: st.DrawFn, length: int = 14) -> Case:
    """A graph of up to `length` steps, often repeating an earlier step."""
    root = _Root()
    root.inner = nested_graph()
    graph = fx.Graph()
    inputs = [graph.placeholder(f"x{i}") for i in range(draw(st.integers(1, 3)))]
    values = list(inputs)
    evaluator = _Evaluator(root)
    evaluator.accepts(graph, inputs)
    steps: list[tuple[str, int, list[int]]] = []
    for _ in range(draw(st.integers(1, length))):
        kind = draw(st.sampled_from(KINDS))
        if kind == "again" and steps:
            step = draw(st.sampled_from(steps))
        else:
            operands = [draw(st.integers(0, len(values) - 1)) for _ in range(2)]
            step = ("unary" if kind == "again" else kind, draw(st.integers(0, 99)), operands)
        before = len(graph.nodes)
        made = _add_step(graph, step, values)
        new = list(graph.nodes)[before:]
        if evaluator.accepts(graph, new):
            steps.append(step)
            if isinstance(evaluator.values[made], torch.Tensor):
                values.append(made)
    count = draw(st.integers(1, 3))
    outputs = [values[draw(st.integers(0, len(values) - 1))] for _ in range(count)]
    graph.output(tuple(outputs))
    gm = fx.GraphModule(root, graph)
    shared = draw(st.booleans())

    def make_inputs() -> list[torch.Tensor]:
        base = torch.randn(len(inputs), *SHAPE)
        if shared:  # every input a view of the same memory
            return [base[0] for _ in inputs]
        return list(base.unbind())

    return Case(gm, make_inputs)
