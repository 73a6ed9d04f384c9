"""Models whose weights are replaced, changed or moved while rows decode."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from decoding import PROMPTS, Rows
from torch import nn

from rocmforge_torch import GGUFTensor, config
from rocmforge_torch.graphs import GraphedDecode
from rocmforge_torch.graphs import watch as watch_module
from rocmforge_torch.graphs.watch import ModelWatch
from rocmforge_torch.models import CausalLM, load_model

Q8_0 = 8
Change = Callable[[CausalLM, CausalLM], Any]


def swap_data(model: CausalLM, other: CausalLM) -> None:
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        mine.data = theirs.data.clone()


def swap_layer(model: CausalLM, other: CausalLM) -> None:
    model.layers[2] = other.layers[2]


def swap_one_buffer(model: CausalLM, other: CausalLM) -> None:
    model.layers[4].mlp.down.qweight = other.layers[4].mlp.down.qweight.clone()


def assign(model: CausalLM, other: CausalLM) -> None:
    model.load_state_dict(other.state_dict(), assign=True)


def exact(model: CausalLM, other: CausalLM) -> None:
    config.exact = not config.exact


REPLACING: list[Change] = [swap_data, swap_layer, swap_one_buffer, assign, exact]


def in_place(model: CausalLM, other: CausalLM) -> None:
    model.load_state_dict({k: v.clone() for k, v in other.state_dict().items()})


@pytest.fixture
def writable(gemma_path: Path, other_path: Path) -> tuple[CausalLM, CausalLM]:
    """Two models whose weights are not those of a file that is mapped."""
    models = load_model(gemma_path), load_model(other_path)
    for model in models:
        state = {key: value.clone() for key, value in model.state_dict().items()}
        model.load_state_dict(state, assign=True)
    return models


@pytest.fixture(autouse=True)
def setting() -> Any:
    before = config.exact
    yield
    config.exact = before


@pytest.mark.parametrize("change", [*REPLACING, in_place], ids=lambda change: change.__name__)
def test_tokens_after_a_change(
    writable: tuple[CausalLM, CausalLM], change: Change, recorded: None
) -> None:
    """They are those of eager steps that see the change at the same time."""
    model, other = writable
    runs = []
    for capture in (False, True):
        decode = GraphedDecode(model, 2, 100, capture=capture)
        rows = Rows(decode)
        rows.start(0, PROMPTS[0], 1)
        rows.start(1, PROMPTS[1], 2)
        runs.append((decode, rows))
    for _, rows in runs:
        rows.steps(5)
    change(model, other)
    for _, rows in runs:
        rows.steps(60)
    assert runs[0][1].tokens == runs[1][1].tokens
    assert runs[1][0].captures == (1 if change is in_place else 2)
    assert runs[1][0].reason is None


@pytest.fixture(params=["compiled", "python"])
def comparison(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to compare; the first is used where the CPU library was built."""
    if request.param == "python":
        monkeypatch.setattr(watch_module, "compiled_comparison", None)
    else:
        assert watch_module.compiled_comparison is not None


@pytest.mark.usefixtures("comparison")
@pytest.mark.parametrize("change", REPLACING[:-1], ids=lambda change: change.__name__)
def test_the_change_matters(writable: tuple[CausalLM, CausalLM], change: Change) -> None:
    """Else the test above would pass whatever a GraphedDecode did."""
    model, other = writable
    watch = ModelWatch(model.modules())
    assert watch.unchanged()
    ids = torch.tensor([PROMPTS[0]])
    with torch.inference_mode():
        before = model(ids)
        change(model, other)
        assert not torch.equal(model(ids), before)
    assert not watch.unchanged()


def rename(fresh: nn.ModuleDict) -> None:
    fresh["a"]._parameters["other"] = fresh["a"]._parameters.pop("bias")


def exchange(fresh: nn.ModuleDict) -> None:
    fresh["b"]._parameters.update(weight=fresh["b"].bias, bias=fresh["b"].weight)


