"""Products of one input with several weights become one product and a split."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.passes.infra.pass_base import PassResult

from rocmforge_torch import ops  # noqa: F401  (registers the operators)
from rocmforge_torch.fx.attributes import attribute_of, new_attribute
from rocmforge_torch.fx.behaviour import bind
from rocmforge_torch.fx.memory import Memory, Versions
from rocmforge_torch.fx.nested import graph_modules, run_nested
from rocmforge_torch.fx.overloads import resolve_overloads
from rocmforge_torch.fx.stacking import stack_rows
from rocmforge_torch.quant_types import row_elements

getitem = operator.getitem
quant_matmul = torch.ops.rocmforge.quant_matmul.default
pack_weight = torch.ops.rocmforge.pack_weight.default
unpack_weight = torch.ops.rocmforge.unpack_weight.default
split = torch.ops.aten.split_with_sizes.default
# The CPU computes products of fewer multiplications exactly (csrc/ops/quant_product_cpu.cpp).
SMALL_PRODUCT = 1 << 17
RESHAPES: dict[Any, Any] = {
    torch.ops.aten.view: torch.ops.aten.reshape,
    torch.ops.aten.view.default: torch.ops.aten.reshape.default,
    torch.ops.aten._unsafe_view.default: torch.ops.aten.reshape.default,
    "view": "reshape",
}
# Whose meaning depends on the strides of what they are given.
READS_STRIDES = {
    torch.ops.aten.as_strided.default,
    torch.ops.aten.view.dtype,
    torch.ops.aten.view_as_complex.default,
    torch.as_strided,
    torch.view_as_complex,
    *("as_strided", "data_ptr", "is_contiguous", "storage_offset", "stride"),
}


@dataclass(frozen=True)
class Constants:
    """The tensors that stay what they are from one run to the next.

    Attributes:
        tensor_of: the tensor that a node yields, or one like it; None if it is no such node.
        stack: makes one node of several, for their rows one after the other.
        stack_packed: the same for weights of a GGML type that are packed; None if they stay apart.
    """

    tensor_of: Callable[[fx.Node], Tensor | None]
    stack: Callable[[fx.GraphModule, list[fx.Node]], fx.Node]
    stack_packed: Callable[[fx.GraphModule, list[fx.Node], int], fx.Node] | None = None


def _attribute(node: fx.Node) -> Tensor | None:
    return attribute_of(node) if node.op == "get_attr" else None


def _stack_attributes(gm: fx.GraphModule, nodes: list[fx.Node]) -> fx.Node:
    whole = stack_rows([attribute_of(node) for node in nodes])
    return gm.graph.get_attr(new_attribute(gm, "merged", whole))


def _stack_packed_attributes(gm: fx.GraphModule, nodes: list[fx.Node], qtype: int) -> fx.Node:
    # The planes of packed matrices do not follow each other: by way of blocks.
    parts = [unpack_weight(attribute_of(node), qtype) for node in nodes]
    whole = pack_weight(torch.cat(parts), qtype)
    return gm.graph.get_attr(new_attribute(gm, "merged", whole))


ATTRIBUTES = Constants(_attribute, _stack_attributes, _stack_packed_attributes)


@dataclass(frozen=True)
class Product:
    """A quant_matmul node over a constant weight.

    Attributes:
        node: the product.
        x, weight, bias: its arguments; `qweight` and `bias_value` are the tensors of the last two.
        qtype, layout: the GGML type number, and the layout of the weight.
    """

    node: fx.Node
    x: fx.Node
    weight: fx.Node
    qtype: int
    layout: int
    bias: fx.Node | None
    qweight: Tensor
    bias_value: Tensor | None


def product_of(node: fx.Node, memory: Memory, constants: Constants = ATTRIBUTES) -> Product | None:
    """The product that `node` is, if its weight and bias are constants that nothing writes."""
    if node.target is not quant_matmul:
        return None
    bound: dict[str, Any] = {"bias": None, "layout": 0} | (bind(quant_matmul._schema, node) or {})
    x, weight, bias = bound["x"], bound["qweight"], bound["bias"]
    qweight = constants.tensor_of(weight)
    if qweight is None or memory.group(weight) in memory.written:
        return None
    if bound["layout"] == 1 and constants.stack_packed is None:
        return None
    bias_value = None
    if bias is not None:
        bias_value = constants.tensor_of(bias)
        if bias_value is None or memory.group(bias) in memory.written:
            return None
    return Product(node, x, weight, bound["qtype"], bound["layout"], bias, qweight, bias_value)


def merge_products(gm: fx.GraphModule, constants: Constants = ATTRIBUTES) -> PassResult:
    """q, k and v, or gate and up: weights of one type with the same input are stacked once, ahead
    of execution, and their products are views of one.

    The rows of a product do not depend on each other, so that values stay the same to the bit; on
    the CPU products that are computed exactly because they are small stay so. A view of a wider row
    has other strides: a product that leaves the graph stays on its own. So does one whose weight
    anything else reads, in any graph, which would be there twice. Nested graphs are treated one by
    one.
    """
    for module in graph_modules(gm):
        resolve_overloads(module)
    return run_nested(gm, lambda module: _merge_in(module, graph_modules(gm), constants))


def _merge_in(gm: fx.GraphModule, everywhere: list[fx.GraphModule], constants: Constants) -> bool:
    memory = Memory(gm.graph)
    groups: dict[Hashable, list[Product]] = {}
    for like, product in mergeable(gm, memory, constants):
        groups.setdefault((like, product.qtype), []).append(product)
    apart = map(_of_several_weights, groups.values())
    several = [p for p in apart if len(p) > 1 and _same_arithmetic(p)]
    merged = without_other_readers(everywhere, several, constants)
    stacks: dict[Hashable, fx.Node] = {}
    for product in [product for products in merged for product in products]:
        _accept_strides(product.node, memory)
    for products in merged:
        _merge(gm, products, constants, stacks)
    return bool(merged)


def _of_several_weights(products: list[Product]) -> list[Product]:
    """Those over weights that only one of them has; equal products are another pass's."""
    counts = Counter(id(product.qweight) for product in products)
    return [product for product in products if counts[id(product.qweight)] == 1]


