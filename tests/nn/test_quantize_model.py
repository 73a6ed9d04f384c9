"""`quantize_` turns a model's weights into blocks in place, and says what it left out."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch import nn

import rocmforge_torch
from rocmforge_torch import GGUFTensor, quantize_
from rocmforge_torch.quant_types import quant_type

Q8_0 = quant_type("Q8_0").id


def model() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 100), nn.Linear(100, 32))


def test_linear_layers_in_place() -> None:
    made, before = model(), model()
    biases = [made[i].bias for i in (0, 2)]
    with pytest.warns(UserWarning, match="quantize_") as caught:
        assert quantize_(made, "Q8_0") is None
    assert str(caught[0].message) == (
        "quantize_ to Q8_0 skipped 3 (rows of 100 elements are no multiple of Q8_0's block of 32)"
    )
    assert caught[0].filename == __file__
    for i in (0, 2):
        weight = made[i].weight
        assert isinstance(weight, GGUFTensor)
        assert isinstance(weight, nn.Parameter)
        assert not weight.requires_grad
        blocks = torch.ops.rocmforge.quantize(before[i].weight.detach(), Q8_0)
        assert torch.equal(weight.qweight, blocks)
    assert biases[0] is made[0].bias
    assert torch.equal(made[3].weight, before[3].weight)
    x = torch.randn(5, 256)
    scale = before(x).abs().max()
    torch.testing.assert_close(made(x), before(x), rtol=0, atol=0.02 * scale.item())


def test_a_filter_chooses_by_module_and_name() -> None:
    made = nn.ModuleDict({"a": nn.Linear(32, 8), "b": nn.Linear(32, 8), "e": nn.Embedding(9, 32)})
    quantize_(made, Q8_0, lambda module, name: name in ("b", "e"))
    assert [isinstance(m.weight, GGUFTensor) for m in made.values()] == [False, True, True]
    assert made["e"](torch.tensor([1])).shape == (1, 32)


def test_tied_weights_stay_tied() -> None:
    made = nn.ModuleDict({"embed": nn.Embedding(9, 32), "head": nn.Linear(32, 9, bias=False)})
    made["head"].weight = made["embed"].weight
    quantize_(made, "Q4_0")
    assert isinstance(made["head"].weight, GGUFTensor)
    assert made["head"].weight is made["embed"].weight


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (lambda: nn.Embedding(9, 32, max_norm=1.0), "max_norm writes to its weight"),
        (lambda: nn.Linear(32, 8).double(), r"the weight is torch\.float64"),
        (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(32, 8)), "is no parameter of"),
        (lambda: nn.LazyLinear(8), "the weight is a UninitializedParameter already"),
    ],
)
def test_what_is_skipped_keeps_its_weight(layer: Any, reason: str) -> None:
    made = layer()
    with pytest.warns(UserWarning, match=reason):
        quantize_(made, "Q8_0", lambda module, name: True)
    assert not isinstance(made.weight, GGUFTensor)


def test_what_is_quantized_already_is_skipped() -> None:
    made = nn.Linear(256, 8)
    quantize_(made, "Q4_K")
    with pytest.warns(UserWarning, match="the weight is a GGUFTensor of Q4_K already"):
        quantize_(made, "Q8_0")
    assert made.weight.qtype == quant_type("Q4_K").id


def test_many_names_are_counted() -> None:
    made = nn.Sequential(*(nn.Linear(33, 33) for _ in range(5)))
    with pytest.warns(UserWarning, match=r"skipped 0, 1, 2 and 2 more \(rows of 33"):
        quantize_(made, "Q8_0")


@pytest.mark.parametrize("qtype", ["IQ1_S", "I32", 99, "Q4"])
def test_types_without_a_quantizer(qtype: Any) -> None:
    with pytest.raises(ValueError, match=r"type with a quantizer|unknown GGML type"):
        quantize_(nn.Linear(256, 8), qtype)


def test_one_layer_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """When a weight is quantized, those before it are gone."""
    made = nn.Sequential(*(nn.Linear(32, 32, bias=False) for _ in range(4)))
    weights = [weakref.ref(layer.weight) for layer in made]
    alive: list[int] = []
    quantized = rocmforge_torch.nn.quantize._quantized

    def counted(*args: Any) -> Any:
        alive.append(sum(ref() is not None for ref in weights))
        return quantized(*args)

    monkeypatch.setattr(rocmforge_torch.nn.quantize, "_quantized", counted)
    quantize_(made, "Q8_0")
    assert alive == [4, 3, 2, 1]


def test_on_the_meta_device() -> None:
    with torch.device("meta"):
        made = nn.Linear(256, 8)
    quantize_(made, "Q4_K")
    assert made.weight.qweight.shape == (8, 144)
    made.to_empty(device="cpu").load_state_dict(nn.Linear(256, 8).state_dict())
    assert made.weight.dequantize().isfinite().all()


def test_attention_of_pytorch() -> None:
    layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True).eval()
    x = torch.randn(2, 5, 64)
    with torch.no_grad():
        before = layer(x)
        quantize_(layer, "Q8_0")
        torch.testing.assert_close(layer(x), before, rtol=0, atol=0.05)


class Adapted(nn.Module):
    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.a = nn.Linear(base.in_features, 4, bias=False)
        self.b = nn.Linear(4, base.out_features, bias=False)
        nn.init.zeros_(self.b.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + self.b(self.a(x))


@pytest.mark.parametrize("compiled", [False, True])
def test_side_modules_train(compiled: bool) -> None:
    torch.manual_seed(0)
    base = nn.Linear(64, 32)
    quantize_(base, "Q4_0")
    made = Adapted(base)
    base.bias.requires_grad_(False)
    step = torch.compile(made, backend="aot_eager", fullgraph=True) if compiled else made
    optimizer = torch.optim.Adam([p for p in made.parameters() if p.requires_grad], 5e-2)
    x, before = torch.randn(64, 64), base.weight.qweight.clone()
    y = base(x) + x @ torch.randn(64, 2) @ torch.randn(2, 32)
    losses = []
    for _ in range(30):
        loss = (step(x) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert torch.equal(base.weight.qweight, before)
