"""Stock modules holding `GGUFTensor` weights: loading, moving, tying, compiling, training."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rocmforge_torch import GGUFTensor, config
from tests.tensor.quantized import quantized

VOCABULARY, WIDTH, HIDDEN = 40, 64, 96


class Tied(nn.Module):
    """An embedding, two linear layers with a side path to train, and the embedding as output."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.up = nn.Linear(WIDTH, HIDDEN)
        self.norm = nn.LayerNorm(HIDDEN)
        self.side = nn.Linear(WIDTH, HIDDEN)
        self.down = nn.Linear(HIDDEN, WIDTH, bias=False)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        x = x + self.down(F.silu(self.norm(self.up(x) + self.side(x))))
        return self.head(x) + x @ self.embed.weight.t()


QUANTIZED = ("embed.weight", "up.weight", "down.weight", "head.weight")


def state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    values = Tied().state_dict()
    values.update({name: quantized("Q8_0", *values[name].shape) for name in QUANTIZED})
    return values


def models() -> tuple[Tied, Tied]:
    """The same model twice, with quantized and with dequantized weights."""
    with torch.device("meta"):
        model = Tied()
    model.load_state_dict(state(), assign=True)
    model.head.weight = model.embed.weight
    dense = Tied()
    dense.load_state_dict(state())  # copies values, so that it dequantizes
    for made in (model, dense):
        made.requires_grad_(False)
        made.side.requires_grad_()
    return model, dense


@pytest.fixture(autouse=True)
def nothing_compiled() -> None:
    torch._dynamo.reset()  # else the tests here share one limit of recompilations


@pytest.fixture
def ids() -> Tensor:
    return torch.tensor([[1, 2, 3], [0, 39, 7]])


def close(found: Any, expected: Any) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_assigned_state(ids: Tensor) -> None:
    layer = nn.Linear(WIDTH, HIDDEN)
    weight = quantized("Q8_0", HIDDEN, WIDTH)
    layer.load_state_dict({"weight": weight, "bias": torch.zeros(HIDDEN)}, assign=True)
    assert isinstance(layer.weight, GGUFTensor)
    assert isinstance(layer.weight, nn.Parameter)
    assert layer.weight.qweight is not None
    assert layer.weight.qweight.data_ptr() == weight.qweight.data_ptr()


@pytest.mark.usefixtures("exact")
def test_forward_and_backward(ids: Tensor) -> None:
    for found, expected in zip(*(_gradients(model, ids) for model in models()), strict=True):
        close(found, expected)


def _gradients(model: Callable[..., Tensor], ids: Tensor, module: Any = None) -> list[Tensor]:
    out = model(ids)
    trained = [p for p in (module or model).parameters() if p.requires_grad]
    return [out, *torch.autograd.grad(out.square().mean(), trained)]


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.usefixtures("exact")
def test_compiled(backend: str, ids: Tensor) -> None:
    model = models()[0]
    compiled = torch.compile(model, backend=backend, fullgraph=True, dynamic=True)
    for batch in (ids, ids.repeat(3, 2)):
        found, expected = _gradients(compiled, batch, model), _gradients(model, batch)
        for a, b in zip(found, expected, strict=True):
            close(a, b)


@pytest.mark.parametrize("backend", ["inductor", "rocmforge"])
@pytest.mark.usefixtures("exact")
def test_compiled_to_code(backend: str, ids: Tensor) -> None:
    model = nn.Sequential(models()[0].embed, models()[0].up)
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    with torch.no_grad():
        close(compiled(ids), model(ids))


@pytest.mark.usefixtures("exact")
def test_compiled_with_weights_that_require_gradients(ids: Tensor) -> None:
    model = models()[0].requires_grad_()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    for a, b in zip(_gradients(compiled, ids, model), _gradients(model, ids), strict=True):
        assert type(a) is Tensor
        close(a, b)


@pytest.mark.usefixtures("exact")
def test_compiled_for_weights_of_any_shape() -> None:
    def act(x: Tensor, w: Tensor) -> Tensor:
        a, b = w.chunk(2)
        return F.linear(x, a) * F.linear(x, b) + x @ torch.cat([b, a])[: a.shape[0]].t()

    compiled = torch.compile(act, backend="aot_eager", fullgraph=True, dynamic=True)
    for n, k in ((64, 256), (96, 512), (32, 768)):
        x, w = torch.randn(3, k), quantized("Q8_0", n, k)
        close(compiled(x, w), act(x, w))


