"""Weights as Q8_0: the same numbers, one product, and what stays as it is."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, fx, nn

from rocmforge_torch import config
from rocmforge_torch.fx import annotate, merge_products, optimize, widen_weights
from rocmforge_torch.fx.widening import LAUNCH_BYTES
from rocmforge_torch.quant_types import QUANT_TYPES

ops = torch.ops.rocmforge
TYPES = {row.name: row.id for row in QUANT_TYPES.values()}
Q8_0 = TYPES["Q8_0"]
K = 1024  # large enough that the CPU computes with rounded activations
CPU = ("cpu",)


class Several(nn.Module):
    """Products of one input, [rows, K] of the given types."""

    def __init__(self, types: Sequence[str], rows: int = 256, layout: int = 0) -> None:
        super().__init__()
        self.types = [TYPES[name] for name in types]
        self.layout = layout
        for number, qtype in enumerate(self.types):
            blocks = ops.quantize(torch.randn(rows, K), qtype)
            blocks = ops.pack_weight(blocks, qtype) if layout else blocks
            self.register_buffer(f"w{number}", blocks)
            self.register_buffer(f"b{number}", torch.randn(rows))

    def forward(self, x: Tensor) -> Tensor:
        parts = [
            ops.quant_matmul(
                x, self.get_buffer(f"w{i}"), qtype, self.get_buffer(f"b{i}"), self.layout
            )
            for i, qtype in enumerate(self.types)
        ]
        return torch.cat([part * 2 for part in parts], -1)


def trace(module: nn.Module, *inputs: Tensor) -> fx.GraphModule:
    gm = fx.symbolic_trace(module)
    annotate(gm, inputs)
    return gm


def types_of(gm: fx.GraphModule) -> list[int]:
    products = gm.graph.find_nodes(op="call_function", target=ops.quant_matmul.default)
    return [int(node.args[2]) for node in products]


@pytest.mark.parametrize("layout", [0, 1])
@pytest.mark.parametrize("name", ["Q4_0", "Q5_0", "IQ4_NL"])
@pytest.mark.parametrize("rows", [1, 2, 7])
@pytest.mark.parametrize("exact", [False, True])
def test_the_same_values_from_one_product(
    name: str, rows: int, layout: int, exact: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "exact", exact)
    module, x = Several([name, name, "Q8_0"], layout=layout), torch.randn(rows, K)
    gm = trace(module, x)
    assert widen_weights(gm, CPU).modified
    assert types_of(gm) == [Q8_0] * 3
    want = module(x)
    close = 1e-6 * want.abs().max().item()
    torch.testing.assert_close(gm(x), want, rtol=0, atol=close)
    assert merge_products(gm).modified
    assert types_of(gm) == [Q8_0]
    torch.testing.assert_close(gm(x), want, rtol=0, atol=close)
    assert not widen_weights(gm, CPU).modified


@pytest.mark.parametrize("name", ["Q4_0", "Q5_0", "IQ4_NL"])
def test_every_code_and_scale(name: str) -> None:
    """Random bytes, zero, negative, huge and denormal scales: the very same numbers."""
    module = Several([name, "Q8_0"])
    block = QUANT_TYPES[TYPES[name]].block_bytes
    blocks = torch.randint(0, 256, (256, K // 32, block), dtype=torch.uint8)
    scales = torch.randn(256, K // 32).half()
    scales.view(-1)[:5] = torch.tensor([0.0, -0.0, 65504, 6e-8, -6e-5]).half()
    blocks[..., :2] = scales.view(torch.uint8).view(256, -1, 2)
    module.w0 = blocks.flatten(1)
    gm = trace(module, torch.randn(1, K))
    assert widen_weights(gm, CPU).modified
    numbers = [
        ops.dequantize(weight, qtype, torch.float32)
        for weight, qtype in ((module.w0, TYPES[name]), (gm.widened_0, Q8_0))
    ]
    assert torch.equal(*numbers)


def test_scales_that_are_no_number_stay() -> None:
    module = Several(["Q4_0", "Q8_0"])
    module.w0.view(256, K // 32, -1)[3, 5, :2] = 255
    gm = trace(module, torch.randn(1, K))
    assert not widen_weights(gm, CPU).modified
    assert types_of(gm) == module.types


@pytest.mark.parametrize(
    "types", [["Q4_0", "Q4_0"], ["Q4_K", "Q8_0"], ["Q4_0", "Q4_1", "Q8_0"], ["Q8_0"] * 2, ["Q4_0"]]
)
def test_other_types_stay(types: list[str]) -> None:
    gm = trace(Several(types), torch.randn(1, K))
    assert not widen_weights(gm, CPU).modified


def test_large_weights_stay() -> None:
    rows = LAUNCH_BYTES // (K // 32 * 16)  # that Q8_0's blocks of 34 bytes are larger by 16
    for number, changed in ((rows, True), (rows + 1, False)):
        gm = trace(Several(["Q4_0", "Q8_0"], number), torch.randn(1, K))
        assert widen_weights(gm, CPU).modified is changed


def test_a_weight_that_something_else_reads_stays() -> None:
    class Read(Several):
        def forward(self, x: Tensor) -> Tensor:
            ids = (x[0, :1] > 0).long()
            rows = ops.quant_embedding(ids, self.w0, self.types[0], torch.float32)
            return super().forward(x) + rows.sum()

    gm = trace(Read(["Q4_0", "Q8_0"]), torch.randn(1, K))
    assert not widen_weights(gm, CPU).modified


def test_nothing_on_the_cpu_unless_asked() -> None:
    module, x = Several(["Q5_0", "Q8_0"]), torch.randn(1, K)
    assert types_of(optimize(trace(module, x), [x])) == module.types