def mergeable(
    gm: fx.GraphModule, memory: Memory, constants: Constants = ATTRIBUTES
) -> Iterator[tuple[Hashable, Product]]:
    """Products that may become one, each with what those must have in common, the type aside.

    (That nothing else reads their weights is another condition.)
    """
    versions = Versions(memory)
    for node in gm.graph.nodes:
        versions.step(node)
        product = product_of(node, memory, constants)
        group = memory.group(node)
        if product is None or group in memory.escaping or group in memory.written:
            continue
        if any(_reads_strides(user) for user in _aliases(node, memory)):
            continue
        bias = product.bias_value
        yield (
            (
                product.x,
                versions.of(product.x),
                row_elements(product.qtype, product.qweight.shape[1]),
                product.qweight.device,
                product.layout,
                None if bias is None else (bias.dtype, bias.device),
                _is_small(product),
            ),
            product,
        )


def _multiplications(product: Product, rows: int) -> int:
    return rows * product.qweight.shape[0] * row_elements(product.qtype, product.qweight.shape[1])


def _rows_of_x(product: Product) -> int | None:
    """How many rows the product has; None where that changes or is not known."""
    value = product.node.meta.get("val")
    if not isinstance(value, Tensor) or not isinstance(value.numel(), int):
        return None
    return value.numel() // product.qweight.shape[0]


def _is_small(product: Product) -> bool | None:
    """Whether it is computed exactly; None where that depends on how many rows x has."""
    if product.qweight.device.type != "cpu" or _multiplications(product, 1) >= SMALL_PRODUCT:
        return False
    rows = _rows_of_x(product)
    return None if rows is None else _multiplications(product, rows) < SMALL_PRODUCT


def _same_arithmetic(products: list[Product]) -> bool:
    """Whether the stack of the weights is multiplied as each of them is."""
    if not _is_small(products[0]):
        return _is_small(products[0]) is False
    rows = _rows_of_x(products[0])
    return rows is not None and sum(_multiplications(p, rows) for p in products) < SMALL_PRODUCT


def without_other_readers(
    everywhere: list[fx.GraphModule], groups: list[list[Product]], constants: Constants
) -> list[list[Product]]:
    """The groups whose weights nothing reads but products of groups over the same weights."""
    readers: dict[int, set[fx.Node]] = {}
    for node in [node for gm in everywhere for node in gm.graph.nodes]:
        tensor = constants.tensor_of(node)
        if tensor is not None:
            readers.setdefault(id(tensor), set()).update(node.users)
    same: dict[Hashable, list[list[Product]]] = {}
    for products in groups:
        same.setdefault(tuple(id(p.qweight) for p in products), []).append(products)
    free = []
    for alike in same.values():
        ours = {p.node for products in alike for p in products}
        if all(readers[id(p.qweight)] <= ours for p in alike[0]):
            free += alike
    return free


def _merge(
    gm: fx.GraphModule,
    products: list[Product],
    constants: Constants,
    stacks: dict[Hashable, fx.Node],
) -> None:
    first = products[0]

    def stack(nodes: list[fx.Node], layout: int) -> fx.Node:
        key = tuple(id(constants.tensor_of(node)) for node in nodes)
        if key not in stacks:
            if layout == 1 and constants.stack_packed is not None:
                stacks[key] = constants.stack_packed(gm, nodes, first.qtype)
            else:
                stacks[key] = constants.stack(gm, nodes)
        return stacks[key]

    biases = [p.bias for p in products if p.bias is not None]
    start = next(n for n in gm.graph.nodes if n.op != "placeholder")
    with gm.graph.inserting_before(start):  # where products of the same weights can see it
        weight = stack([p.weight for p in products], first.layout)
        bias = stack(biases, 0) if biases else None
    with gm.graph.inserting_before(first.node):
        given = (first.x, weight, first.qtype, bias, first.layout)
        whole = gm.graph.call_function(quant_matmul, given)
        sizes = [p.qweight.shape[0] for p in products]
        parts = gm.graph.call_function(split, (whole, sizes, -1))
        views = [gm.graph.call_function(getitem, (parts, i)) for i in range(len(products))]
    for product, view in zip(products, views, strict=True):
        product.node.replace_all_uses_with(view)
        gm.graph.erase_node(product.node)


def _aliases(node: fx.Node, memory: Memory) -> Iterator[fx.Node]:
    """The nodes that view `node`, and their readers."""
    for user in node.users:
        yield user
        if node in memory.behaviours[user].aliases:
            yield from _aliases(user, memory)


def _reads_strides(node: fx.Node) -> bool:
    if node.op == "call_module":
        return False
    if node.target in READS_STRIDES:
        return True
    given = [*node.args, *node.kwargs.values()]
    is_view = node.target in ("view", torch.ops.aten.view)
    return is_view and any(isinstance(a, torch.dtype) for a in given)


def _accept_strides(node: fx.Node, memory: Memory) -> None:
    """A `view` that needed contiguous rows becomes a `reshape`."""
    for user in _aliases(node, memory):
        if user.op != "call_module":
            user.target = RESHAPES.get(user.target, user.target)