def test_compiled_copy() -> None:
    compiled = torch.compile(lambda a, b: a.copy_(b), backend="aot_eager", fullgraph=True)
    source, target = quantized(), torch.zeros_like(quantized())
    compiled(target, source)
    assert torch.equal(target, source)
    compiled(target, source.dequantize())
    assert torch.equal(target, source)


@pytest.mark.usefixtures("exact")
def test_checkpointed(ids: Tensor) -> None:
    model = models()[0]
    again = _gradients(lambda ids: checkpoint(model, ids, use_reentrant=False), ids, model)
    for a, b in zip(again, _gradients(model, ids), strict=True):
        close(a, b)


def test_tied_weights_stay_tied(ids: Tensor) -> None:
    model = models()[0]
    for made in (copy.deepcopy(model), copy.deepcopy(model).half(), copy.deepcopy(model).float()):
        assert made.head.weight is made.embed.weight
        assert isinstance(made.head.weight, GGUFTensor)
    empty = copy.deepcopy(model).to("meta").to_empty(device="cpu")
    assert empty.head.weight is empty.embed.weight
    empty.load_state_dict(model.state_dict())
    close(empty(ids), model(ids))


def test_moved_and_cast() -> None:
    model = models()[0].to(torch.bfloat16)
    assert (model.up.weight.dtype, model.norm.weight.dtype) == (torch.bfloat16, torch.bfloat16)
    assert torch.equal(model.up.weight.qweight, state()["up.weight"].qweight)
    assert model(torch.tensor([[1, 2]])).dtype == torch.bfloat16


@pytest.mark.parametrize("swap", [False, True])
def test_state_dict_round_trip(swap: bool, ids: Tensor) -> None:
    model, file = models()[0], io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    other = copy.deepcopy(model)
    for parameter in other.parameters():
        parameter.data.copy_(torch.zeros(parameter.shape))
    torch.__future__.set_swap_module_params_on_conversion(swap)
    try:
        other.load_state_dict(loaded)
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)
    assert torch.equal(other(ids), model(ids))


def test_functional_call(ids: Tensor) -> None:
    model = models()[0]
    found = torch.func.functional_call(model, dict(model.named_parameters()), ids)
    assert torch.equal(found, model(ids))


def test_fake_tensors() -> None:
    from torch._subclasses import FakeTensorMode

    mode = FakeTensorMode()
    weight = mode.from_tensor(quantized())
    assert isinstance(weight, GGUFTensor)
    with mode:
        assert F.linear(torch.randn(2, 512), weight).shape == (2, 6)
        assert (torch.randn(2, 512) @ weight.t()).shape == (2, 6)


OPS: dict[str, tuple[Any, Callable[[Tensor, Any], tuple[Any, ...]]]] = {
    "mm": (torch.ops.aten.mm.default, lambda x, w: (x, w.t())),
    "addmm": (torch.ops.aten.addmm.default, lambda x, w: (torch.ones(6), x, w.t())),
    "mv": (torch.ops.aten.mv.default, lambda x, w: (w, x[0])),
    "t": (torch.ops.aten.t.default, lambda x, w: (w,)),
    "slice": (torch.ops.aten.slice.Tensor, lambda x, w: (w, 0, 1, 3)),
    "clone": (torch.ops.aten.clone.default, lambda x, w: (w,)),
    "cat": (torch.ops.aten.cat.default, lambda x, w: ([w, w],)),
    "embedding": (torch.ops.aten.embedding.default, lambda x, w: (w, torch.tensor([1, 5]))),
}


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.filterwarnings("ignore:.*has no quantized form")
@pytest.mark.usefixtures("exact")
def test_opcheck(name: str, requires_grad: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "fallback", "dequantize")  # opcheck compares values
    op, arguments = OPS[name]
    x = torch.randn(2, 512, requires_grad=requires_grad)
    torch.library.opcheck(op, arguments(x, quantized()))
