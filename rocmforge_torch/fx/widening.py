"""Small weights take the type of their neighbours where that holds the same numbers."""

from __future__ import annotations

from collections.abc import Hashable

import torch
from torch import Tensor, fx
from torch.fx.passes.infra.pass_base import PassResult

from rocmforge_torch.fx.attributes import attribute_of, new_attribute
from rocmforge_torch.fx.memory import Memory
from rocmforge_torch.fx.nested import graph_modules, run_nested
from rocmforge_torch.fx.overloads import resolve_overloads
from rocmforge_torch.fx.products import (
    ATTRIBUTES,
    Product,
    mergeable,
    pack_weight,
    quant_matmul,
    unpack_weight,
    without_other_readers,
)
from rocmforge_torch.quant_types import QUANT_TYPES

dequantize = torch.ops.rocmforge.dequantize.default
TYPES = {row.name: row.id for row in QUANT_TYPES.values()}
Q8_0 = TYPES["Q8_0"]
# Blocks of 32 like Q8_0's: a float16 scale in front, times whole numbers of 8 bits or fewer.
NARROW = {TYPES[name] for name in ("Q4_0", "Q5_0", "IQ4_NL")}
# A launch takes about as long as reading so many bytes, on the slowest of cards.
LAUNCH_BYTES = 1 << 19


def widen_weights(gm: fx.GraphModule, device_types: tuple[str, ...] = ("cuda",)) -> PassResult:
    """Weights of Q4_0, Q5_0 or IQ4_NL become Q8_0, which holds the same numbers, where products of
    the same input have Q8_0 already: `merge_products` makes one of them then.

    So a layer whose values (in files called Q4_K_M, say, of models that have no rows of 256s) have
    another type than queries and keys needs one launch less. On the given devices, and where all
    weights of a layer together grow by no more than is read during a launch. Weights that anything
    else reads, in any graph, stay.
    """
    everywhere = graph_modules(gm)
    for module in everywhere:
        resolve_overloads(module)
    return run_nested(gm, lambda module: _widen_in(module, everywhere, device_types))


def _widen_in(
    gm: fx.GraphModule, everywhere: list[fx.GraphModule], device_types: tuple[str, ...]
) -> bool:
    groups: dict[Hashable, list[Product]] = {}
    for like, product in mergeable(gm, Memory(gm.graph)):
        if product.qweight.device.type in device_types:
            groups.setdefault(like, []).append(product)
    mixed = [products for products in groups.values() if _is_worth_it(products)]
    made: dict[int, str | None] = {}
    for products in without_other_readers(everywhere, mixed, ATTRIBUTES):
        for product in [p for p in products if p.qtype in NARROW]:
            weight = id(product.qweight)
            if weight not in made:
                wide = _widened(product)
                made[weight] = None if wide is None else new_attribute(gm, "widened", wide)
            if (name := made[weight]) is not None:
                _read(product, name)
    return any(name is not None for name in made.values())


def _is_worth_it(products: list[Product]) -> bool:
    types = {product.qtype for product in products}
    if Q8_0 not in types or not types & NARROW or not types <= NARROW | {Q8_0}:
        return False
    growth = sum(_wide_bytes(p) - p.qweight.nbytes for p in products if p.qtype in NARROW)
    return growth <= LAUNCH_BYTES


def _wide_bytes(product: Product) -> int:
    narrow, wide = QUANT_TYPES[product.qtype], QUANT_TYPES[Q8_0]
    return product.qweight.nbytes // narrow.block_bytes * wide.block_bytes


def _widened(product: Product) -> Tensor | None:
    """The same numbers as Q8_0; None where a scale is no finite number."""
    blocks, qtype = attribute_of(product.weight), product.qtype
    if product.layout == 1:
        blocks = unpack_weight(blocks, qtype)
    numbers = dequantize(blocks, qtype, torch.float32)
    size = QUANT_TYPES[qtype].block_bytes
    scales = blocks.unflatten(-1, (-1, size))[..., :2].contiguous()
    quotients = numbers.unflatten(-1, (-1, 32)) / scales.view(torch.float16).float()
    codes = quotients.nan_to_num(0.0).round().to(torch.int8)  # 0 / 0 where a block is all zeros
    wide = torch.cat([scales, codes.view(torch.uint8)], -1).flatten(-2)
    if not torch.equal(dequantize(wide, Q8_0, torch.float32), numbers):
        return None
    return pack_weight(wide, Q8_0) if product.layout == 1 else wide


def _read(product: Product, name: str) -> None:
    """Have a product read its weight, as Q8_0, from an attribute."""
    node = product.node
    with node.graph.inserting_before(node):
        weight = node.graph.get_attr(name)
    node.args = (product.x, weight, Q8_0, product.bias, product.layout)
    node.kwargs = {}
    assert node.target is quant_matmul
