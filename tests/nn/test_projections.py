"""Projections of one input in one matrix compute and save what they do apart."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from rocmforge_torch.nn import GatedMLP, Projections, QuantGatedLinear, QuantLinear
from rocmforge_torch.ops import reference
from rocmforge_torch.quant_types import quant_type

pytestmark = pytest.mark.usefixtures("exact")
K = 64


def linear(
    rows: int, name: str = "Q8_0", bias: torch.dtype | None = None, layout: int = 0
) -> QuantLinear:
    qtype = quant_type(name).id
    qweight = reference.quantize(torch.randn(rows, K), qtype)
    shift = None if bias is None else torch.randn(rows).to(bias)
    made = QuantLinear(qweight, qtype, shift)
    return made.pack_() if layout else made


CASES: list[tuple[str, Callable[[], list[QuantLinear]], list[list[int]]]] = [
    ("all", lambda: [linear(8), linear(3), linear(5)], [[8, 3, 5]]),
    ("packed", lambda: [linear(n, "Q4_0", layout=1) for n in (8, 3)], [[8, 3]]),
    ("types", lambda: [linear(8), linear(3), linear(5, "Q4_0")], [[8, 3], [5]]),
    ("not neighbours", lambda: [linear(8), linear(3, "Q4_0"), linear(5)], [[8], [3], [5]]),
    ("biases", lambda: [linear(n, bias=torch.float32) for n in (8, 3)], [[8, 3]]),
    ("a bias", lambda: [linear(8), linear(3, bias=torch.float32), linear(5)], [[8], [3], [5]]),
    ("layouts", lambda: [linear(8), linear(3, layout=1)], [[8], [3]]),
    ("plain", lambda: [linear(8, "F16"), linear(3, "F16"), linear(5, "F32")], [[8, 3], [5]]),
]


@pytest.mark.parametrize(("make", "rows"), [case[1:] for case in CASES], ids=[c[0] for c in CASES])
def test_neighbours_of_a_kind_become_one(
    make: Callable[[], list[QuantLinear]], rows: list[list[int]]
) -> None:
    layers = make()
    x = torch.randn(2, K)
    wanted = torch.cat([layer(x) for layer in layers], -1)
    names = {
        f"{i}.{name}": t for i, layer in enumerate(layers) for name, t in layer.state_dict().items()
    }
    projections = Projections(layers).fuse_()
    assert projections.rows == rows
    assert [layer.out_features for layer in projections] == [sum(part) for part in rows]
    assert torch.equal(torch.cat([layer(x) for layer in projections], -1), wanted)
    state = projections.state_dict()
    assert sorted(state) == sorted(names)
    assert all(torch.equal(state[name], names[name]) for name in names)
    assert projections.fuse_().rows == rows


def test_a_state_dict_holds_views_of_what_is_computed_with() -> None:
    projections = Projections([linear(8), linear(3)]).fuse_()
    state = projections.state_dict()
    state["1.qweight"].zero_()
    assert torch.equal(projections[0](torch.randn(K))[8:], torch.zeros(3))


@pytest.mark.parametrize("layout", [0, 1])
def test_states_move_between_fused_and_not(layout: int) -> None:
    def make() -> nn.ModuleDict:
        layers = [linear(n, "Q4_0", torch.float32, layout) for n in (8, 3, 5)]
        return nn.ModuleDict({"qkv": Projections(layers)})

    apart, fused = make(), make()
    fused["qkv"].fuse_()
    x = torch.randn(2, K)

    def results(module: nn.ModuleDict) -> Tensor:
        return torch.cat([layer(x) for layer in module["qkv"]], -1)

    assert not torch.equal(results(apart), results(fused))
    fused.load_state_dict(apart.state_dict())
    assert torch.equal(results(apart), results(fused))
    other = make()
    other.load_state_dict(fused.state_dict())
    assert torch.equal(results(other), results(fused))
    state = dict(apart.state_dict())
    del state["qkv.0.qweight"]
    state["qkv.9.qweight"] = x
    with pytest.raises(RuntimeError, match=r"(?s)Missing.*qkv\.0\.qweight.*Unexpected.*qkv\.9"):
        fused.load_state_dict(state)


@pytest.mark.parametrize("activation", ["silu", "gelu"])
@pytest.mark.parametrize("bias", [None, torch.float32])
def test_a_fused_gated_mlp_is_the_same_function(activation: str, bias: torch.dtype | None) -> None:
    layers = [linear(32, bias=bias), linear(32, bias=bias)]
    down = QuantLinear(reference.quantize(torch.randn(K, 32), 8), 8)
    mlp = GatedMLP(layers, down, activation)
    fused = copy.deepcopy(mlp).fuse_()
    assert isinstance(fused.gate_up[0], QuantGatedLinear)
    x = (torch.randn(3, K) / 8).requires_grad_()
    assert torch.equal(fused(x), mlp(x))
    grads = [torch.autograd.grad(module(x).square().sum(), x)[0] for module in (mlp, fused)]
    size = float(grads[0].abs().max())
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-4, atol=1e-5 * size)
    seen: list[torch.Size] = []
    fused.gate_up[0].register_forward_hook(lambda module, args, out: seen.append(out.shape))
    fused(x)
    assert seen == [(3, 32)]


def test_one_matrix_of_a_file_is_fused_too() -> None:
    down = QuantLinear(reference.quantize(torch.randn(K, 32), 8), 8)
    mlp = GatedMLP([linear(64)], down, "silu")
    x = torch.randn(3, K)
    wanted = mlp(x)
    assert torch.equal(mlp.fuse_()(x), wanted)
    assert isinstance(mlp.gate_up[0], QuantGatedLinear)
    assert list(mlp.state_dict()) == ["gate_up.0.qweight", "down.qweight"]


def test_a_gated_mlp_of_two_types_stays() -> None:
    down = QuantLinear(reference.quantize(torch.randn(K, 32), 8), 8)
    mlp = GatedMLP([linear(32), linear(32, "Q4_0")], down, "silu")
    x = torch.randn(3, K)
    wanted = mlp(x)
    assert torch.equal(mlp.fuse_()(x), wanted)
    assert len(mlp.gate_up) == 2
