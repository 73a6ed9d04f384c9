"""What executing a node does besides returning a value: writes, sharing of memory, randomness.

Every pass asks here before it moves, merges or removes a node. The answers come from op schemas
where there is one, from short tables for PyTorch's Python functions, methods and modules, and from
the graph itself for nested GraphModules. What nothing is known about counts as effectful.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.fx.operator_schemas import get_signature_for_torch_op

Schema = torch.FunctionSchema


@dataclass(frozen=True)
class Behaviour:
    """What a node does to its inputs and to the world."""

    writes: frozenset[fx.Node] = frozenset()  # inputs whose memory it changes
    reshapes: frozenset[fx.Node] = frozenset()  # inputs whose shape or strides it changes in place
    aliases: frozenset[fx.Node] = frozenset()  # inputs whose memory its result may share
    is_view: bool = False  # its result certainly shares their memory and reads no element
    is_random: bool = False  # it draws from a random stream
    is_effectful: bool = False  # anything else that must happen, in order
    is_opaque: bool = False  # that may change tensors that it was not given

    @property
    def is_functional(self) -> bool:
        return not (self.writes or self.reshapes or self.is_random or self.is_effectful)


def _unknown(node: fx.Node) -> Behaviour:
    """All that a node may do that nothing is known about: write to its inputs, return one."""
    inputs = tensors_of(node)
    return Behaviour(writes=inputs, aliases=inputs, is_effectful=True, is_opaque=True)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Methods and functions of PyTorch that have no schema under their own name: they change nothing
# and may return their input.
PURE_METHODS = _words(
    "bfloat16 bool char cpu cuda dim double element_size float half int is_contiguous "
    "is_floating_point long ndimension numel short size storage_offset stride type __len__"
)
RESHAPING_METHODS = _words(
    "as_strided_ resize_ resize_as_ set_ squeeze_ swapaxes_ swapdims_ t_ transpose_ unsqueeze_"
)
INPLACE_OPERATORS = frozenset(
    getattr(operator, f"i{name}")
    for name in _words(
        "add and concat floordiv lshift matmul mod mul or pow rshift sub truediv xor"
    )
)
SUBSCRIPTS = (operator.getitem, getattr)
# torch.nn.functional: what is random, and what writes to buffers or weights that it is given.
RANDOM_FUNCTIONS = _words(
    "dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout rrelu "
    "gumbel_softmax fractional_max_pool2d fractional_max_pool3d multi_head_attention_forward "
    "scaled_dot_product_attention"
)
WRITING_FUNCTIONS = _words("batch_norm instance_norm embedding embedding_bag")
# Modules whose forward is a function of input and parameters alone.
PURE_MODULES: tuple[type[torch.nn.Module], ...] = (
    torch.nn.Linear,
    torch.nn.Identity,
    torch.nn.Flatten,
    torch.nn.LayerNorm,
    torch.nn.RMSNorm,
    torch.nn.GroupNorm,
    torch.nn.Conv1d,
    torch.nn.Conv2d,
    torch.nn.Conv3d,
    torch.nn.GELU,
    torch.nn.Tanh,
    torch.nn.Sigmoid,
    torch.nn.Softmax,
    torch.nn.MaxPool2d,
    torch.nn.AvgPool2d,
    torch.nn.AdaptiveAvgPool2d,
)
# Pure unless they were made with inplace=True.
INPLACE_MODULES: tuple[type[torch.nn.Module], ...] = (
    torch.nn.ReLU,
    torch.nn.ReLU6,
    torch.nn.SiLU,
    torch.nn.Hardswish,
    torch.nn.LeakyReLU,
    torch.nn.ELU,
)
# Return their input unless they are in training with p > 0.
DROPOUT_MODULES: tuple[type[torch.nn.Module], ...] = (
    torch.nn.Dropout,
    torch.nn.Dropout1d,
    torch.nn.Dropout2d,
    torch.nn.Dropout3d,
    torch.nn.AlphaDropout,
    torch.nn.FeatureAlphaDropout,
)
# Ops made of other ops that always return new memory.
FRESH_COMPOSITES = _words(
    "linear matmul layer_norm rms_norm group_norm softmax log_softmax conv1d conv2d conv3d "
    "cross_entropy_loss std var outer inner tile one_hot square"
)
# A mutating op that returns new versions of what it would have written to.
FUNCTIONALIZED = _words("auto_functionalized auto_functionalized_v2")
# Ops that change running_mean and running_var though their schemas do not say so, unless the named
# argument is false.
UPDATES_STATISTICS = dict.fromkeys(
    _words(
        "batch_norm native_batch_norm cudnn_batch_norm miopen_batch_norm _batch_norm_impl_index "
        "batch_norm_update_stats batch_norm_gather_stats batch_norm_gather_stats_with_counts"
    ),
    "training",
) | {"instance_norm": "use_input_stats"}
# Ops that return views of their first argument though their schemas do not say so.
UNDECLARED_VIEWS = _words("_unsafe_view unsafe_split unsafe_split_with_sizes lift")
# Control flow: as functional as the graphs it chooses from.
CONTROL_FLOW = _words("cond map_impl while_loop scan invoke_subgraph")


def behaviour_of(node: fx.Node) -> Behaviour:
    """What executing `node` does, conservatively."""
    if node.op in ("placeholder", "get_attr"):
        return Behaviour()
    if node.op == "output":
        return Behaviour(is_effectful=True)
    if node.op == "call_module":
        return _of_module(node, _owner(node).get_submodule(str(node.target)))
    if node.op == "call_method":
        return _of_method(node)
    return _of_function(node)


def is_functional_graph(gm: fx.GraphModule) -> bool:
    """Whether running the graph changes nothing: no write to an input or attribute, no effect."""
    return all(behaviour_of(node).is_functional for node in gm.graph.nodes if node.op != "output")


def tensors_of(node: fx.Node) -> frozenset[fx.Node]:
    return frozenset(node.all_input_nodes)


def _owner(node: fx.Node) -> torch.nn.Module:
    owner = node.graph.owning_module
    assert owner is not None, "the graph belongs to no module"
    return owner


def _of_module(node: fx.Node, module: torch.nn.Module) -> Behaviour:
    inputs = tensors_of(node)
    if isinstance(module, fx.GraphModule):
        return Behaviour(aliases=inputs) if is_functional_graph(module) else _unknown(node)
    if type(module) in PURE_MODULES and not _has_hooks(module):
        return Behaviour(aliases=inputs)
    if type(module) in INPLACE_MODULES and not _has_hooks(module):
        writes = inputs if getattr(module, "inplace", False) else frozenset()
        return Behaviour(writes=writes, aliases=inputs)
    if type(module) in DROPOUT_MODULES and not _has_hooks(module):
        draws = module.training and getattr(module, "p", 1) > 0
        writes = inputs if draws and getattr(module, "inplace", False) else frozenset()
        return Behaviour(writes=writes, aliases=inputs, is_random=draws)
    if isinstance(module, torch.nn.Sequential) and type(module) is torch.nn.Sequential:
        parts = [_of_module(node, part) for part in module]
        if all(part.is_functional for part in parts) and not _has_hooks(module):
            return Behaviour(aliases=inputs)
    return _unknown(node)


def _has_hooks(module: torch.nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _of_method(node: fx.Node) -> Behaviour:
    name = str(node.target)
    self_ = frozenset(n for n in [node.args[0]] if isinstance(n, fx.Node))
    if name in PURE_METHODS:
        return Behaviour(aliases=self_)
    if name in RESHAPING_METHODS:
        return Behaviour(reshapes=self_, aliases=self_)
    packet = getattr(torch.ops.aten, name, None)
    found = _of_schemas(node, _overloads(packet)) if packet is not None else None
    if found is not None:
        return found
    if name.endswith("_") and not name.endswith("__"):
        return Behaviour(writes=self_, aliases=self_, is_random=True)
    return _unknown(node)


def _of_function(node: fx.Node) -> Behaviour:
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        found = _of_schemas(node, [target])
        return found if found is not None else _unknown(node)
    if isinstance(target, torch._ops.OpOverloadPacket):
        found = _of_schemas(node, _overloads(target))
        return found if found is not None else _unknown(node)
    if isinstance(target, torch._ops.HigherOrderOperator):
        return _of_higher_order(node, target)
    if target in SUBSCRIPTS:
        return Behaviour(aliases=tensors_of(node))
    if target in INPLACE_OPERATORS or target is operator.setitem:
        written = frozenset(n for n in node.args[:1] if isinstance(n, fx.Node))
        return Behaviour(writes=written, aliases=written)
    module = getattr(target, "__module__", "")
    if module in ("_operator", "operator", "math", "builtins"):
        # Arithmetic on tensors or sizes makes new values.
        return Behaviour() if module != "builtins" else _of_builtin(node)
    if module == "torch.nn.functional":
        return _of_nn_functional(node)
    return _of_torch_function(node)


def _of_builtin(node: fx.Node) -> Behaviour:
    pure = (abs, max, min, sum, len, int, float, bool, round, tuple, list, slice, pow, divmod)
    return Behaviour(aliases=tensors_of(node)) if node.target in pure else _unknown(node)


def _of_torch_function(node: fx.Node) -> Behaviour:
    name = getattr(node.target, "__name__", "")
    if name.startswith(("sym_", "_sym_")) and getattr(node.target, "__module__", "") == "torch":
        return Behaviour()
    assert callable(node.target)
    if not get_signature_for_torch_op(node.target, return_schemas=True)[1]:
        return _unknown(node)
    packet = getattr(torch.ops.aten, name, None)
    tagged = _overloads(packet) if packet is not None else []
    found = _of_schemas(node, tagged)
    return found if found is not None else _unknown(node)


def _of_nn_functional(node: fx.Node) -> Behaviour:
    inputs = tensors_of(node)
    target: Any = node.target
    name = target.__name__
    if name in WRITING_FUNCTIONS:
        return Behaviour(writes=inputs, aliases=inputs)
    given: dict[str, Any] = dict(node.kwargs)
    try:
        bound = inspect.signature(target).bind(*node.args, **node.kwargs)
        bound.apply_defaults()
        given |= bound.arguments
    except (TypeError, ValueError):
        pass  # a built-in without a Python signature
    return Behaviour(
        writes=inputs if given.get("inplace", False) else frozenset(),
        aliases=inputs,
        is_random=name in RANDOM_FUNCTIONS and given.get("training", True) is not False,
    )


def _of_higher_order(node: fx.Node, target: torch._ops.HigherOrderOperator) -> Behaviour:
    if target.name() in FUNCTIONALIZED:
        return Behaviour()
    if target.name() not in CONTROL_FLOW:
        return _unknown(node)
    graphs = []
    for branch in node.all_input_nodes:
        if branch.op == "get_attr":
            value = operator.attrgetter(str(branch.target))(_owner(node))
            if isinstance(value, torch.nn.Module):
                graphs.append(value)
    functional = graphs and all(
        isinstance(g, fx.GraphModule) and is_functional_graph(g) for g in graphs
    )
    return Behaviour(aliases=tensors_of(node)) if functional else _unknown(node)


def overloads_of(node: fx.Node) -> list[torch._ops.OpOverload]:
    """The overloads that the node may mean; none where it is no op with a schema."""
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        return [target]
    if isinstance(target, torch._ops.OpOverloadPacket):
        return _overloads(target)
    name = target if node.op == "call_method" else getattr(target, "__name__", None)
    if node.op == "call_method" or getattr(target, "__module__", None) in (None, "torch"):
        packet = getattr(torch.ops.aten, str(name), None)
        return _overloads(packet) if packet is not None else []
    return []


def _overloads(packet: Any) -> list[torch._ops.OpOverload]:
    ops = [getattr(packet, name) for name in packet.overloads()]
    # Overloads for lists and numbers of TorchScript have a schema but are not dispatched.
    return [op for op in ops if torch._C._dispatch_has_kernel(op.name())]


def bind(schema: Schema, node: fx.Node) -> dict[str, Any] | None:
    """The node's arguments by the schema's names; None where they do not fit."""
    positional = [a for a in schema.arguments if not a.kwarg_only]
    args = list(node.args)
    if len(args) > len(positional):
        # x.view(4, 6) for x.view([4, 6])
        if not positional or positional[-1].type.kind() != "ListType":
            return None
        args[len(positional) - 1 :] = [args[len(positional) - 1 :]]
    names = {a.name for a in schema.arguments}
    bound: dict[str, Any] = {a.name: v for a, v in zip(positional, args, strict=False)}
    for name, value in node.kwargs.items():
        name = "self" if name == "input" and "self" in names and "input" not in names else name
        if name in bound or name not in names:
            return None
        bound[name] = value
    required = {a.name for a in schema.arguments if not a.has_default_value()}
    return bound if required <= bound.keys() else None


def _of_schemas(node: fx.Node, ops: list[torch._ops.OpOverload]) -> Behaviour | None:
    """The union over the overloads that the node's arguments fit; None where none does."""
    fitting = [(op, bound) for op in ops if (bound := bind(op._schema, node)) is not None]
    if not fitting:
        return None
    parts = [_of_overload(node, op, bound) for op, bound in fitting]
    return Behaviour(
        writes=frozenset().union(*(p.writes for p in parts)),
        reshapes=frozenset().union(*(p.reshapes for p in parts)),
        aliases=frozenset().union(*(p.aliases for p in parts)),
        is_view=all(p.is_view for p in parts),
        is_random=any(p.is_random for p in parts),
        is_effectful=any(p.is_effectful for p in parts),
        is_opaque=any(p.is_opaque for p in parts),
    )


