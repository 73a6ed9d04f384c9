"""Models whose weights are replaced, changed or moved while rows decode."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from decoding import PROMPTS, Rows
from torch import nn

from rocmforge_torch import config
from rocmforge_torch.graphs import GraphedDecode
from rocmforge_torch.graphs.watch import ModelWatch
from rocmforge_torch.models import CausalLM, load_model

Change = Callable[[CausalLM, CausalLM], Any]


def swap_data(model: CausalLM, other: CausalLM) -> None:
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        mine.data = theirs.data.clone()


def swap_layer(model: CausalLM, other: CausalLM) -> None:
    model.layers[2] = other.layers[2]


def swap_one_buffer(model: CausalLM, other: CausalLM) -> None:
    model.layers[4].mlp.down.qweight = other.layers[4].mlp.down.qweight.clone()


def swap_tensors(model: CausalLM, other: CausalLM) -> None:
    """As load_state_dict does under torch.__future__.set_swap_module_params_on_conversion."""
    mine = model.layers[4].mlp.down.qweight
    torch.utils.swap_tensors(mine, other.layers[4].mlp.down.qweight.clone())


def assign(model: CausalLM, other: CausalLM) -> None:
    model.load_state_dict(other.state_dict(), assign=True)


def exact(model: CausalLM, other: CausalLM) -> None:
    config.exact = not config.exact


REPLACING: list[Change] = [swap_data, swap_layer, swap_one_buffer, swap_tensors, assign, exact]


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


def test_modules_that_change_are_noticed() -> None:
    fresh = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.LayerNorm(2)})
    watch = ModelWatch(fresh.modules())
    fresh["a"].register_parameter("bias", None)
    assert not watch.unchanged()
    watch = ModelWatch(fresh.modules())
    fresh["a"] = nn.Identity()
    assert not watch.unchanged()
    watch = ModelWatch(fresh.modules())
    fresh["b"].double()
    assert not watch.unchanged()
    watch = ModelWatch(fresh.modules())
    config.exact = not config.exact  # it chooses kernels
    assert not watch.unchanged()


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
