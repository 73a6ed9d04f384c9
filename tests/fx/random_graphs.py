"""Random graphs for the passes: views, in-place ops, random ops, control flow, nested graphs,
quantized products, dead branches, duplicates."""

from __future__ import annotations

import copy
import operator
from typing import Any

import torch
from hypothesis import strategies as st
from torch import fx
from torch.nn import functional

from rocmforge_torch import ops  # noqa: F401  (registers the operators)
from tests.fx.outcomes import Case

aten, rocmforge = torch.ops.aten, torch.ops.rocmforge
SHAPE = (4, 32)
Q4_0, Q8_0 = 2, 8

# What makes a new [4, 32] tensor of one; of two.
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
    lambda g, x: g.call_function(aten.mul.Tensor, (x, 0.5)),
    lambda g, x: g.call_function(aten.clone.default, (x,)),
    lambda g, x: g.call_function(aten._to_copy.default, (x,), {"dtype": torch.float16}),
    lambda g, x: g.call_function(aten._to_copy.default, (x,), {"dtype": torch.float32}),
    lambda g, x: g.call_function(aten._softmax.default, (x, -1, False)),
    lambda g, x: g.call_function(aten.cat.default, ([x, x], -1)),
    lambda g, x: g.call_function(aten.zeros_like.default, (x,)),
    lambda g, x: _part(g, g.call_function(aten.topk.default, (x, 3)), 0),
    lambda g, x: _part(g, g.call_function(aten.topk.default, (x, 2)), -1),
    lambda g, x: _part(g, g.call_function(aten.max.dim, (x, 0)), 0),
]
BINARY: list[Any] = [
    lambda g, x, y: g.call_function(torch.add, (x, y)),
    lambda g, x, y: g.call_function(torch.add, (), {"input": x, "other": y}),
    lambda g, x, y: g.call_function(aten.mul.Tensor, (x, y)),
    lambda g, x, y: g.call_function(aten.add.Tensor, (x, y), {"alpha": 2}),
    lambda g, x, y: g.call_function(operator.sub, (x, y)),
    lambda g, x, y: g.call_function(torch.maximum, (x, y)),
    lambda g, x, y: g.call_function(torch.where, (g.call_function(operator.gt, (x, 0)), x, y)),
    lambda g, x, y: g.call_function(aten.mm.default, (x, g.call_method("t", (y,)))),
]
# The ops of the contract, over the attributes of _Root.
CONTRACT: list[Any] = [
    lambda g, x, y: g.call_function(rocmforge.quant_matmul, (x, g.get_attr("q"), Q4_0)),
    lambda g, x, y: g.call_function(rocmforge.quant_matmul, (x, g.get_attr("k"), Q4_0)),
    lambda g, x, y: g.call_function(rocmforge.quant_matmul.default, (x, g.get_attr("v"), Q4_0)),
    lambda g, x, y: g.call_function(rocmforge.quant_matmul, (x, g.get_attr("o"), Q8_0)),
    lambda g, x, y: g.call_function(
        rocmforge.quant_matmul, (x, g.get_attr("q"), Q4_0), {"bias": g.get_attr("bias")}
    ),
    lambda g, x, y: g.call_function(
        rocmforge.quant_matmul, (x, g.get_attr("v"), Q4_0, g.get_attr("norm"))
    ),
    lambda g, x, y: g.call_function(
        rocmforge.quant_matmul_gated, (x, g.get_attr("gate_up"), Q4_0, "silu")
    ),
    lambda g, x, y: g.call_function(rocmforge.rms_norm, (x, g.get_attr("norm"), 1e-6)),
    lambda g, x, y: g.call_function(rocmforge.rms_norm.default, (x, None, 1e-6)),
    lambda g, x, y: g.call_function(rocmforge.silu_mul, (x, y)),
    lambda g, x, y: g.call_function(rocmforge.gelu_mul.default, (x, y)),
    lambda g, x, y: _part(
        g, g.call_function(rocmforge.add_rms_norm, (x, y, g.get_attr("norm"), 1e-6)), 0
    ),
    lambda g, x, y: _part(
        g, g.call_function(rocmforge.add_rms_norm.default, (x, y, None, 1e-6)), 1
    ),
    lambda g, x, y: g.call_function(rocmforge.accumulate_, (x, y, g.get_attr("offset"))),
    lambda g, x, y: g.call_function(
        rocmforge.kv_cache_write_,
        (
            g.get_attr("k_cache"),
            g.get_attr("v_cache"),
            g.call_method("reshape", (x, (4, 1, 32))),
            g.call_method("reshape", (y, (4, 1, 32))),
            g.get_attr("slots"),
        ),
    ),
    lambda g, x, y: g.call_function(
        rocmforge.attention,
        (
            g.call_method("reshape", (x, (1, 4, 1, 32))),
            g.get_attr("k_cache"),
            g.get_attr("v_cache"),
            g.get_attr("seq_lens"),
        ),
    ),
]
# What may share memory with its input.
VIEWS: list[Any] = [
    lambda g, x: g.call_method("view", (x, -1)),
    lambda g, x: g.call_method("view", (x, 4, 32)),
    lambda g, x: g.call_method("reshape", (x, -1)),
    lambda g, x: g.call_method("t", (x,)),
    lambda g, x: g.call_function(torch.transpose, (x, 0, -1)),
    lambda g, x: g.call_function(operator.getitem, (x, slice(0, 2))),
    lambda g, x: _part(g, g.call_function(torch.split, (x, 2)), 0),
    lambda g, x: _part(g, g.call_function(aten.split_with_sizes.default, (x, [1, 3])), 1),
    lambda g, x: g.call_method("contiguous", (x,)),
    lambda g, x: g.call_method("float", (x,)),
    lambda g, x: g.call_function(aten.slice.Tensor, (x, 0, 1, 3)),
    lambda g, x: g.call_function(aten.alias.default, (x,)),
    lambda g, x: g.call_function(aten.as_strided.default, (x, [2, 4], [1, 2], 1)),
    lambda g, x: g.call_function(aten.t.default, (x,)),
    lambda g, x: g.call_function(aten.view.dtype, (x, torch.int32)),
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
    lambda g, x: g.call_function(aten.sin.out, (x,), {"out": x}),
    lambda g, x: g.call_method("copy_", (x, 0.25)),
    lambda g, x: g.call_method("t_", (x,)),
    lambda g, x: g.call_method("unsqueeze_", (x, 0)),
]
RANDOM: list[Any] = [
    lambda g, x: g.call_function(torch.rand_like, (x,)),
    lambda g, x: g.call_function(functional.dropout, (x, 0.5, True)),
    lambda g, x: g.call_method("bernoulli_", (x, 0.5)),
    lambda g, x: g.call_function(torch.rand, (2,)),
    lambda g, x: g.call_function(aten.bernoulli.p, (x, 0.5)),
]
ATTRIBUTES = ["weight", "state", "same_weight", "k_cache"]
MODULES = ["linear", "act", "off", "quiet", "drop", "stack", "inner", "writer", "returner"]
BRANCHES = ["relus", "sines", "writer", "drawer", "returner"]


