"""Neighbouring ops become one op of the contract."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from torch.fx.passes.infra.pass_base import PassResult

from rocmforge_torch import ops  # noqa: F401  (registers the operators)
from rocmforge_torch.fx.behaviour import bind
from rocmforge_torch.fx.memory import Memory
from rocmforge_torch.fx.overloads import resolve_overloads

aten, rocmforge = torch.ops.aten, torch.ops.rocmforge
ADDS = (aten.add.Tensor, operator.add, torch.add)
MULS = (aten.mul.Tensor, operator.mul, torch.mul)
SILUS = (aten.silu.default, torch.nn.functional.silu)
GELUS = (aten.gelu.default, torch.nn.functional.gelu)
SPLITS = (aten.split_with_sizes.default, aten.split.Tensor, aten.chunk.default)
GATED = {rocmforge.silu_mul.default: "silu", rocmforge.gelu_mul.default: "gelu"}
ARGUMENTS = "eager_input_vals"  # Inductor's note of what a node was called with

# What stands for the old nodes, new ones inserted; None where the pattern is not there.
Rewrite = Callable[[fx.Node, Memory], dict[fx.Node, fx.Node] | None]


def fuse(gm: fx.GraphModule) -> PassResult:
    """Applies every fusion until none applies.

    A value inside of a fused group that something else reads keeps the group apart, unless the
    fused op returns it too; so does one that is written to. Nodes must have been annotated
    (shapes.annotate). Values may differ in the last bit: a fused op rounds less often.
    """
    resolve_overloads(gm)
    modified = False
    while _apply_one(gm):
        modified = True
    if modified:
        gm.graph.lint()
        gm.recompile()
    return PassResult(gm, modified)


def _apply_one(gm: fx.GraphModule) -> bool:
    memory = Memory(gm.graph)
    for node in gm.graph.nodes:
        for rewrite in REWRITES:
            replaced = rewrite(node, memory)
            if replaced is None:
                continue
            for old, new in replaced.items():
                new.meta.update({k: v for k, v in old.meta.items() if k != ARGUMENTS})
                old.replace_all_uses_with(new)
            for old in reversed(replaced):
                gm.graph.erase_node(old)
            return True
    return False


def add_and_norm(node: fx.Node, memory: Memory) -> dict[fx.Node, fx.Node] | None:
    """rms_norm(a + b) and a + b -> add_rms_norm."""
    if node.target is not rocmforge.rms_norm.default:
        return None
    total, weight, eps = _arguments(node, "x", "weight", "eps")
    if total.target not in ADDS or len(total.args) != 2 or _is_written(total, memory):
        return None
    a, b = total.args
    if not _same_shape_and_dtype(a, b) or not _can_move(weight):
        return None
    with node.graph.inserting_before(total):
        if isinstance(weight, fx.Node) and weight.op == "get_attr":
            weight = node.graph.get_attr(str(weight.target))
        both = node.graph.call_function(rocmforge.add_rms_norm.default, (a, b, weight, eps))
        normed = node.graph.call_function(operator.getitem, (both, 0))
        added = node.graph.call_function(operator.getitem, (both, 1))
    return {total: added, node: normed}


def activate_and_multiply(node: fx.Node, memory: Memory) -> dict[fx.Node, fx.Node] | None:
    """silu(gate) * up, gelu(gate) * up -> silu_mul, gelu_mul."""
    if node.target not in MULS or len(node.args) != 2:
        return None
    for activated, up in (node.args, reversed(node.args)):
        if not isinstance(activated, fx.Node) or not _same_shape_and_dtype(activated, up):
            continue
        fused = _gated_op(activated)
        if fused is None or len(activated.users) != 1 or _is_written(activated, memory):
            continue
        with node.graph.inserting_before(node):
            product = node.graph.call_function(fused, (activated.args[0], up))
        # `activated` is left without a reader for dead code elimination.
        return {node: product}
    return None


def gated_product(node: fx.Node, memory: Memory) -> dict[fx.Node, fx.Node] | None:
    """silu_mul of the two halves of a product -> quant_matmul_gated."""
    act = GATED.get(node.target)  # type: ignore[call-overload]
    if act is None:
        return None
    gate, up = node.args
    halves = _parent_of_halves(gate, up)
    if halves is None or halves.target is not rocmforge.quant_matmul.default:
        return None
    if len(halves.users) != 1 or _is_written(halves, memory):
        return None
    x, qweight, qtype, bias, layout = _arguments(halves, "x", "qweight", "qtype", "bias", "layout")
    arguments = (x, qweight, qtype, act, bias, layout)
    with node.graph.inserting_before(node):
        fused = node.graph.call_function(rocmforge.quant_matmul_gated.default, arguments)
    return {node: fused}


def add_bias(node: fx.Node, memory: Memory) -> dict[fx.Node, fx.Node] | None:
    """quant_matmul(x, w) + bias -> quant_matmul(x, w, bias)."""
    if node.target not in ADDS or len(node.args) != 2:
        return None
    for product, bias in (node.args, reversed(node.args)):
        if not isinstance(product, fx.Node) or not isinstance(bias, fx.Node):
            continue
        if product.target is not rocmforge.quant_matmul.default or len(product.users) != 1:
            continue
        x, qweight, qtype, present, layout = _arguments(
            product, "x", "qweight", "qtype", "bias", "layout"
        )
        if present is not None or _is_written(product, memory) or not _is_bias(bias, product):
            continue
        with node.graph.inserting_before(node):
            fused = node.graph.call_function(
                rocmforge.quant_matmul.default, (x, qweight, qtype, bias, layout)
            )
        return {node: fused}
    return None


REWRITES: tuple[Rewrite, ...] = (add_and_norm, activate_and_multiply, gated_product, add_bias)


def _arguments(node: fx.Node, *names: str) -> tuple[Any, ...]:
    op = node.target
    assert isinstance(op, torch._ops.OpOverload)
    defaults = {a.name: a.default_value for a in op._schema.arguments if a.has_default_value()}
    bound = defaults | (bind(op._schema, node) or {})
    return tuple(bound[name] for name in names)


def _is_written(node: fx.Node, memory: Memory) -> bool:
    return memory.group(node) in memory.written or node in memory.reshaped


def _can_move(weight: Any) -> bool:
    return weight is None or weight.op in ("get_attr", "placeholder")


def _same_shape_and_dtype(a: Any, b: Any) -> bool:
    if not isinstance(a, fx.Node) or not isinstance(b, fx.Node):
        return False
    x, y = a.meta.get("val"), b.meta.get("val")
    if not isinstance(x, torch.Tensor) or not isinstance(y, torch.Tensor):
        return False
    return repr(tuple(x.shape)) == repr(tuple(y.shape)) and x.dtype == y.dtype


def _gated_op(activated: fx.Node) -> Any:
    if activated.target in SILUS and not activated.kwargs.get("inplace", False):
        return rocmforge.silu_mul.default
    if activated.target in GELUS and activated.kwargs.get("approximate") == "tanh":
        return rocmforge.gelu_mul.default
    return None


def _parent_of_halves(gate: Any, up: Any) -> fx.Node | None:
    """The node whose first half along the last dimension is `gate` and whose second is `up`."""
    parts = [n for n in (gate, up) if isinstance(n, fx.Node) and n.target is operator.getitem]
    if len(parts) != 2 or parts[0].args[0] is not parts[1].args[0]:
        return None
    if (parts[0].args[1], parts[1].args[1]) != (0, 1):
        return None
    split = parts[0].args[0]
    assert isinstance(split, fx.Node)
    if split.target not in SPLITS:
        return None
    whole, pieces = split.args[0], split.meta.get("val")
    dim = split.args[2] if len(split.args) > 2 else split.kwargs.get("dim", 0)
    if not isinstance(whole, fx.Node) or not isinstance(pieces, (list, tuple)):
        return None
    last = dim in (-1, pieces[0].dim() - 1)
    return whole if last and len(pieces) == 2 and _same_shape_and_dtype(gate, up) else None


def _is_bias(bias: fx.Node, product: fx.Node) -> bool:
    value, out = bias.meta.get("val"), product.meta.get("val")
    if not isinstance(value, torch.Tensor) or not isinstance(out, torch.Tensor):
        return False
    fits = value.dim() == 1 and repr(value.shape[0]) == repr(out.shape[-1])
    return fits and value.dtype in (out.dtype, torch.float32) and out.dtype == value.dtype