def _of_overload(node: fx.Node, op: torch._ops.OpOverload, bound: dict[str, Any]) -> Behaviour:
    schema = op._schema
    writes: set[fx.Node] = set()
    shared: set[fx.Node] = set()
    for argument in schema.arguments:
        info = argument.alias_info
        if info is None:
            continue
        nodes = set(_nodes_in(bound.get(argument.name)))
        shared |= nodes
        if info.is_write:
            writes |= nodes
    flag = UPDATES_STATISTICS.get(schema.name.removeprefix("aten::"))
    if flag is not None and bound.get(flag) is not False:
        writes |= set(_nodes_in([bound.get("running_mean"), bound.get("running_var")]))
    returns_alias = any(r.alias_info is not None for r in schema.returns)
    if schema.name.removeprefix("aten::") in UNDECLARED_VIEWS:
        returns_alias, shared = True, shared | set(_nodes_in(bound["self"]))
    undeclared = torch.Tag.maybe_aliasing_or_mutating in op.tags or (
        not returns_alias and _is_composite(op)
    )
    reshapes = set(writes) if schema.name.rpartition("::")[2] in RESHAPING_METHODS else set()
    # out= of another shape is resized.
    reshapes |= {n for a in schema.arguments if a.is_out for n in _nodes_in(bound.get(a.name))}
    return Behaviour(
        writes=frozenset(writes),
        reshapes=frozenset(reshapes),
        aliases=tensors_of(node) if undeclared else frozenset(shared if returns_alias else ()),
        is_view=returns_alias and not writes and not _is_composite(op),
        is_random=torch.Tag.nondeterministic_seeded in op.tags,
        is_effectful=_has_effect(op) or (not schema.returns and not schema.is_mutable),
        is_opaque=_has_effect(op),
    )


def _is_composite(op: torch._ops.OpOverload) -> bool:
    """Made of other ops in a way that may return an input: not declared, hence unknown."""
    if op._schema.name.removeprefix("aten::") in FRESH_COMPOSITES:
        return False
    return torch._C._dispatch_has_kernel_for_dispatch_key(op.name(), "CompositeImplicitAutograd")


def _has_effect(op: torch._ops.OpOverload) -> bool:
    """Whether it is registered as effectful. (Asserts and prints are not: they return nothing.)"""
    from torch._higher_order_ops.effects import _get_effect

    return _get_effect(op) is not None


def _nodes_in(value: Any) -> Iterator[fx.Node]:
    if isinstance(value, fx.Node):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _nodes_in(item)