def _part(graph: fx.Graph, node: fx.Node, index: int) -> fx.Node:
    return graph.call_function(operator.getitem, (node, index))


class _Root(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        numbers = torch.Generator().manual_seed(1)

        def blocks(rows: int, qtype: int) -> torch.Tensor:
            return rocmforge.quantize(torch.randn(rows, 32, generator=numbers), qtype)

        self.weight = torch.nn.Parameter(torch.arange(128.0).view(SHAPE) / 40, requires_grad=False)
        self.unused = torch.nn.Parameter(torch.ones(3), requires_grad=False)
        self.register_buffer("state", torch.full(SHAPE, 0.5))
        self.linear = torch.nn.Linear(32, 32).requires_grad_(False)
        self.act = torch.nn.ReLU(inplace=True)
        self.off = torch.nn.Dropout(0.0)
        self.quiet = torch.nn.Dropout1d(0.5, inplace=True).eval()
        self.drop = torch.nn.Dropout(0.5)
        self.stack = torch.nn.Sequential(torch.nn.Dropout(0.0), torch.nn.Identity())
        self.spare = torch.nn.Linear(2, 2).requires_grad_(False)
        self._tensor_constant0 = torch.arange(32.0)
        self._tensor_constant1 = torch.arange(32.0)
        self.same_weight = self.weight
        for name, rows, qtype in (
            ("q", 32, Q4_0),
            ("k", 8, Q4_0),
            ("v", 32, Q4_0),
            ("o", 32, Q8_0),
        ):
            self.register_buffer(name, blocks(rows, qtype))
        self.register_buffer("gate_up", blocks(64, Q4_0))
        self.register_buffer("bias", torch.randn(32, generator=numbers))
        self.register_buffer("norm", torch.rand(32, generator=numbers) + 0.5)
        self.register_buffer("k_cache", torch.rand(1, 8, 1, 32, generator=numbers))
        self.register_buffer("v_cache", torch.rand(1, 8, 1, 32, generator=numbers).half())
        self.register_buffer("slots", torch.tensor([1, 7, -1, 0]))
        self.register_buffer("seq_lens", torch.tensor([6], dtype=torch.int32))
        self.register_buffer("offset", torch.tensor(0))
        self.inner = nested_graph()
        for name in ("writer", "returner", *BRANCHES):
            setattr(self, name, _branch(name))


def nested_graph() -> fx.GraphModule:
    """relu(x) + relu(x) + 1, with a dead sine."""
    graph = fx.Graph()
    x = graph.placeholder("x")
    a, b = graph.call_function(torch.relu, (x,)), graph.call_function(torch.relu, (x,))
    graph.call_function(torch.sin, (a,))
    total = graph.call_function(torch.add, (a, b))
    graph.output(graph.call_function(torch.add, (total, 1)))
    return fx.GraphModule(torch.nn.Module(), graph)


def _branch(name: str) -> fx.GraphModule:
    """A graph of one input with one output like it, for control flow and as a sub-module."""
    graph = fx.Graph()
    x = graph.placeholder("x")
    if name == "relus":
        a, b = graph.call_function(aten.relu.default, (x,)), graph.call_function(torch.relu, (x,))
        again = graph.call_function(torch.relu, (x,))
        result = graph.call_function(torch.add, (graph.call_function(torch.add, (a, b)), again))
    elif name == "sines":
        result = graph.call_function(aten.sin.default, (graph.call_function(torch.sin, (x,)),))
    elif name == "writer":
        result = graph.call_function(aten.mul.Tensor, (graph.call_method("add_", (x, 1)), 2))
    elif name == "drawer":
        graph.call_function(torch.rand, (3,))
        result = graph.call_function(torch.rand_like, (x,))
    else:
        result = graph.call_function(aten.alias.default, (x,))
    graph.output(result)
    return fx.GraphModule(torch.nn.Module(), graph)


KINDS = ["unary", "unary", "binary", "view", "view", "write", "random", "attribute", "constant"]
KINDS += ["module", "cond", "contract", "contract", "contract", "again", "again", "again", "again"]
STEPS = {"unary": UNARY, "view": VIEWS, "write": WRITES, "random": RANDOM}


def _add_step(graph: fx.Graph, step: tuple[str, int, list[int]], values: list[fx.Node]) -> fx.Node:
    kind, which, operands = step
    x, y = (values[i] for i in operands)
    if kind == "attribute":
        return graph.get_attr(ATTRIBUTES[which % len(ATTRIBUTES)])
    if kind == "constant":
        constant = graph.get_attr(f"_tensor_constant{which % 2}")
        return graph.call_function(torch.mul, (constant, 2))
    if kind == "module":
        return graph.call_module(MODULES[which % len(MODULES)], (x,))
    if kind == "cond":
        total = graph.call_function(aten.sum.default, (y,))
        condition = graph.call_function(aten.gt.Scalar, (total, 0))
        branches = [
            graph.get_attr(BRANCHES[i % len(BRANCHES)]) for i in (which, which // len(BRANCHES))
        ]
        return graph.call_function(torch.ops.higher_order.cond, (condition, *branches, (x,)))
    if kind == "binary":
        return BINARY[which % len(BINARY)](graph, x, y)
    if kind == "contract":
        return CONTRACT[which % len(CONTRACT)](graph, x, y)
    return STEPS[kind][which % len(STEPS[kind])](graph, x)


class _Evaluator:
    """Runs every node as it is added, to keep only those that work."""

    def __init__(self, root: torch.nn.Module) -> None:
        self.root = copy.deepcopy(root)
        self.values: dict[fx.Node, Any] = {}

    def accepts(self, graph: fx.Graph, new: list[fx.Node]) -> bool:
        try:
            with torch.no_grad():
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
            return torch.rand(2, *SHAPE)[1]
        if node.op == "get_attr":
            return operator.attrgetter(str(node.target))(self.root)
        if node.op == "call_module":
            return self.root.get_submodule(str(node.target))(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        if node.target is torch.ops.higher_order.cond:
            _refuse_unlike(args[1:3], args[3])
        return node.target(*args, **kwargs)


def _refuse_unlike(branches: Any, operands: Any) -> None:
    """Raises RuntimeError where torch.cond would: results of two branches must look the same."""
    about = []
    for branch in branches:
        with torch.random.fork_rng():
            result = copy.deepcopy(branch)(*copy.deepcopy(operands))
        about.append((result.dtype, result.shape, result.stride(), result.storage_offset()))
    if about[0] != about[1]:
        raise RuntimeError("the branches differ")


@st.composite
def cases(draw: st.DrawFn, length: int = 14) -> Case:
    """A graph of up to `length` steps, often repeating an earlier step."""
    root = _Root()
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
