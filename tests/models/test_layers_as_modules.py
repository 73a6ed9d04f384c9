"""`model.layers[i]` as plain modules: called alone, hooked, replaced, taken out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import TINY, build, write_gguf
from torch import Tensor, nn

from rocmforge_torch import load_model
from rocmforge_torch.graphs import GraphedDecode
from rocmforge_torch.models import CausalLM

IDS = torch.tensor([[5, 9, 33, 2, 71, 8, 8, 40, 12], [1, 2, 3, 4, 5, 6, 7, 8, 9]])
NAMES = ("llama", "gemma3", "granite", "stablelm-12b", "olmo2")
pytestmark = pytest.mark.usefixtures("exact")


@pytest.fixture(params=NAMES)
def twins(request: Any, tmp_path: Path) -> tuple[Any, CausalLM]:
    theirs = build(TINY[request.param])
    return theirs, load_model(write_gguf(TINY[request.param], theirs, tmp_path / "tiny.gguf"))


class Skip(nn.Module):
    """Stands for a layer that does nothing."""

    def forward(self, x: Tensor, step: Any, cache: Any) -> Tensor:
        return x


@torch.inference_mode()
def test_layers_called_alone_make_up_the_model(twins: tuple[Any, CausalLM]) -> None:
    _, model = twins
    x = model.token_embd(IDS) * model.config.embedding_scale
    for layer in model.layers:
        x = layer(x)
    assert torch.equal(model.logits(model.output_norm(x)), model(IDS))


@torch.inference_mode()
@pytest.mark.parametrize("index", [0, 1, -1])
def test_a_layer_less_is_transformers_without_it(twins: tuple[Any, CausalLM], index: int) -> None:
    theirs, ours = twins
    ours.layers[index] = Skip()
    theirs.model.layers[index].forward = lambda x, *args, **kwargs: x
    want = theirs(IDS).logits
    torch.testing.assert_close(ours(IDS), want, rtol=1e-4, atol=1e-4)
    cache = ours.new_cache(2, 12, torch.float32)
    parts = [ours(IDS[:, :6], cache), ours(IDS[:, 6:], cache)]
    torch.testing.assert_close(torch.cat(parts, 1), want, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_a_hook_changes_what_follows(twins: tuple[Any, CausalLM]) -> None:
    """Steering: a vector added to the output of one layer."""
    theirs, ours = twins
    direction = torch.randn(ours.config.hidden_size, generator=torch.Generator().manual_seed(2))
    ours.layers[1].register_forward_hook(lambda module, args, output: output + direction)

    def steer(module: Any, args: Any, output: Any) -> Any:
        return output + direction if isinstance(output, Tensor) else (output[0] + direction,)

    theirs.model.layers[1].register_forward_hook(steer)
    torch.testing.assert_close(ours(IDS), theirs(IDS).logits, rtol=1e-4, atol=1e-4)


def wrapped(layer: nn.Module, calls: list[int]) -> Any:
    original = layer.forward

    def forward(*args: Any) -> Any:
        calls.append(1)
        return original(*args)

    return forward


@torch.inference_mode()
def test_whoever_wraps_a_layer_is_called(twins: tuple[Any, CausalLM]) -> None:
    """As accelerate does it: the method itself is replaced."""
    _, model = twins
    want, calls = model(IDS), []  # type: ignore[var-annotated]
    model.layers[1].forward = wrapped(model.layers[1], calls)
    assert torch.equal(model(IDS), want)
    assert calls == [1]


def test_a_hooked_model_decodes_eagerly(twins: tuple[Any, CausalLM]) -> None:
    _, model = twins
    decode = GraphedDecode(model, 1, 8)
    decode._reason = None  # as on a GPU
    model.layers[0].register_forward_hook(lambda *args: None)
    from rocmforge_torch.generate import Sampler, SamplingParams

    rows = Sampler(SamplingParams(seed=1), 1).rows
    with pytest.warns(RuntimeWarning, match="forward hooks, which a replay would not call"):
        decode.join([0], [3], [0], rows)
    assert "forward hooks" in str(decode.reason)