def without_bias(fresh: nn.ModuleDict) -> None:
    fresh["a"].register_parameter("bias", None)


SMALL: list[Callable[[Any], Any]] = [
    without_bias,
    rename,
    exchange,
    lambda fresh: fresh["a"].register_buffer("more", torch.zeros(1)),
    lambda fresh: delattr(fresh["b"], "bias"),
    lambda fresh: fresh.update({"a": nn.Identity()}),
    lambda fresh: fresh.update({"c": nn.Identity()}),
    lambda fresh: fresh.pop("c"),
    lambda fresh: fresh["b"].double(),
    lambda fresh: fresh["b"].to("meta"),
    lambda fresh: fresh["b"].weight.untyped_storage().resize_(0),
    lambda fresh: fresh["b"].requires_grad_(False).weight.set_(torch.zeros(2)),
    lambda fresh: setattr(fresh["b"].weight, "data", torch.zeros(2)),
    lambda fresh: setattr(config, "exact", not config.exact),  # it chooses kernels
]


@pytest.mark.usefixtures("comparison")
@pytest.mark.parametrize("change", SMALL)
def test_modules_that_change_are_noticed(change: Callable[[Any], Any]) -> None:
    fresh = nn.ModuleDict({"c": nn.Dropout(), "a": nn.Linear(2, 2), "b": nn.LayerNorm(2)})
    fresh["a"].register_buffer("scale", None)
    watch = ModelWatch(fresh.modules())
    assert watch.unchanged()
    change(fresh)
    assert not watch.unchanged()
    assert ModelWatch(fresh.modules()).unchanged()


@pytest.mark.usefixtures("comparison")
def test_a_quantized_parameter_that_changes_is_noticed() -> None:
    """Module.to exchanges what is in it with another's: it stays the same object."""
    blocks = torch.zeros(4, 34, dtype=torch.uint8)
    layer = nn.Linear(32, 4)
    layer.weight = nn.Parameter(GGUFTensor(blocks, Q8_0), requires_grad=False)
    watch = ModelWatch(layer.modules())
    was = layer.weight
    layer.to(torch.float16)
    assert layer.weight is was
    assert layer.weight.dtype == torch.float16
    assert not watch.unchanged()
    watch = ModelWatch(layer.modules())
    layer.weight.qweight = blocks.clone()
    assert not watch.unchanged()


@pytest.mark.usefixtures("comparison")
def test_tensors_that_are_watched_cannot_be_exchanged() -> None:
    """Neither by hand nor by load_state_dict under set_swap_module_params_on_conversion: the
    exchange would go unseen."""
    layer = nn.LayerNorm(2)
    watch = ModelWatch(layer.modules())
    with pytest.raises(RuntimeError, match="weakref"):
        torch.utils.swap_tensors(layer.weight, nn.Parameter(torch.zeros(2)))
    assert watch.unchanged()
    del watch
    torch.utils.swap_tensors(layer.weight, nn.Parameter(torch.zeros(2)))


@pytest.mark.usefixtures("recorded")
def test_a_model_that_moved_is_an_error(writable: tuple[CausalLM, CausalLM]) -> None:
    model, _ = writable
    rows = Rows(GraphedDecode(model, 1, 40))
    rows.start(0, PROMPTS[0], 1)
    rows.steps(2)
    model.to("meta")
    with pytest.raises(RuntimeError, match=r"moved from cpu to meta, but the cache .* make a new"):
        rows.steps(1)


def test_memory_of_weights_outlives_them() -> None:
    """A replay that is under way may still read them."""
    layer = nn.Linear(2, 2)
    watch = ModelWatch(layer.modules())
    address, number = layer.weight.data_ptr(), layer.weight[0, 0].item()
    layer.weight.data = torch.zeros(2, 2)
    (kept,) = (t for t in watch._memory if t.data_ptr() == address)
    assert kept[0, 0].item() == number
